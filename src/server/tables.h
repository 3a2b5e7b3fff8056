// Tables of fields, and what the generating routes share. Thread-safe.
#pragma once

#include "api/reply_constraint.h"
#include "server/generation.h"

namespace tessera::server {

extern const FieldTable kChatTable;
extern const FieldTable kCompletionTable;
extern const FieldTable kResponsesTable;
extern const FieldTable kMessagesTable;
extern const FieldTable kTokenizeTable;
extern const FieldTable kDetokenizeTable;

// "max_completion_tokens" or "max_tokens"; 0: neither.
int64_t read_max_tokens(const OrderedJson& body);
// What a body of /v1/messages, checked against its table, asks for.
struct MessagesInput {
  ConversationInput conversation;
  ReplyShape shape;
  bool thinking = true;  // shown
};
MessagesInput read_messages_body(OrderedJson& body);
// Fills the question's prompt, constraint and rules for calls. Throws HttpError 400.
void ask_chat(Service& service, Question& question, ConversationInput& input, ReplyShape& shape);
// 400 context_length_exceeded for a prompt that fills the context.
void check_context(const Service& service, const Question& question, const char* param);

}  // namespace tessera::server

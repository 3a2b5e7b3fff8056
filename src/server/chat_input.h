// Chat requests as clients write them: messages, tools, the choice of tools and the answer's format, checked field by
// field and brought into the shape that the service takes. Throws HttpError 400 naming the field.
#pragma once

#include "api/chat_prompt.h"
#include "api/reply_constraint.h"
#include "server/fields.h"

namespace tessera::server {

// An array of {role, content, name?, reasoning_content?, tool_calls?, tool_call_id?}; contents become strings.
OrderedJson read_chat_messages(OrderedJson& messages, const std::string& where = "messages");

// A message's content: a string, or text parts joined.
std::string content_text(OrderedJson& content, const std::string& where);

// An array of {type: function, function: {name, description?, parameters?}}. `strict` in them needs nothing more: calls
// always follow their schema.
OrderedJson read_tools(OrderedJson& tools);
void check_function(OrderedJson& function, const std::string& where);

// "tool_choice", "parallel_tool_calls", "response_format" and "structured_outputs" of a chat completion. `tools` as
// read_tools gives them. tools of the prompt are `shape.tools`: none with tool_choice none.
ReplyShape read_shape(OrderedJson& body, OrderedJson tools);
// tool_choice: "none", "auto", "required"; or `named` is the function's name.
void apply_choice(ReplyShape& shape, const std::string& choice, const std::string& param);
void apply_named(ReplyShape& shape, const std::string& name, const std::string& param);
// {type: text | json_object | json_schema, ...}; `format` holds name, schema, strict of a json_schema.
void apply_format(ReplyShape& shape, const std::string& type, OrderedJson& format, const std::string& where);

// The error of a shape that cannot be compiled: its message begins with the field, or all of the grammar is too large.
HttpError shape_error(const Error& e, const ReplyShape& shape);

}  // namespace tessera::server

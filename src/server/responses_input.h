// Requests of /v1/responses: items to chat messages, and the tools and formats that are written differently there.
// Throws HttpError 400 naming the field.
#pragma once

#include "server/chat_input.h"

namespace tessera::server {

// A string, or an array of items: messages, reasoning, function calls and their outputs. Appends to `messages`, which
// may hold an earlier conversation.
void read_input_items(OrderedJson& input, OrderedJson& messages);

// Flat function tools: {type: function, name, description, parameters, strict}; in chat shape.
OrderedJson read_response_tools(OrderedJson& tools);

// "tool_choice", "parallel_tool_calls" and "text".
ReplyShape read_response_shape(OrderedJson& body, OrderedJson tools);

}  // namespace tessera::server

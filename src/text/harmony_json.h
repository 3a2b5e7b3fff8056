// Harmony messages as JSON, in the openai-harmony library's own shape (its Message.to_dict): for saved conversations
// and comparisons. OpenAI's chat shape is in harmony_chat.h. Thread-safe.
#pragma once

#include <vector>

#include "core/json.h"
#include "text/harmony_types.h"

namespace tessera {

// Throw kInvalidArgument naming the field. A content type that starts with "<|constrain|>" sets `constrained`.
HarmonyMessage harmony_message_from_json(const OrderedJson& json);
std::vector<HarmonyMessage> harmony_messages_from_json(const OrderedJson& array);
OrderedJson harmony_to_json(const HarmonyMessage& message);

}  // namespace tessera

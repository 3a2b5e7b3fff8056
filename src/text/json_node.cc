#include "text/json_node.h"

#include "core/error.h"

namespace tessera {

void JsonNode::corrupt(std::string_view problem) const {
  fail(ErrorCode::kCorrupt, "{}: {}", where_, problem);
}

void JsonNode::unsupported(std::string_view problem) const {
  fail(ErrorCode::kUnsupported, "{}: {}", where_, problem);
}

void JsonNode::unsupported_type(std::string_view supported) const {
  fail(ErrorCode::kUnsupported, "{}: type \"{}\" is not supported; supported are: {}", where_, type(), supported);
}

std::string_view JsonNode::string() const {
  std::string_view text;
  if (value_.get_string().get(text) != simdjson::SUCCESS) corrupt("is not a string");
  return text;
}

int64_t JsonNode::integer(int64_t low, int64_t high) const {
  int64_t number = 0;
  if (value_.get_int64().get(number) != simdjson::SUCCESS || number < low || number > high) {
    corrupt(fmt::format("is not a whole number from {} to {}", low, high));
  }
  return number;
}

std::vector<JsonNode> JsonNode::items() const {
  simdjson::dom::array array;
  if (value_.get_array().get(array) != simdjson::SUCCESS) corrupt("is not an array");
  std::vector<JsonNode> nodes;
  for (simdjson::dom::element item : array) nodes.emplace_back(item, fmt::format("{}[{}]", where_, nodes.size()));
  return nodes;
}

simdjson::dom::object JsonNode::object() const {
  simdjson::dom::object object;
  if (value_.get_object().get(object) != simdjson::SUCCESS) corrupt("is not an object");
  return object;
}

JsonNode JsonNode::at(std::string_view key) const {
  simdjson::dom::element member;
  if (object().at_key(key).get(member) != simdjson::SUCCESS) corrupt(fmt::format("has no \"{}\"", key));
  return {member, fmt::format("{}.{}", where_, key)};
}

bool JsonNode::has(std::string_view key) const {
  simdjson::dom::object object;
  simdjson::dom::element member;
  return value_.get_object().get(object) == simdjson::SUCCESS && object.at_key(key).get(member) == simdjson::SUCCESS &&
         !member.is_null();
}

bool JsonNode::flag(std::string_view key, bool otherwise) const {
  if (!has(key)) return otherwise;
  bool value = false;
  JsonNode member = at(key);
  if (member.value_.get_bool().get(value) != simdjson::SUCCESS) member.corrupt("is not true or false");
  return value;
}

}  // namespace tessera

#include "hub/json_reader.h"

#include <algorithm>

#include "core/error.h"
#include "hub/hub_id.h"

namespace tessera::hub {

namespace {

constexpr int kMaxDepth = 16;

std::string as_string(const Json& value, const char* key, const std::string& where) {
  if (!value.is_string()) fail(ErrorCode::kCorrupt, "{}: \"{}\" is no string", where, key);
  return value.get<std::string>();
}

}  // namespace

Json parse_nested_json(std::string_view text, const std::string& where, int max_depth) {
  return Json::parse(
      text,
      [&](int depth, Json::parse_event_t, Json&) {
        if (depth > max_depth) fail(ErrorCode::kCorrupt, "{}: JSON nested deeper than {} levels", where, max_depth);
        return true;
      },
      false);
}

Json parse_foreign_json(std::string_view text, const std::string& where, int64_t max_bytes) {
  if (static_cast<int64_t>(text.size()) > max_bytes)
    fail(ErrorCode::kCorrupt, "{}: {} bytes, more than the {} this program takes", where, text.size(), max_bytes);
  Json parsed = parse_nested_json(text, where, kMaxDepth);
  if (parsed.is_discarded()) fail(ErrorCode::kCorrupt, "{}: is no JSON", where);
  return parsed;
}

JsonReader::JsonReader(const Json& object, const std::string& where) : object_(object), where_(where) {
  if (!object.is_object()) fail(ErrorCode::kCorrupt, "{}: expected a JSON object", where);
}

const Json* JsonReader::find(const char* key) const {
  auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

const Json& JsonReader::at(const char* key) const {
  const Json* value = find(key);
  if (!value) fail(ErrorCode::kCorrupt, "{}: \"{}\" is missing", where_, key);
  return *value;
}

const Json* JsonReader::list(const char* key) const {
  const Json* value = find(key);
  if (value && !value->is_array()) fail(ErrorCode::kCorrupt, "{}: \"{}\" is no list", where_, key);
  return value;
}

std::string JsonReader::string(const char* key) const {
  return as_string(at(key), key, where_);
}

std::optional<std::string> JsonReader::optional_string(const char* key) const {
  const Json* value = find(key);
  return value ? std::optional(as_string(*value, key, where_)) : std::nullopt;
}

std::vector<std::string> JsonReader::strings(const char* key) const {
  std::vector<std::string> out;
  if (const Json* entries = list(key))
    for (const Json& entry : *entries) out.push_back(as_string(entry, key, where_));
  return out;
}

int64_t JsonReader::natural(const char* key) const {
  const Json& value = at(key);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{1} << 53)
    fail(ErrorCode::kCorrupt, "{}: \"{}\" is no whole number from 0 on", where_, key);
  return value.get<int64_t>();
}

bool JsonReader::boolean(const char* key, bool fallback) const {
  const Json* value = find(key);
  if (value && !value->is_boolean()) fail(ErrorCode::kCorrupt, "{}: \"{}\" is neither true nor false", where_, key);
  return value ? value->get<bool>() : fallback;
}

void JsonReader::only(std::initializer_list<std::string_view> keys) const {
  for (const auto& [key, value] : object_.items())
    if (std::ranges::find(keys, key) == keys.end())
      fail(ErrorCode::kCorrupt, "{}: unknown field \"{}\"", where_, shown(key));
}

}  // namespace tessera::hub

// A value of a parsed JSON document together with where it stands, so that every message can say so. Used while reading
// tokenizer.json; lives as long as simdjson's parser.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class JsonNode {
 public:
  JsonNode(simdjson::dom::element value, std::string where) : value_(value), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  simdjson::dom::element value() const { return value_; }
  bool is_null() const { return value_.is_null(); }

  // Throw kCorrupt when the value is of another type.
  std::string_view string() const;
  int64_t integer(int64_t low, int64_t high) const;
  std::vector<JsonNode> items() const;
  simdjson::dom::object object() const;

  // The member. Throws kCorrupt when there is none or this is not an object.
  JsonNode at(std::string_view key) const;
  // The member is there and is not null. False for what is not an object.
  bool has(std::string_view key) const;
  bool flag(std::string_view key, bool otherwise) const;
  // The member "type".
  std::string_view type() const { return at("type").string(); }

  [[noreturn]] void corrupt(std::string_view problem) const;
  // "type X is not supported; supported are: A, B"
  [[noreturn]] void unsupported_type(std::string_view supported) const;
  [[noreturn]] void unsupported(std::string_view problem) const;

 private:
  simdjson::dom::element value_;
  std::string where_;
};

}  // namespace tessera

// Reading JSON that others wrote: bounded in size and depth, every missing or mistyped field an Error that names it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace tessera::hub {

// Discarded where the text is no JSON; throws kCorrupt where it is nested deeper than that.
Json parse_nested_json(std::string_view text, const std::string& where, int max_depth);

// `where` opens every message. Throws kCorrupt for more than max_bytes, 16 levels, or what is no JSON.
Json parse_foreign_json(std::string_view text, const std::string& where, int64_t max_bytes);

// An object's fields. A null is as good as none. All throw kCorrupt. Holds references to its arguments.
class JsonReader {
 public:
  JsonReader(const Json& object, const std::string& where);

  const Json* find(const char* key) const;  // null: absent
  const Json& at(const char* key) const;
  const Json* list(const char* key) const;  // null: absent
  std::string string(const char* key) const;
  std::optional<std::string> optional_string(const char* key) const;
  std::vector<std::string> strings(const char* key) const;  // empty: absent
  int64_t natural(const char* key) const;                   // from 0 to 2^53
  bool boolean(const char* key, bool fallback) const;
  // No fields but these.
  void only(std::initializer_list<std::string_view> keys) const;

 private:
  const Json& object_;
  const std::string& where_;
};

}  // namespace tessera::hub

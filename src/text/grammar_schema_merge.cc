#include "text/grammar_schema_merge.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace tessera {

namespace {

constexpr int kMaxDepth = 60;  // of references and allOf within one schema

[[noreturn]] void conflict(const std::string& path, const std::string& keyword) {
  fail(ErrorCode::kUnsupported, "{}: two different values of \"{}\" apply here, which is not supported", path, keyword);
}

OrderedJson both(const OrderedJson& a, const OrderedJson& b) {
  if (a == b || b == true) return a;
  if (a == true) return b;
  if (a == false || b == false) return false;
  return {{"allOf", OrderedJson::array({a, b})}};
}

OrderedJson common(const OrderedJson& a, const OrderedJson& b) {
  OrderedJson out = OrderedJson::array();
  for (const OrderedJson& x : a)
    if (std::find(b.begin(), b.end(), x) != b.end()) out.push_back(x);
  return out;
}

OrderedJson as_list(const OrderedJson& value) {
  return value.is_array() ? value : OrderedJson::array({value});
}

OrderedJson common_types(const OrderedJson& a, const OrderedJson& b) {
  auto with_integers = [](const OrderedJson& types) {
    OrderedJson out = as_list(types);
    if (std::find(out.begin(), out.end(), OrderedJson("number")) != out.end()) out.push_back("integer");
    return out;
  };
  OrderedJson types = common(with_integers(a), with_integers(b));
  if (std::find(types.begin(), types.end(), OrderedJson("number")) != types.end())
    for (auto it = types.begin(); it != types.end();) it = *it == "integer" ? types.erase(it) : it + 1;
  return types;
}

// Properties that only one side declares must satisfy the other's additionalProperties.
OrderedJson merge_properties(const OrderedJson& a, const OrderedJson& b) {
  const OrderedJson none = OrderedJson::object();
  auto properties = [&](const OrderedJson& s) -> const OrderedJson& {
    return s.contains("properties") ? s["properties"] : none;
  };
  auto rest = [](const OrderedJson& s) -> OrderedJson {
    return s.contains("additionalProperties") ? s["additionalProperties"] : OrderedJson(true);
  };
  if (!properties(a).is_object() || !properties(b).is_object()) return properties(a);  // refused later
  OrderedJson out = OrderedJson::object();
  for (const auto& [name, schema] : properties(a).items())
    out[name] = both(schema, properties(b).contains(name) ? properties(b)[name] : rest(b));
  for (const auto& [name, schema] : properties(b).items())
    if (!out.contains(name)) out[name] = both(schema, rest(a));
  return out;
}

std::string unescape_pointer(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '~' && i + 1 < text.size() && (text[i + 1] == '0' || text[i + 1] == '1')) {
      out += text[++i] == '0' ? '~' : '/';
    } else if (text[i] == '%' && i + 2 < text.size()) {
      int value = 0;
      const auto [end, code] = std::from_chars(text.data() + i + 1, text.data() + i + 3, value, 16);
      if (code != std::errc() || end != text.data() + i + 3) return std::string(text);
      out += static_cast<char>(value);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

bool is_annotation(const std::string& keyword) {
  static constexpr std::string_view kNames[] = {"title",    "description", "default",     "examples",     "example",
                                                "$comment", "deprecated",  "readOnly",    "writeOnly",    "$schema",
                                                "$id",      "$defs",       "definitions", "discriminator"};
  return std::find(std::begin(kNames), std::end(kNames), keyword) != std::end(kNames) || keyword.starts_with("x-");
}

const OrderedJson& SchemaMerger::resolve(const std::string& reference, const std::string& path) const {
  if (!reference.starts_with("#"))
    fail(ErrorCode::kUnsupported,
         "{}.$ref: \"{}\" is not in this schema; only references such as \"#/$defs/x\" are "
         "supported",
         path, reference);
  const OrderedJson* at = &document_;
  std::string_view rest = std::string_view(reference).substr(1);
  auto nowhere = [&] { fail(ErrorCode::kInvalidArgument, "{}.$ref: \"{}\" is not in the schema", path, reference); };
  if (!rest.empty() && rest[0] != '/')
    fail(ErrorCode::kUnsupported, "{}.$ref: \"{}\" names an anchor; only paths such as \"#/$defs/x\" are supported",
         path, reference);
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const size_t slash = std::min(rest.find('/'), rest.size());
    const std::string key = unescape_pointer(rest.substr(0, slash));
    rest.remove_prefix(slash);
    if (at->is_object() && at->contains(key)) {
      at = &(*at)[key];
    } else if (at->is_array()) {
      size_t index = 0;
      const auto [end, code] = std::from_chars(key.data(), key.data() + key.size(), index);
      if (code != std::errc() || end != key.data() + key.size() || index >= at->size()) nowhere();
      at = &(*at)[index];
    } else {
      nowhere();
    }
  }
  return *at;
}

OrderedJson SchemaMerger::flatten(const OrderedJson& schema, const std::string& path, int depth) const {
  if (depth > kMaxDepth)
    fail(ErrorCode::kInvalidArgument, "{}: $ref and allOf lead back to where they start, or nest too deep", path);
  if (schema.is_boolean()) return schema == true ? OrderedJson::object() : schema;
  if (!schema.is_object()) fail(ErrorCode::kInvalidArgument, "{}: a schema must be an object, true or false", path);
  OrderedJson out = OrderedJson::object();
  for (const auto& [key, value] : schema.items()) {
    if (is_annotation(key) || key == "$ref" || key == "allOf") continue;
    if (key == "anyOf" || key == "oneOf") {
      if (!value.is_array() || value.empty())
        fail(ErrorCode::kInvalidArgument, "{}.{}: expected an array of at least one schema", path, key);
      out[kSchemaChoices].push_back(value);
    } else if (key == kSchemaChoices && (!value.is_array() || depth > 0)) {
      fail(ErrorCode::kUnsupported, "{}: the keyword \"{}\" is not supported", path, key);
    } else {
      out[key] = value;
    }
  }
  if (schema.contains("$ref")) {
    if (!schema["$ref"].is_string()) fail(ErrorCode::kInvalidArgument, "{}.$ref: expected a string", path);
    const std::string reference = schema["$ref"];
    out = merge(out, flatten(resolve(reference, path), path, depth + 1), path);
  }
  if (schema.contains("allOf")) {
    if (!schema["allOf"].is_array()) fail(ErrorCode::kInvalidArgument, "{}.allOf: expected an array", path);
    for (const OrderedJson& part : schema["allOf"]) out = merge(out, flatten(part, path, depth + 1), path);
  }
  return out;
}

OrderedJson SchemaMerger::merge(const OrderedJson& a, const OrderedJson& b, const std::string& path) const {
  if (a == false || b == false) return false;
  if (b.empty()) return a;
  if (a.empty()) return b;
  OrderedJson out = a;
  if (a.contains("properties") || b.contains("properties")) out["properties"] = merge_properties(a, b);
  for (const auto& [key, value] : b.items()) {
    if (key == "properties") continue;
    if (!a.contains(key)) {
      out[key] = value;
      continue;
    }
    const OrderedJson& mine = a[key];
    if (mine == value && key != kSchemaChoices) continue;
    const bool numbers = mine.is_number() && value.is_number();
    if (key == "type") {
      out[key] = common_types(mine, value);
      if (out[key].empty()) return false;
    } else if (key == "enum" && mine.is_array() && value.is_array()) {
      out[key] = common(mine, value);
      if (out[key].empty()) return false;
    } else if (key == "const") {
      return false;
    } else if (key == "required" && mine.is_array() && value.is_array()) {
      for (const OrderedJson& name : value)
        if (std::find(mine.begin(), mine.end(), name) == mine.end()) out[key].push_back(name);
    } else if (key == "additionalProperties" || key == "items") {
      out[key] = both(mine, value);
    } else if (numbers && (key.starts_with("min") || key == "exclusiveMinimum")) {
      out[key] = std::max(mine, value);
    } else if (numbers && (key.starts_with("max") || key == "exclusiveMaximum")) {
      out[key] = std::min(mine, value);
    } else if (key == kSchemaChoices) {
      for (const OrderedJson& choice : value) out[key].push_back(choice);
    } else if (key == "nullable") {
      out[key] = false;
    } else {
      conflict(path, key);
    }
  }
  return out;
}

}  // namespace tessera

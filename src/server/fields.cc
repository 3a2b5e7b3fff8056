#include "server/fields.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>

namespace tessera::server {

namespace {

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxKeysOfObject = 1024;
constexpr int64_t kMaxKeys = 1 << 16;
constexpr int64_t kMaxContainers = 1 << 17;
constexpr int64_t kMaxValues = 1 << 20;

// Counts what a parser sees; throws when there is too much of it. Knows the body's member that is being read.
class Bounds {
 public:
  const std::string& member() const { return member_; }

  bool operator()(int depth, OrderedJson::parse_event_t event, const OrderedJson& value) {
    using Event = OrderedJson::parse_event_t;
    if (depth == 1) member_ = event == Event::key ? value.get<std::string>() : began(event) ? member_ : "";
    switch (event) {
      case Event::object_start:
      case Event::array_start:
        if (depth >= kMaxDepth)
          throw HttpError(400, fmt::format("the body nests deeper than {} levels", kMaxDepth), member_);
        if (++containers_ > kMaxContainers) too_many("arrays and objects", kMaxContainers);
        if (event == Event::object_start) keys_of_.push_back(0);
        break;
      case Event::object_end:
        if (!keys_of_.empty()) keys_of_.pop_back();
        break;
      case Event::key:
        if (!keys_of_.empty() && ++keys_of_.back() > kMaxKeysOfObject) too_many("keys in one object", kMaxKeysOfObject);
        if (++keys_ > kMaxKeys) too_many("keys", kMaxKeys);
        break;
      case Event::value:
        if (++values_ > kMaxValues) too_many("values", kMaxValues);
        break;
      case Event::array_end:
        break;
    }
    return true;
  }

 private:
  static bool began(OrderedJson::parse_event_t event) {
    return event == OrderedJson::parse_event_t::object_start || event == OrderedJson::parse_event_t::array_start;
  }
  [[noreturn]] void too_many(const char* what, int64_t limit) const {
    throw HttpError(400, fmt::format("the body has more than {} {}", limit, what), member_);
  }

  std::string member_;  // empty: none
  std::vector<int64_t> keys_of_;
  int64_t keys_ = 0, containers_ = 0, values_ = 0;
};

struct TypeName {
  FieldType type;
  const char* name;
};
constexpr TypeName kTypeNames[] = {{kBoolean, "a boolean"}, {kInteger, "an integer"}, {kNumber, "a number"},
                                   {kString, "a string"},   {kArray, "an array"},     {kObject, "an object"}};

std::string type_names(unsigned types) {
  std::string out;
  for (const TypeName& t : kTypeNames)
    if (types & t.type) out += (out.empty() ? "" : " or ") + std::string(t.name);
  return out;
}

unsigned type_of(const OrderedJson& v) {
  if (v.is_boolean()) return kBoolean;
  if (v.is_number_float()) {
    const double d = v.get<double>();  // 3.0 is an integer for OpenAI's clients, too
    return std::isfinite(d) && d == std::floor(d) && std::abs(d) < 9e15 ? kInteger | kNumber : kNumber;
  }
  if (v.is_number()) return kInteger | kNumber;
  if (v.is_string()) return kString;
  return v.is_array() ? kArray : v.is_object() ? kObject : 0u;
}

void check_value(const Field& field, const OrderedJson& value, const std::string& param) {
  if ((type_of(value) & field.types) == 0) bad_type(param, field.types, value);
  if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX && (field.types & kInteger) != 0)
    throw HttpError(400, fmt::format("Invalid '{}': integer too large.", param), param, "integer_above_max_value");
  if (value.is_number() && field.low <= field.high) {
    const double v = value.get<double>();
    const char* kind = field.types & kNumber ? "decimal" : "integer";
    if (!(v >= field.low)) {
      throw HttpError(400,
                      fmt::format("Invalid '{}': {} below minimum value. Expected a value >= {}, but got {} instead.",
                                  param, kind, field.low, dump(value)),
                      param, fmt::format("{}_below_min_value", kind));
    }
    if (!(v <= field.high)) {
      throw HttpError(400,
                      fmt::format("Invalid '{}': {} above maximum value. Expected a value <= {}, but got {} instead.",
                                  param, kind, field.high, dump(value)),
                      param, fmt::format("{}_above_max_value", kind));
    }
  }
  if (field.values != nullptr) {
    const OrderedJson allowed = OrderedJson::parse(field.values);
    for (const OrderedJson& a : allowed)
      if (a == value) return;
    if (field.support == Support::kOnly) unsupported(param, fmt::format("only {} {}", field.values, field.help));
    bad_value(param, fmt::format("Supported values are: {}.", field.values));
  }
}

}  // namespace

std::string dump(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

void bad_type(const std::string& param, unsigned types, const OrderedJson& value) {
  const unsigned found = type_of(value);
  throw HttpError(400,
                  fmt::format("Invalid type for '{}': expected {}, but got {} instead.", param, type_names(types),
                              found == 0 ? "null" : type_names(found & kInteger ? kInteger : found)),
                  param, "invalid_type");
}

void bad_value(const std::string& param, const std::string& message) {
  throw HttpError(400, fmt::format("Invalid value for '{}': {}", param, message), param, "invalid_value");
}

void unsupported(const std::string& param, const std::string& message) {
  throw HttpError(400, fmt::format("Unsupported parameter: '{}': {}", param, message), param, "unsupported_parameter");
}

OrderedJson parse_body(const std::string& body) {
  OrderedJson json;
  Bounds bounds;
  try {
    json = OrderedJson::parse(body, std::ref(bounds));
  } catch (const OrderedJson::exception& e) {
    std::string why = e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    if (size_t at = why.find("] "); at != std::string::npos) why.erase(0, at + 2);
    why = OrderedJson(why).dump(-1, ' ', true, OrderedJson::error_handler_t::replace);
    throw HttpError(400, "The body is not valid JSON: " + why, bounds.member());
  }
  if (!json.is_object()) throw HttpError(400, "The body must be a JSON object.");
  return json;
}

void check_fields(OrderedJson& object, FieldTable table, const std::string& where) {
  for (auto it = object.begin(); it != object.end();) it = it->is_null() ? object.erase(it) : std::next(it);
  for (const auto& [key, value] : object.items()) {
    const Field* field = nullptr;
    for (std::span<const Field> part : table)
      for (const Field& f : part)
        if (key == f.name) field = &f;
    const std::string param = where + key;
    if (field == nullptr)
      throw HttpError(400, fmt::format("Unknown parameter: '{}'.", param), param, "unknown_parameter");
    if (field->support == Support::kRefused) unsupported(param, field->help);
    check_value(*field, value, param);
  }
  for (std::span<const Field> part : table) {
    for (const Field& f : part) {
      if (f.required && !object.contains(f.name)) {
        throw HttpError(400, fmt::format("Missing required parameter: '{}{}'.", where, f.name), where + f.name,
                        "missing_required_parameter");
      }
    }
  }
}

const OrderedJson* find(const OrderedJson& object, std::string_view key) {
  auto it = object.find(std::string(key));
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

double number_or(const OrderedJson& object, std::string_view key, double otherwise) {
  const OrderedJson* v = find(object, key);
  return v ? v->get<double>() : otherwise;
}
int64_t integer_or(const OrderedJson& object, std::string_view key, int64_t otherwise) {
  const OrderedJson* v = find(object, key);
  if (!v) return otherwise;
  return v->is_number_float() ? static_cast<int64_t>(v->get<double>()) : v->get<int64_t>();
}
bool boolean_or(const OrderedJson& object, std::string_view key, bool otherwise) {
  const OrderedJson* v = find(object, key);
  return v ? v->get<bool>() : otherwise;
}
std::string string_or(const OrderedJson& object, std::string_view key, const std::string& otherwise) {
  const OrderedJson* v = find(object, key);
  return v ? v->get<std::string>() : otherwise;
}

}  // namespace tessera::server

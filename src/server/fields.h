// The fields of request bodies as tables: what is accepted, of which type and range, and what is refused by name.
// Checking and the OpenAPI description read the same rows. Thread-safe.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "server/http.h"

namespace tessera::server {

// Kinds of JSON values; a field takes any of a set.
enum FieldType : unsigned {
  kBoolean = 1,
  kInteger = 2,
  kNumber = 4,
  kString = 8,
  kArray = 16,
  kObject = 32,
};

enum class Support {
  kYes,
  kLabel,    // accepted; has no influence on the answer
  kOnly,     // only the values in `values`; others are refused
  kRefused,  // with the reason in `help`
};

struct Field {
  const char* name;
  unsigned types;  // FieldType
  const char* help;
  Support support = Support::kYes;
  double low = 0, high = -1;     // of numbers; low > high: any
  const char* values = nullptr;  // JSON array of the accepted values; also with kYes
  bool required = false;
};

// Rows, often in several parts that routes share.
using FieldTable = std::span<const std::span<const Field>>;

// Reads a body: valid UTF-8 JSON, an object, within bounds of depth, keys and values (an OrderedJson finds keys one by
// one, so that a stranger could otherwise make it slow). Throws HttpError 400.
OrderedJson parse_body(const std::string& body);

[[noreturn]] void bad_type(const std::string& param, unsigned types, const OrderedJson& value);
[[noreturn]] void bad_value(const std::string& param, const std::string& message);
[[noreturn]] void unsupported(const std::string& param, const std::string& message);

// Removes members that are null and checks the others against the table. `where` is put before names: "messages[0].".
// Throws HttpError 400 naming the field.
void check_fields(OrderedJson& object, FieldTable table, const std::string& where = {});

// The same for a member that should be an object: `param` is its name.
template <size_t N>
void check_rows(OrderedJson& object, const Field (&rows)[N], const std::string& param) {
  if (!object.is_object()) bad_type(param, kObject, object);
  const std::span<const Field> table[] = {rows};
  check_fields(object, table, param + ".");
}

// Values that check_fields() has seen; `otherwise` when absent.
const OrderedJson* find(const OrderedJson& object, std::string_view key);
double number_or(const OrderedJson& object, std::string_view key, double otherwise);
int64_t integer_or(const OrderedJson& object, std::string_view key, int64_t otherwise);
bool boolean_or(const OrderedJson& object, std::string_view key, bool otherwise);
std::string string_or(const OrderedJson& object, std::string_view key, const std::string& otherwise);

// JSON text of any value; bytes that are not UTF-8 become U+FFFD.
std::string dump(const OrderedJson& value);

}  // namespace tessera::server

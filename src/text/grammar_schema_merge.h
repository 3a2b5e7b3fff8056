// JSON schemas made flat: references resolved, allOf merged, so that one object says all about a value. Not
// thread-safe.
#pragma once

#include <string>

#include "core/json.h"

namespace tessera {

// Where flat schemas keep anyOf and oneOf: an array of arrays of alternatives, one of each must hold.
inline constexpr const char* kSchemaChoices = "$choices";

class SchemaMerger {
 public:
  explicit SchemaMerger(const OrderedJson& document) : document_(document) {}

  // The schema that a $ref names. Throws kUnsupported for one that leaves the document, kInvalidArgument for one that
  // leads nowhere; `path` is for the message.
  const OrderedJson& resolve(const std::string& reference, const std::string& path) const;
  // Without $ref, allOf, anyOf, oneOf (see kSchemaChoices) and annotations; what it contains is not looked at. False
  // for a schema that nothing satisfies.
  OrderedJson flatten(const OrderedJson& schema, const std::string& path, int depth = 0) const;
  // Both flat. What holds under the result holds under both.
  OrderedJson merge(const OrderedJson& a, const OrderedJson& b, const std::string& path) const;

 private:
  const OrderedJson& document_;
};

// No effect on what is valid.
bool is_annotation(const std::string& keyword);

}  // namespace tessera

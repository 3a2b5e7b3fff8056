// JSON schema (draft 2020-12) as grammar rules. What the rules produce is valid under the schema and compact or plainly
// indented JSON. Understood:
//
//   type (also a list), enum, const, anyOf, oneOf (as anyOf), allOf (merged), $ref into the document, $defs
//   object   properties, required, additionalProperties, minProperties and maxProperties where they are already true
//   array    items, prefixItems, minItems, maxItems
//   string   minLength, maxLength, pattern, format (see grammar_schema_text.h)
//   number   minimum, maximum, exclusiveMinimum, exclusiveMaximum
//   nullable (OpenAPI's); title, description, default, examples, deprecated, readOnly, writeOnly, $schema, $id,
//   $comment: no effect
//
// Any other keyword is refused by name. Properties come in the schema's order. Where `properties` is given and
// additionalProperties is not, there are none beside them; `additionalProperties: true` allows them, behind the others.
// Numbers have at most 18 digits before the point, so that every reader of JSON takes them. Thread-safe.
#pragma once

#include "core/json.h"
#include "text/grammar_ast.h"

namespace tessera {

// Adds the rules of a schema; the result is the one for the whole value. Throws kInvalidArgument and kUnsupported,
// naming the place, as in `properties.age.minimum`.
int32_t schema_rule(GrammarAst& ast, const OrderedJson& schema);
// Any JSON object; any JSON value.
int32_t json_object_rule(GrammarAst& ast);

}  // namespace tessera

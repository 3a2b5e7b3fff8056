#include "server/openapi.h"

#include "server/routes.h"

namespace tessera::server {

namespace {

struct SchemaType {
  FieldType type;
  const char* name;
};
constexpr SchemaType kSchemaTypes[] = {{kBoolean, "boolean"}, {kInteger, "integer"}, {kNumber, "number"},
                                       {kString, "string"},   {kArray, "array"},     {kObject, "object"}};

OrderedJson field_schema(const Field& field) {
  OrderedJson types = OrderedJson::array();
  for (const SchemaType& t : kSchemaTypes)
    if (field.types & t.type) types.push_back(t.name);
  OrderedJson schema = {{"type", types.size() == 1 ? types[0] : types}};
  if (!field.required) {
    if (!schema["type"].is_array()) schema["type"] = OrderedJson::array({schema["type"]});
    schema["type"].push_back("null");
  }
  if (*field.help != 0) schema["description"] = field.help;
  if (field.low <= field.high) {
    schema["minimum"] = field.low;
    schema["maximum"] = field.high;
  }
  if (field.values != nullptr) {
    schema["enum"] = OrderedJson::parse(field.values);
    if (!field.required) schema["enum"].push_back(nullptr);
  }
  if (field.support == Support::kOnly) schema["description"] = "other values are refused";
  return schema;
}

OrderedJson body_schema(FieldTable table) {
  OrderedJson properties = OrderedJson::object(), required = OrderedJson::array();
  for (std::span<const Field> part : table) {
    for (const Field& field : part) {
      if (field.support == Support::kRefused) continue;
      properties[field.name] = field_schema(field);
      if (field.required) required.push_back(field.name);
    }
  }
  OrderedJson schema = {{"type", "object"}, {"properties", properties}, {"additionalProperties", false}};
  if (!required.empty()) schema["required"] = required;
  return schema;
}

OrderedJson response(const char* description, const char* type, OrderedJson schema) {
  return {{"description", description}, {"content", {{type, {{"schema", std::move(schema)}}}}}};
}

OrderedJson operation(const Route& route) {
  OrderedJson out = {{"summary", route.summary}};
  std::string name = route.method;
  for (char& c : name) c = static_cast<char>(std::tolower(c));
  for (const char* c = route.path; *c; ++c) name += std::isalnum(static_cast<unsigned char>(*c)) ? *c : '_';
  out["operationId"] = name;
  if (std::string_view(route.path).ends_with("{id}"))
    out["parameters"] =
        OrderedJson::array({{{"name", "id"}, {"in", "path"}, {"required", true}, {"schema", {{"type", "string"}}}}});
  if (!route.fields.empty()) {
    out["requestBody"] = {{"required", true},
                          {"content", {{"application/json", {{"schema", body_schema(route.fields)}}}}}};
  }
  const bool plain = std::string_view(route.path) == "/metrics", page = std::string_view(route.path) == "/";
  OrderedJson ok = response("done",
                            plain  ? "text/plain"
                            : page ? "text/html"
                                   : "application/json",
                            plain || page ? OrderedJson{{"type", "string"}} : OrderedJson{{"type", "object"}});
  if (route.streams) {  // of one event
    const OrderedJson text = {{"type", "string"}};
    ok["content"]["text/event-stream"]["schema"] = {
        {"type", "object"},
        {"required", OrderedJson::array({"data"})},
        {"properties", {{"event", text}, {"data", {{"type", "string"}, {"description", "JSON, or [DONE]"}}}}}};
  }
  out["responses"]["200"] = std::move(ok);
  const OrderedJson error = {{"$ref", route.dialect == Dialect::kAnthropic ? "#/components/schemas/MessagesError"
                                                                           : "#/components/schemas/Error"}};
  auto failure = [&](const char* status, const char* what) {
    out["responses"][status] = response(what, "application/json", error);
  };
  if (!route.fields.empty()) {
    failure("400", "a field is wrong; it is named");
    failure("404", "no such model");
    failure("408", "the request did not arrive in time");
    failure("413", "the body is too large");
    failure("415", "the body is compressed");
  } else if (std::string_view(route.path).ends_with("{id}")) {
    failure("404", "there is none");
  }
  if (!route.open) failure("401", "no key, or a wrong one");
  failure("403", "from a page of another site");
  if (route.generates) {
    failure("429", "too many requests; Retry-After says when to come back");
    failure("500", "the answer failed");
    failure("504", "the answer took too long");
  }
  if (route.needs_model) failure("503", "loading, draining or dead");
  if (std::string_view(route.path) == "/health")
    out["responses"]["503"] = response("loading, draining or dead", "application/json", {{"type", "object"}});
  if (route.open) out["security"] = OrderedJson::array();
  return out;
}

}  // namespace

OrderedJson openapi_description() {
  OrderedJson out = {
      {"openapi", "3.1.0"}, {"info", {{"title", "tessera serve"}, {"version", "1"}}}, {"paths", OrderedJson::object()}};
  for (const Route& route : routes()) {
    std::string method = route.method;
    for (char& c : method) c = static_cast<char>(std::tolower(c));
    out["paths"][route.path][method] = operation(route);
  }
  const OrderedJson text = {{"type", "string"}}, maybe = {{"type", OrderedJson::array({"string", "null"})}};
  out["components"]["schemas"]["Error"] = {
      {"type", "object"},
      {"required", OrderedJson::array({"error"})},
      {"properties",
       {{"error",
         {{"type", "object"},
          {"required", OrderedJson::array({"message", "type", "param", "code"})},
          {"properties", {{"message", text}, {"type", text}, {"param", maybe}, {"code", maybe}}}}}}}};
  out["components"]["schemas"]["MessagesError"] = {
      {"type", "object"},
      {"required", OrderedJson::array({"type", "error"})},
      {"properties",
       {{"type", text}, {"error", {{"type", "object"}, {"properties", {{"type", text}, {"message", text}}}}}}}};
  out["components"]["securitySchemes"]["key"] = {{"type", "http"}, {"scheme", "bearer"}};
  out["security"] = OrderedJson::array({OrderedJson{{"key", OrderedJson::array()}}, OrderedJson::object()});
  return out;
}

}  // namespace tessera::server

#include "server/fields.h"

#include <gtest/gtest.h>

#include "server/routes.h"

namespace tessera::server {
namespace {

constexpr Field kRows[] = {
    {"a", kInteger, "", Support::kYes, 1, 3},
    {"b", kString, "is all there is", Support::kOnly, 0, -1, R"(["x"])"},
    {"c", kObject, "gone", Support::kRefused},
    {"d", kString | kArray, "", Support::kYes, 0, -1, nullptr, true},
};
constexpr std::span<const Field> kTable[] = {kRows};

HttpError error_of(const std::string& text) {
  try {
    OrderedJson body = parse_body(text);
    check_fields(body, kTable, "p.");
  } catch (const HttpError& e) {
    return e;
  }
  return {0, ""};
}

TEST(Fields, WhatIsWrongIsNamed) {
  EXPECT_EQ(error_of(R"({"a": 2, "b": "x", "d": "t"})").status(), 0);
  EXPECT_EQ(error_of(R"({"a": 2.0, "d": []})").status(), 0);
  EXPECT_EQ(error_of(R"({"a": null, "b": null, "c": null, "d": []})").status(), 0) << "null is absent";
  const struct {
    const char* body;
    const char* param;
    const char* code;
  } cases[] = {
      {R"({"d": "t", "a": 0})", "p.a", "integer_below_min_value"},
      {R"({"d": "t", "a": -9223372036854775808})", "p.a", "integer_below_min_value"},
      {R"({"d": "t", "a": 4})", "p.a", "integer_above_max_value"},
      {R"({"d": "t", "a": 18446744073709551615})", "p.a", "integer_above_max_value"},
      {R"({"d": "t", "a": 1e300})", "p.a", "invalid_type"},
      {R"({"d": "t", "a": 1.5})", "p.a", "invalid_type"},
      {R"({"d": "t", "a": "2"})", "p.a", "invalid_type"},
      {R"({"d": "t", "a": true})", "p.a", "invalid_type"},
      {R"({"d": "t", "b": "y"})", "p.b", "unsupported_parameter"},
      {R"({"d": "t", "c": {}})", "p.c", "unsupported_parameter"},
      {R"({"d": "t", "e": 1})", "p.e", "unknown_parameter"},
      {R"({"d": 1})", "p.d", "invalid_type"},
      {R"({})", "p.d", "missing_required_parameter"},
      {R"({"d": null})", "p.d", "missing_required_parameter"},
  };
  for (const auto& c : cases) {
    const HttpError e = error_of(c.body);
    EXPECT_EQ(e.status(), 400) << c.body;
    EXPECT_EQ(e.param(), c.param) << c.body;
    EXPECT_EQ(e.code(), c.code) << c.body;
  }
}

TEST(Fields, BodiesAreBounded) {
  auto refused = [](const std::string& body) { return error_of(body).status() == 400; };
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused("[]"));
  EXPECT_TRUE(refused("{\"d\": NaN}"));
  EXPECT_TRUE(refused("{\"a\": 1e999}"));
  EXPECT_TRUE(refused("{\"d\": \"\xff\"}"));
  EXPECT_TRUE(refused("{\"d\": \"\\ud800\"}"));
  EXPECT_TRUE(refused("{\"d\": \"t\"} {}"));
  EXPECT_TRUE(refused("{\"d\": " + std::string(100000, '[')));
  EXPECT_TRUE(refused("{\"d\": " + std::string(65, '[') + std::string(65, ']') + "}"));
  EXPECT_FALSE(refused("{\"d\": " + std::string(60, '[') + std::string(60, ']') + "}"));
  std::string keys;
  for (int i = 0; i < 100000; ++i) keys += fmt::format("{}\"k{}\": 0", i ? "," : "", i);
  EXPECT_TRUE(refused("{" + keys + "}"));
  std::string arrays;
  for (int i = 0; i < 200000; ++i) arrays += i ? ",[]" : "[]";
  EXPECT_TRUE(refused("{\"d\": [" + arrays + "]}"));
}

TEST(Fields, TheMemberThatIsBeingReadIsNamed) {
  EXPECT_EQ(error_of("{\"x\": 1, \"d\": NaN}").param(), "d");
  EXPECT_EQ(error_of("{\"d\": {\"x\": [1, \"\xff\"]}, \"e\": 1}").param(), "d");
  EXPECT_EQ(error_of("{\"d\": " + std::string(100, '[')).param(), "d");
  EXPECT_EQ(error_of("{\"d\": {\"x\": 1} \"e\": 1}").param(), "") << "between two";
  EXPECT_EQ(error_of("{").param(), "");
}

TEST(Errors, DoNotRepeatAllOfARequest) {
  const HttpError e(400, std::string(100000, 'm'), std::string(100000, 'p'));
  for (Dialect dialect : {Dialect::kOpenAi, Dialect::kAnthropic}) EXPECT_LT(error_json(dialect, e).size(), 4000u);
  EXPECT_NE(error_json(Dialect::kOpenAi, {400, "short", "field"}).find("\"param\":\"field\""), std::string::npos);
}

TEST(Routes, PathsAndMethods) {
  EXPECT_STREQ(find_route("POST", "/v1/completions").route->path, "/v1/completions");
  EXPECT_EQ(find_route("GET", "/v1/completions").route, nullptr);
  EXPECT_EQ(find_route("GET", "/v1/completions").allowed, "POST");
  EXPECT_EQ(find_route("GET", "/v1/models/a").argument, "a");
  EXPECT_EQ(find_route("GET", "/v1/models/").route, nullptr);
  EXPECT_EQ(find_route("GET", "/v1/models/a/b").route, nullptr);
  EXPECT_NE(find_route("HEAD", "/health").route, nullptr);
  EXPECT_TRUE(find_route("GET", "/../etc/passwd").allowed.empty());
}

// A row's texts are used as JSON and in messages.
TEST(Routes, TablesAreWellFormed) {
  for (const Route& route : routes()) {
    std::set<std::string> names;
    for (std::span<const Field> part : route.fields) {
      for (const Field& field : part) {
        EXPECT_TRUE(names.insert(field.name).second) << route.path << " " << field.name;
        if (field.values) EXPECT_TRUE(OrderedJson::parse(field.values).is_array()) << field.name;
        if (field.support == Support::kOnly) EXPECT_NE(field.values, nullptr) << field.name;
        if (field.support == Support::kRefused) EXPECT_STRNE(field.help, "") << field.name;
      }
    }
  }
}

}  // namespace
}  // namespace tessera::server

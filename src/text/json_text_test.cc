#include "text/json_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace tessera {
namespace {

TEST(JsonText, WritesBothStyles) {
  const OrderedJson value = OrderedJson::parse(R"({"z": [1, -2.5, true, null, {}, []], "a": "é\"\\\n\u0001/"})");
  EXPECT_EQ(json_text(value, JsonStyle::kCompact), R"({"z":[1,-2.5,true,null,{},[]],"a":"é\"\\\n\u0001/"})");
  EXPECT_EQ(json_text(value, JsonStyle::kPython), R"({"z": [1, -2.5, true, null, {}, []], "a": "é\"\\\n\u0001/"})");
}

TEST(JsonText, WritesNumbersAsRustAndPythonDo) {
  struct Row {
    double value;
    const char* rust;
    const char* python;
  };
  for (const Row& row : {Row{0.0, "0.0", "0.0"},
                         {-0.0, "-0.0", "-0.0"},
                         {3, "3.0", "3.0"},
                         {0.1 + 0.2, "0.30000000000000004", "0.30000000000000004"},
                         {1e15, "1000000000000000.0", "1000000000000000.0"},
                         {1e16, "1e16", "1e+16"},
                         {123456789012345680.0, "1.2345678901234568e17", "1.2345678901234568e+17"},
                         {1e-4, "0.0001", "0.0001"},
                         {1e-5, "0.00001", "1e-05"},
                         {1.5e-7, "1.5e-7", "1.5e-07"},
                         {-123456.789, "-123456.789", "-123456.789"},
                         {5e-324, "5e-324", "5e-324"},
                         {1e300, "1e300", "1e+300"}}) {
    EXPECT_EQ(json_text(row.value, JsonStyle::kCompact), row.rust);
    EXPECT_EQ(json_text(row.value, JsonStyle::kPython), row.python);
  }
  EXPECT_EQ(json_text(OrderedJson(UINT64_MAX), JsonStyle::kCompact), "18446744073709551615");
  EXPECT_EQ(json_text(OrderedJson(INT64_MIN), JsonStyle::kCompact), "-9223372036854775808");
}

TEST(JsonText, RepairsStringsThatAreNotUtf8) {
  EXPECT_EQ(json_text(OrderedJson("a\xFF"), JsonStyle::kCompact), "\"a\xEF\xBF\xBD\"");
}

OrderedJson nested(int levels) {
  OrderedJson value = 1;
  for (int i = 0; i < levels; ++i) {
    OrderedJson outer = OrderedJson::array();
    outer.push_back(std::move(value));
    value = std::move(outer);
  }
  return value;
}

TEST(JsonText, RefusesDeepNesting) {
  EXPECT_EQ(json_text(nested(kMaxJsonDepth), JsonStyle::kCompact).size(), 2u * kMaxJsonDepth + 1);
  try {
    check_json_depth(nested(kMaxJsonDepth + 1), "the parameters of tool f");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), testing::HasSubstr("the parameters of tool f nests deeper than 100 levels"));
  }
  EXPECT_THROW(json_text(nested(100000), JsonStyle::kPython), Error);
}

}  // namespace
}  // namespace tessera

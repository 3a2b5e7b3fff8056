#include "text/grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tessera/error.h"
#include "text/grammar_property.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

// Bytes and an end token (256).
const GrammarVocabulary& bytes_only() {
  static const GrammarVocabulary vocabulary = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    tokens.emplace_back();
    std::vector<bool> special(257);
    special[256] = true;
    return GrammarVocabulary(std::move(tokens), std::move(special));
  }();
  return vocabulary;
}

bool matches(const CompiledGrammar& grammar, std::string_view text) {
  GrammarMatcher matcher(grammar);
  if (!text.empty() && !matcher.accept_text(text)) return false;
  return matcher.can_end();
}

CompiledGrammar regex(std::string_view pattern) {
  return CompiledGrammar::regex(pattern, bytes_only(), {});
}
CompiledGrammar ebnf(std::string_view text) {
  return CompiledGrammar::ebnf(text, bytes_only(), {});
}
CompiledGrammar schema(const char* text) {
  return CompiledGrammar::json_schema(OrderedJson::parse(text), bytes_only(), {});
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(GrammarRegex, MatchesWholeTexts) {
  struct Case {
    const char* pattern;
    std::vector<std::string> yes, no;
  };
  const Case cases[] = {
      {"abc", {"abc"}, {"ab", "abcd", ""}},
      {"a|bc|", {"a", "bc", ""}, {"b", "abc"}},
      {"(ab)*c", {"c", "abc", "ababc"}, {"ab", "aabc"}},
      {"a{2,3}", {"aa", "aaa"}, {"a", "aaaa"}},
      {"a{20,30}b",
       {std::string(20, 'a') + "b", std::string(30, 'a') + "b"},
       {std::string(19, 'a') + "b", std::string(31, 'a') + "b"}},
      {"a{20,30}a", {std::string(21, 'a'), std::string(31, 'a')}, {std::string(20, 'a'), std::string(32, 'a')}},
      {"(a{10}b){10,}",
       {[] {
         std::string s;
         for (int i = 0; i < 11; ++i) s += "aaaaaaaaaab";
         return s;
       }()},
       {"aaaaaaaaaab"}},
      {"a{9,}b{9}c",
       {std::string(12, 'a') + std::string(9, 'b') + "c"},
       {std::string(8, 'a') + std::string(9, 'b') + "c", std::string(9, 'a') + std::string(10, 'b') + "c"}},
      {"[^a-c]", {"d", "é", "😀"}, {"a", "dd"}},
      {"\\d+\\.\\w\\s", {"12.x "}, {"12x ", "12.- "}},
      {"[\\d_-]+", {"1-_"}, {"a"}},
      {"^a$", {"a"}, {"^a$"}},
      {"\\p{Lu}.", {"Éx", "A€"}, {"éx", "A\n"}},
      {"\\u00e9\\x41\\u{1F600}", {"éA😀"}, {"eA"}},
      {"(?:a|b)(?<n>c)", {"ac", "bc"}, {"ab"}},
      {"a+?b??", {"a", "aab"}, {"b"}},
      {"[é-ü]{12}", {"éêëìíîïðñòóô"}, {"éêëìíîïðñòóa", "éêëìíîïðñòó"}},
  };
  for (const Case& c : cases) {
    const CompiledGrammar g = regex(c.pattern);
    for (const std::string& text : c.yes) EXPECT_TRUE(matches(g, text)) << c.pattern << " " << text;
    for (const std::string& text : c.no) EXPECT_FALSE(matches(g, text)) << c.pattern << " " << text;
  }
}

TEST(GrammarRegex, RefusesByName) {
  EXPECT_THAT(error_of([] { regex("a(?=b)"); }), HasSubstr("look-ahead"));
  EXPECT_THAT(error_of([] { regex("(a)\\1"); }), HasSubstr("back-references"));
  EXPECT_THAT(error_of([] { regex("a\\b"); }), HasSubstr("word boundaries"));
  EXPECT_THAT(error_of([] { regex("(a"); }), HasSubstr("'(' without ')', at byte 2"));
  EXPECT_THAT(error_of([] { regex("a)"); }), HasSubstr("')' without '('"));
  EXPECT_THAT(error_of([] { regex("[a"); }), HasSubstr("without ']'"));
  EXPECT_THAT(error_of([] { regex("a{3,2}"); }), HasSubstr("less than its minimum"));
  EXPECT_THAT(error_of([] { regex("(a|b)*a(a|b){30}"); }), HasSubstr("too large"));
  EXPECT_THAT(error_of([] { regex("((((a{1000}){1000}){1000}){1000})"); }), HasSubstr("too large"));
  EXPECT_THAT(error_of([] { regex("(((){99999}){99999}){99999}"); }), HasSubstr("too large"));
  EXPECT_THAT(error_of([] { regex(std::string(5000, '(')); }), HasSubstr("too deep"));
  EXPECT_THAT(error_of([] { regex("[]"); }), HasSubstr("no text can match"));
}

TEST(GrammarEbnf, RecursionOnEverySide) {
  const CompiledGrammar sums = ebnf(R"g(root ::= sum
    sum  ::= sum "+" item | item   # left recursion
    item ::= [0-9]+ | "(" root ")" )g");
  for (const char* yes : {"1", "1+2", "12+(3+4)+5", "((1))"}) EXPECT_TRUE(matches(sums, yes)) << yes;
  for (const char* no : {"", "+1", "1+", "(1", "1)", "()"}) EXPECT_FALSE(matches(sums, no)) << no;

  const CompiledGrammar right = ebnf("root ::= \"a\" root | \"b\"");
  EXPECT_TRUE(matches(right, std::string(100000, 'a') + "b"));
  const CompiledGrammar ambiguous = ebnf("root ::= root root | \"a\" | \"\"");
  EXPECT_TRUE(matches(ambiguous, std::string(60, 'a')));
  EXPECT_FALSE(matches(ambiguous, "ab"));
  const CompiledGrammar hidden = ebnf("root ::= maybe root \"x\" | \"y\"\nmaybe ::= \"a\"?");
  for (const char* yes : {"y", "ayx", "yx", "aayxx"}) EXPECT_TRUE(matches(hidden, yes)) << yes;
  EXPECT_FALSE(matches(hidden, "aayx"));
  const CompiledGrammar unit = ebnf("root ::= a\na ::= b | \"x\"\nb ::= a | \"y\" a");
  for (const char* yes : {"x", "yx", "yyx"}) EXPECT_TRUE(matches(unit, yes)) << yes;
}

TEST(GrammarEbnf, ReadsTheDialect) {
  const CompiledGrammar g = ebnf(
      "# comment\nroot ::= ( \"\\\"a\\n\" | 'x' |\n  [^\\]a-c\\\\] ) tail{1,2}\ntail-1 ::= \".\"\ntail ::= tail-1 | "
      "\"\\u00e9\"\n");
  for (const char* yes : {"\"a\n.", "x..", "x.é", "dé"}) EXPECT_TRUE(matches(g, yes)) << yes;
  for (const char* no : {"x", "a.", "].", "x..."}) EXPECT_FALSE(matches(g, no)) << no;
  EXPECT_THAT(error_of([] { ebnf("root ::= a"); }), HasSubstr("\"a\" is used and not defined"));
  EXPECT_THAT(error_of([] { ebnf("a ::= \"x\""); }), HasSubstr("no rule \"root\""));
  EXPECT_THAT(error_of([] { ebnf("root ::= \"x\"\n\nroot ::= \"y\""); }), HasSubstr("line 3"));
  EXPECT_THAT(error_of([] { ebnf("root ::= \"x"); }), HasSubstr("closing quote"));
  EXPECT_THAT(error_of([] { ebnf("root ::= root \"x\""); }), HasSubstr("no text can match"));
  EXPECT_THAT(error_of([] { ebnf("root = \"x\""); }), HasSubstr("'::='"));
}

TEST(GrammarSchema, ObjectsAndOptionalMembers) {
  const CompiledGrammar g =
      schema(R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"},
    "c": {"type": "boolean"}}, "required": ["b"]})");
  for (const char* yes :
       {R"({"b":"x"})", R"({"a": 1, "b": "x"})", R"({"b":"","c":true})", "{\n  \"a\": -5,\n  \"b\": \"\\u00e9\\n\"\n}"})
    EXPECT_TRUE(matches(g, yes)) << yes;
  for (const char* no :
       {R"({})", R"({"a":1})", R"({"b":"x","a":1})", R"({"b":"x",})", R"({"b":"x","d":1})", R"({"a":1.5,"b":""})",
        R"({"a":01,"b":""})", R"({,"b":""})", "{\"b\":\"\n\"}", R"({"b":"\ud800"})"})
    EXPECT_FALSE(matches(g, no)) << no;
}

TEST(GrammarSchema, OtherPropertiesAreNoneOfTheDeclared) {
  const CompiledGrammar g =
      schema(R"({"type": "object", "properties": {"name": {"type": "integer"}, "nam": {"type": "null"}},
    "additionalProperties": {"type": "boolean"}})");
  for (const char* yes :
       {R"({})", R"({"name":1,"nam":null,"x":true})", R"({"names":true,"na":false,"":true})", R"({"nom":true})"})
    EXPECT_TRUE(matches(g, yes)) << yes;
  for (const char* no :
       {R"({"name":true})", R"({"x":1})", R"({"nam":true})", R"({"x":true,"name":1})", R"({"n\u0061me":true})"})
    EXPECT_FALSE(matches(g, no)) << no;
}

TEST(GrammarSchema, NumbersWithinBounds) {
  struct Case {
    const char* schema;
    std::vector<const char*> yes, no;
  };
  const Case cases[] = {
      {R"({"type":"integer","minimum":-5,"maximum":120})",
       {"-5", "-1", "0", "7", "99", "120"},
       {"-6", "-0", "121", "1.0", "00", "1000"}},
      {R"({"type":"integer","exclusiveMinimum":0})", {"1", "10", "999999999999999999"}, {"0", "-1"}},
      {R"({"type":"integer","minimum":995,"maximum":1005})",
       {"995", "999", "1000", "1005"},
       {"994", "1006", "99", "1050"}},
      {R"({"type":"integer","maximum":-3.5})", {"-4", "-100"}, {"-3", "0", "4"}},
      {R"({"type":"number","minimum":0,"maximum":1})",
       {"0", "0.5", "1", "1.0", "0.99999"},
       {"1.1", "-0.1", "2", "1.01", "0."}},
      {R"({"type":"number","exclusiveMinimum":0.25,"exclusiveMaximum":0.5})",
       {"0.26", "0.2501", "0.3", "0.4999"},
       {"0.25", "0.5", "0.250", "0.50", "0.2", "0"}},
      {R"({"type":"number","minimum":-1.5})", {"-1.5", "-1.49", "-0.1", "0", "12345.6"}, {"-1.51", "-2", "-1.6"}},
      {R"({"type":"number"})", {"-0.5e+10", "1E5", "0"}, {"1e", ".5", "+1", "1e999"}},
  };
  for (const Case& c : cases) {
    const CompiledGrammar g = schema(c.schema);
    for (const char* text : c.yes) EXPECT_TRUE(matches(g, text)) << c.schema << " " << text;
    for (const char* text : c.no) EXPECT_FALSE(matches(g, text)) << c.schema << " " << text;
  }
}

TEST(GrammarSchema, StringsArraysUnionsReferences) {
  struct Case {
    const char* schema;
    std::vector<const char*> yes, no;
  };
  const Case cases[] = {
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {"\"ab\"", "\"é€😀\"", "\"\\n\\u00e9\""},
       {"\"a\"", "\"abcd\"", "ab"}},
      {R"({"type":"string","pattern":"^a\"\\n?$"})", {"\"a\\\"\"", "\"a\\\"\\n\""}, {"\"a\"", "\"a\\\"\n\""}},
      {R"({"type":"string","pattern":"b"})", {"\"abc\"", "\"b\"", "\"\\tb\""}, {"\"ac\"", "\"\""}},
      {R"({"type":"string","format":"date"})",
       {"\"2024-02-28\"", "\"1999-12-31\""},
       {"\"2024-13-01\"", "\"2024-02-30\"", "\"24-01-01\""}},
      {R"({"type":"string","format":"ipv4"})", {"\"255.0.10.1\""}, {"\"256.0.0.1\"", "\"01.0.0.1\""}},
      {R"({"type":"array","items":{"type":"null"},"minItems":1,"maxItems":3})",
       {"[null]", "[null, null,null]"},
       {"[]", "[null,null,null,null]", "[null,]"}},
      {R"({"type":"array","items":{"type":"null"}})", {"[]", "[ null ]", "[null,null]"}, {"[1]"}},
      {R"({"prefixItems":[{"const":1},{"const":2}],"items":{"const":3},"minItems":1})",
       {"[1]", "[1,2]", "[1,2,3,3]"},
       {"[]", "[2]", "[1,3]"}},
      {R"({"prefixItems":[{"const":1}],"items":false})", {"[]", "[1]"}, {"[1,2]"}},
      {R"({"enum":["a",1,null,{"b":[2]}]})", {"\"a\"", "1", "null", "{\"b\":[2]}"}, {"2", "\"1\""}},
      {R"({"type":"string","enum":["a",1]})", {"\"a\""}, {"1"}},
      {R"({"type":["integer","null"]})", {"1", "null"}, {"\"a\"", "1.5"}},
      {R"({"type":"integer","nullable":true})", {"1", "null"}, {"true"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"string","maxLength":1}]})", {"5", "\"a\""}, {"\"ab\"", "null"}},
      {R"({"type":"integer","anyOf":[{"minimum":5},{"maximum":-5}]})", {"5", "-5"}, {"0", "\"a\""}},
      {R"({"allOf":[{"type":"object","properties":{"a":{"type":"integer","minimum":3}},"required":["a"]},{"properties":{"a":{"maximum":5},"b":{"const":1}}}]})",
       {R"({"a":3})", R"({"a":5,"b":1})"},
       {R"({"a":2})", R"({"a":6})", R"({"b":1})", R"({})"}},
      {R"({"allOf":[{"type":"number"},{"type":["integer","string"]}]})", {"4"}, {"4.5", "\"a\""}},
      {R"({"$ref":"#/$defs/l","$defs":{"l":{"anyOf":[{"type":"null"},{"type":"object","properties":{"next":{"$ref":"#/$defs/l"}},"required":["next"]}]}}})",
       {"null", R"({"next":null})", R"({"next":{"next":null}})"},
       {R"({"next":1})", "{}"}},
      {R"({"type":"array","items":{"$ref":"#"}})", {"[]", "[[],[[]]]"}, {"[1]"}},
      {R"({"$ref":"#/definitions/a%20b~1c","definitions":{"a b/c":{"const":1}}})", {"1"}, {"2"}},
      {R"(true)", {"{\"a\":[1,\"x\",{}]}", "3", "[]"}, {"", "{a:1}", "[1,]"}},
      {R"({})", {"null", "\"\""}, {"nul"}},
  };
  for (const Case& c : cases) {
    const CompiledGrammar g = schema(c.schema);
    for (const char* text : c.yes) EXPECT_TRUE(matches(g, text)) << c.schema << " " << text;
    for (const char* text : c.no) EXPECT_FALSE(matches(g, text)) << c.schema << " " << text;
  }
}

TEST(GrammarSchema, RefusesByNameAndPlace) {
  auto error = [](const char* text) { return error_of([&] { schema(text); }); };
  EXPECT_THAT(error(R"({"type":"object","properties":{"age":{"type":"integer","multipleOf":7}}})"),
              HasSubstr("schema.properties.age: the keyword \"multipleOf\" is not supported"));
  EXPECT_THAT(error(R"({"type":"array","uniqueItems":true})"), HasSubstr("\"uniqueItems\""));
  EXPECT_THAT(error(R"({"not":{"type":"null"}})"), HasSubstr("\"not\""));
  EXPECT_THAT(error(R"({"type":"objekt"})"), HasSubstr("schema.type: \"objekt\""));
  EXPECT_THAT(error(R"({"$ref":"http://x/y"})"), HasSubstr("schema.$ref"));
  EXPECT_THAT(error(R"({"$ref":"#/$defs/none"})"), HasSubstr("is not in the schema"));
  EXPECT_THAT(error(R"({"$ref":"#"})"), HasSubstr("no text can match"));
  EXPECT_THAT(error(R"({"allOf":[{"$ref":"#"}]})"), HasSubstr("lead back"));
  EXPECT_THAT(error(R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})"),
              HasSubstr("no text can match"));
  EXPECT_THAT(error(R"j({"type":"string","pattern":"(?=a)"})j"), HasSubstr("schema.pattern: look-ahead"));
  EXPECT_THAT(error(R"({"type":"string","format":"rhyme"})"), HasSubstr("\"rhyme\""));
  EXPECT_THAT(error(R"({"type":"string","pattern":"a+","maxLength":5})"), HasSubstr("maxLength"));
  EXPECT_THAT(error(R"({"type":"integer","minimum":5,"maximum":4})"), HasSubstr("no text can match"));
  EXPECT_THAT(error(R"({"type":"string","minLength":-1})"), HasSubstr("schema.minLength"));
  EXPECT_THAT(error("[]"), HasSubstr("must be an object"));
  EXPECT_THAT(error("3"), HasSubstr("must be an object"));
}

TEST(GrammarMatcher, RollsBackAcrossCompaction) {
  GrammarMatcher matcher(CompiledGrammar::json_object(bytes_only(), {}));
  std::string text = "{\"a\":[";
  for (char c : text) ASSERT_TRUE(matcher.accept(static_cast<uint8_t>(c)));
  std::vector<uint32_t> before(9), after(9);
  for (int i = 0; i < 20000; ++i) {
    matcher.fill_mask(before);
    for (char c : std::string_view("{\"k\":[1,true]},")) ASSERT_TRUE(matcher.accept(static_cast<uint8_t>(c)));
    if (i % 2) continue;
    matcher.rollback(15);
    matcher.fill_mask(after);
    ASSERT_EQ(before, after) << i;
  }
  EXPECT_FALSE(matcher.can_end());
  for (char c : std::string_view("1]}")) ASSERT_TRUE(matcher.accept(static_cast<uint8_t>(c)));
  EXPECT_TRUE(matcher.ended());
}

TEST(GrammarMatcher, ForcedText) {
  GrammarMatcher matcher(schema(R"({"type":"object","properties":{"kind":{"const":"circle"}},"required":["kind"]})"));
  EXPECT_EQ(matcher.forced_text(), "{");
  ASSERT_TRUE(matcher.accept_text("{\""));
  EXPECT_EQ(matcher.forced_text(), "kind\":");
  EXPECT_EQ(matcher.forced_text(3), "kin");
  ASSERT_TRUE(matcher.accept_text("kind\":\""));
  EXPECT_EQ(matcher.forced_text(), "circle\"");
}

TEST(GrammarProperty, RandomSchemasGiveValidText) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const std::string problem = check_random_schema(seed);
    ASSERT_EQ(problem, "") << "seed " << seed;
  }
}

TEST(GrammarProperty, TextsFromStrangers) {
  const char* const kTexts[] = {"j{\"type\":\"string\",\"maxLength\":9}",
                                "j{\"properties\":{\"a\":{\"$ref\":\"#\"}}}",
                                "j[",
                                "j{\"anyOf\":[{},{}]}",
                                "ra{2,40}(b|c)+",
                                "r[^x]*x",
                                "r\\",
                                "r(a|a)*",
                                "r(a*)*b",
                                "r(.{1,40}){1,40}",
                                "eroot ::= root root | \"a\" | \"\"",
                                "eroot ::= [a-z]{1,20} | root \",\" root",
                                "eroot ::= \"(\" root \")\" | \"\"",
                                "eroot ::= .* \"end\""};
  uint64_t state = 1;
  for (const char* text : kTexts) {
    for (int round = 0; round < 40; ++round) {
      std::string data = text;
      const size_t kind = kGrammarKinds.find(data[0]);
      data[0] = static_cast<char>(kind);
      for (int edit = 0; edit < round % 5; ++edit) {  // a few bytes changed, taken away or doubled
        state = state * 6364136223846793005u + 1442695040888963407u;
        if (data.size() < 3) break;
        const size_t at = 1 + (state >> 33) % (data.size() - 1);
        if (state >> 62 == 0) data.erase(at, 1);
        if (state >> 62 == 1) data.insert(at, 1, data[at]);
        if (state >> 62 > 1) data[at] = "{}[]()*+|\\\"a,:0^$"[(state >> 20) % 17];
      }
      ASSERT_EQ(check_grammar_text(data), "") << data;
    }
  }
}

}  // namespace
}  // namespace tessera

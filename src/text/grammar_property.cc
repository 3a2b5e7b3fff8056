#include "text/grammar_property.h"

#include <algorithm>
#include <cmath>
#include <regex>
#include <vector>

#include "tessera/error.h"
#include "text/grammar.h"
#include "text/grammar_vocabulary.h"

namespace tessera {

namespace {

struct Random {
  uint64_t state;
  uint64_t next() {  // splitmix64
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  bool chance(int percent) { return below(100) < percent; }
};

// All bytes, pieces of JSON and words in many cuts, so that tokens cross every kind of border; one end token.
const GrammarVocabulary& toy_vocabulary() {
  static const GrammarVocabulary vocabulary = [] {
    std::vector<std::string> tokens{""};
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    for (const char* text :
         {"\":",   "\": ",  "\": \"", "\",",      "\", \"",   "\"}",      "\"]",   "\"}]",     "{\"",  "[\"",  "[{\"",
          " \"",   "  ",    "\n  ",   "\n    ",   "\":{\"",   "\":[",     "},",    "}, {\"",   "],",   "]}",   "}}",
          "true",  "false", "null",   "tr",       "ue",       "nu",       "ll",    "12",       "123",  "0.",   ".5",
          "-1",    "e1",    "1e",     "10",       "99",       "00",       "100",   ",1",       ", 2",  "1,",   "2]",
          "name",  "na",    "me\"",   "a\":",     "b\":",     "\"a",      "\"b\"", "abc",      "ab",   "bc",   "c\"",
          "foo",   "foo\"", "foo\",", "\"foo\":", "bar",      "\\n",      "\\\"",  "\\u00",    "\\u",  "00e9", "\\\\",
          "é",     "éa",    "\xc3",   "\xa9\"",   "€",        "\xe2\x82", "😀",     "\xf0\x9f", "x,y",  "-0",   "--",
          "2024-", "-01",   "T10",    ":00",      "aaaaaaaa", "aaaa\"",   "aa\"}", "aaa,",     "item", "+",    "+a",
          "(a",    "a)",    "))",     "((",       "*",        "a+b",      "/",     "end"})
      tokens.emplace_back(text);
    std::vector<bool> special(tokens.size());
    special[0] = true;
    return GrammarVocabulary(std::move(tokens), std::move(special));
  }();
  return vocabulary;
}

constexpr int32_t kEnd[] = {0};

bool bit(const std::vector<uint32_t>& mask, int64_t id) {
  return mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1;
}

// Draws a text; `out` gets it when it ended within `most` tokens. Prefers tokens that close things, more and more.
std::string check_walk(const CompiledGrammar& grammar, Random& random, int64_t most, std::string* out) {
  const GrammarVocabulary& vocabulary = toy_vocabulary();
  GrammarMatcher matcher(grammar);
  std::vector<uint32_t> mask(static_cast<size_t>((vocabulary.size() + 31) / 32)), again = mask;
  std::string text;
  std::vector<int32_t> taken;
  for (int64_t step = 0; step < most; ++step) {
    matcher.fill_mask(mask);
    std::vector<int32_t> allowed;
    for (int64_t id = 0; id < vocabulary.size(); ++id)
      if (bit(mask, id)) allowed.push_back(static_cast<int32_t>(id));
    if (allowed.empty()) return "no token may follow \"" + text + "\"";
    if (step % 4 == 0) {
      for (int64_t id = 0; id < vocabulary.size(); ++id) {
        const bool accepted = matcher.accept(static_cast<int32_t>(id));
        if (accepted) matcher.rollback(1);
        if (accepted != bit(mask, id))
          return "token " + std::to_string(id) + " after \"" + text + "\": the mask says " + std::to_string(!accepted);
      }
      matcher.fill_mask(again);
      if (again != mask) return "taking tokens back after \"" + text + "\" changed the mask";
    }
    const std::string forced = matcher.forced_text();
    if (!forced.empty()) {
      GrammarMatcher copy = matcher;
      if (!copy.accept_text(forced)) return "the forced text \"" + forced + "\" after \"" + text + "\" is refused";
      for (int32_t id : allowed)
        if (id != 0 && vocabulary.size() > 0 && id <= 256 && static_cast<char>(id - 1) != forced[0])
          return "\"" + forced + "\" is not forced after \"" + text + "\"";
    }
    if (step % 7 == 3 && taken.size() >= 3) {
      const int64_t back = 1 + random.below(3);
      matcher.rollback(back);
      for (size_t i = taken.size() - static_cast<size_t>(back); i < taken.size(); ++i)
        if (!matcher.accept(taken[i])) return "a token taken back after \"" + text + "\" is refused";
      matcher.fill_mask(again);
      if (again != mask) return "taking back and again after \"" + text + "\" changed the mask";
    }
    int32_t id = allowed[static_cast<size_t>(random.below(static_cast<int64_t>(allowed.size())))];
    if (bit(mask, 0) && random.chance(step > 30 ? 90 : 30)) id = 0;
    if (step > 40) {  // come to an end
      for (const char close : {'"', '}', ']', 'e', 'l'})
        if (bit(mask, 1 + close)) id = 1 + close;
    }
    if (!matcher.accept(id)) return "an allowed token is refused after \"" + text + "\"";
    taken.push_back(id);
    if (id == 0) {
      if (!matcher.ended()) return "not ended after the end of \"" + text + "\"";
      if (out) *out = text;
      return {};
    }
    if (matcher.ended()) return "ended without the end token";
    text += vocabulary.index()->bytes(id);
  }
  return {};
}

const char* const kNames[] = {"name", "a", "b", "foo", "é", "with space", "quo\"te"};

OrderedJson random_value_schema(Random& random, int depth);

OrderedJson random_string_schema(Random& random) {
  OrderedJson s = {{"type", "string"}};
  switch (random.below(6)) {
    case 0:
      s["minLength"] = random.below(4);
      s["maxLength"] = s["minLength"].get<int64_t>() + random.below(random.chance(50) ? 4 : 40);
      break;
    case 1:
      s["maxLength"] = random.below(30);
      break;
    case 2: {
      static const char* const kPatterns[] = {"^[a-c]{2,12}$", "^a+b?$",   "^(foo|bar)[0-9]{1,3}$", "x",
                                              "^\\w{10,30}$",  "^[^a]{3}$"};
      s["pattern"] = kPatterns[random.below(6)];
      break;
    }
    case 3: {
      static const char* const kNames[] = {"date", "uuid", "ipv4", "time"};
      s["format"] = kNames[random.below(4)];
      break;
    }
    default:
      break;
  }
  return s;
}

OrderedJson random_number_schema(Random& random) {
  OrderedJson s = {{"type", random.chance(50) ? "integer" : "number"}};
  auto bound = [&]() -> OrderedJson {
    const int64_t whole = random.below(random.chance(50) ? 20 : 2000) - 10;
    if (s["type"] == "integer" || random.chance(50)) return whole;
    return static_cast<double>(whole) + static_cast<double>(random.below(100)) / 100;
  };
  if (random.chance(50)) s[random.chance(50) ? "minimum" : "exclusiveMinimum"] = bound();
  if (random.chance(50)) {
    const OrderedJson high = bound();
    const OrderedJson low =
        s.contains("minimum") ? s["minimum"] : s.value("exclusiveMinimum", OrderedJson(high.get<double>() - 2));
    s[random.chance(50) ? "maximum" : "exclusiveMaximum"] =
        high.get<double>() < low.get<double>() + 2 ? OrderedJson(low.get<double>() + 2.5) : high;
  }
  return s;
}

OrderedJson random_object_schema(Random& random, int depth) {
  OrderedJson s = {{"type", "object"}, {"properties", OrderedJson::object()}};
  const int64_t count = random.below(5);
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = kNames[random.below(7)];
    s["properties"][name] = random_value_schema(random, depth - 1);
    if (random.chance(50)) s["required"].push_back(name);
  }
  if (s.contains("required")) {
    OrderedJson unique = OrderedJson::array();
    for (const OrderedJson& name : s["required"])
      if (std::find(unique.begin(), unique.end(), name) == unique.end()) unique.push_back(name);
    s["required"] = unique;
  }
  if (random.chance(30))
    s["additionalProperties"] = random.chance(50) ? OrderedJson(false) : random_value_schema(random, 0);
  return s;
}

OrderedJson random_value_schema(Random& random, int depth) {
  switch (random.below(depth > 0 ? 12 : 6)) {
    case 0:
    case 1:
      return random_string_schema(random);
    case 2:
    case 3:
      return random_number_schema(random);
    case 4:
      return {{"type", random.chance(50) ? "boolean" : "null"}};
    case 5:
      return random.chance(50) ? OrderedJson{{"enum", {"foo", "bar", 12, nullptr, "a\"b"}}}
                               : OrderedJson{{"const", "abc"}};
    case 6:
    case 7:
      return random_object_schema(random, depth);
    case 8: {
      OrderedJson s = {{"type", "array"}, {"items", random_value_schema(random, depth - 1)}};
      if (random.chance(50)) s["minItems"] = random.below(3);
      if (random.chance(50)) s["maxItems"] = 2 + random.below(10);
      return s;
    }
    case 9:
      return {{"type", "array"},
              {"prefixItems", {random_value_schema(random, depth - 1), random_value_schema(random, 0)}},
              {"minItems", random.below(3)}};
    case 10:
      return {{"anyOf", {random_value_schema(random, depth - 1), random_value_schema(random, depth - 1)}}};
    default:
      return {{"$ref", "#/$defs/node"}};
  }
}

size_t length_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

bool has_format(const std::string& text, const std::string& format) {
  static const std::pair<const char*, const char*> kShapes[] = {
      {"date", "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"},
      {"time", "[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]+)?(Z|[+-][0-2][0-9]:[0-5][0-9])"},
      {"uuid", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"},
      {"ipv4", "[0-9]{1,3}(\\.[0-9]{1,3}){3}"}};
  for (const auto& [name, shape] : kShapes)
    if (format == name) return std::regex_match(text, std::regex(shape));
  return false;
}

bool holds(const OrderedJson& v, const OrderedJson& s, const OrderedJson& root);

bool type_holds(const OrderedJson& v, const std::string& type) {
  if (type == "null") return v.is_null();
  if (type == "boolean") return v.is_boolean();
  if (type == "object") return v.is_object();
  if (type == "array") return v.is_array();
  if (type == "string") return v.is_string();
  if (type == "number") return v.is_number();
  return v.is_number() && std::floor(v.get<double>()) == v.get<double>();
}

bool string_holds(const std::string& text, const OrderedJson& s) {
  if (s.contains("minLength") && length_of(text) < s["minLength"].get<size_t>()) return false;
  if (s.contains("maxLength") && length_of(text) > s["maxLength"].get<size_t>()) return false;
  if (s.contains("format") && !has_format(text, s["format"])) return false;
  if (!s.contains("pattern")) return true;
  const std::string pattern = s["pattern"];
  if (pattern == "^[^a]{3}$")
    return length_of(text) == 3 && text.find('a') == std::string::npos;  // std::regex counts bytes
  return std::regex_search(text, std::regex(pattern));
}

bool object_holds(const OrderedJson& v, const OrderedJson& s, const OrderedJson& root) {
  if (s.contains("required"))
    for (const OrderedJson& name : s["required"])
      if (!v.contains(name.get<std::string>())) return false;
  for (const auto& [name, item] : v.items()) {
    if (s.contains("properties") && s["properties"].contains(name)) {
      if (!holds(item, s["properties"][name], root)) return false;
    } else if (s.contains("additionalProperties") && !holds(item, s["additionalProperties"], root)) {
      return false;
    }
  }
  return true;
}

bool array_holds(const OrderedJson& v, const OrderedJson& s, const OrderedJson& root) {
  if (s.contains("minItems") && v.size() < s["minItems"].get<size_t>()) return false;
  if (s.contains("maxItems") && v.size() > s["maxItems"].get<size_t>()) return false;
  const size_t fixed = s.contains("prefixItems") ? s["prefixItems"].size() : 0;
  for (size_t i = 0; i < v.size(); ++i) {
    if (i < fixed && !holds(v[i], s["prefixItems"][i], root)) return false;
    if (i >= fixed && s.contains("items") && !holds(v[i], s["items"], root)) return false;
  }
  return true;
}

bool holds(const OrderedJson& v, const OrderedJson& s, const OrderedJson& root) {
  if (s.is_boolean()) return s.get<bool>();
  if (s.contains("$ref")) return holds(v, root["$defs"]["node"], root);
  if (s.contains("anyOf"))
    return std::any_of(s["anyOf"].begin(), s["anyOf"].end(),
                       [&](const OrderedJson& one) { return holds(v, one, root); });
  if (s.contains("type") && !type_holds(v, s["type"])) return false;
  if (s.contains("const") && v != s["const"]) return false;
  if (s.contains("enum") && std::find(s["enum"].begin(), s["enum"].end(), v) == s["enum"].end()) return false;
  if (v.is_number()) {
    const double x = v.get<double>();
    if (s.contains("minimum") && x < s["minimum"].get<double>()) return false;
    if (s.contains("maximum") && x > s["maximum"].get<double>()) return false;
    if (s.contains("exclusiveMinimum") && x <= s["exclusiveMinimum"].get<double>()) return false;
    if (s.contains("exclusiveMaximum") && x >= s["exclusiveMaximum"].get<double>()) return false;
  }
  if (v.is_string()) return string_holds(v, s);
  if (v.is_object()) return object_holds(v, s, root);
  if (v.is_array()) return array_holds(v, s, root);
  return true;
}

}  // namespace

bool holds_under(const OrderedJson& value, const OrderedJson& schema) {
  return holds(value, schema, schema);
}

OrderedJson random_schema(uint64_t seed) {
  Random random{seed};
  OrderedJson schema = random_object_schema(random, 3);
  schema["$defs"]["node"] = {{"type", "object"},
                             {"properties", {{"a", random_value_schema(random, 0)}, {"b", {{"$ref", "#/$defs/node"}}}}},
                             {"required", {"a"}}};
  return schema;
}

std::string check_random_schema(uint64_t seed) {
  const OrderedJson schema = random_schema(seed);
  const CompiledGrammar grammar = CompiledGrammar::json_schema(schema, toy_vocabulary(), kEnd);
  Random random{seed ^ 0x5eed};
  std::string text, problem = check_walk(grammar, random, 400, &text);
  if (!problem.empty()) return problem + " under " + schema.dump();
  if (text.empty()) return {};  // it went on and on
  const OrderedJson value = OrderedJson::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return "not JSON: " + text + " under " + schema.dump();
  if (!holds_under(value, schema)) return "does not hold: " + text + " under " + schema.dump();
  return {};
}

std::string check_grammar_text(std::string_view data) {
  if (data.empty()) return {};
  const char kind = kGrammarKinds[static_cast<uint8_t>(data[0]) % kGrammarKinds.size()];
  const std::string_view text = data.substr(1);
  try {
    CompiledGrammar grammar = [&] {
      if (kind == 'r') return CompiledGrammar::regex(text, toy_vocabulary(), kEnd);
      if (kind == 'e') return CompiledGrammar::ebnf(text, toy_vocabulary(), kEnd);
      OrderedJson schema = OrderedJson::parse(text, nullptr, /*allow_exceptions=*/false);
      return CompiledGrammar::json_schema(schema, toy_vocabulary(), kEnd);
    }();
    Random random{text.size()};
    return check_walk(grammar, random, 12, nullptr);
  } catch (const Error&) {
    return {};
  }
}

}  // namespace tessera

#include "text/grammar_schema.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "core/error.h"
#include "text/grammar_regex.h"
#include "text/grammar_schema_merge.h"
#include "text/grammar_schema_number.h"
#include "text/json_text.h"

namespace tessera {

namespace {

using Node = GrammarAst::Node;
using Member = GrammarAst::Member;

constexpr size_t kMaxSchemaBytes = 256 * 1024;
constexpr size_t kMaxRules = 4000;     // different schemas inside one
constexpr int64_t kMaxItems = 1000;    // of an array whose number of items is bounded
constexpr size_t kMaxKnownName = 200;  // bytes of a property beside which others may come
constexpr int kMaxValueDepth = 200;    // of schemas within schemas, references followed

// Strings of `format`, as patterns. Dates are of every year's months, without a 29th of February. Where one part ends
// and the next begins is clear from one byte, so that repetitions are counted and not unrolled.
constexpr std::pair<std::string_view, std::string_view> kFormats[] = {
    {"date", R"(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8])))"},
    {"time", R"(([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d))"},
    {"date-time",
     R"(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8])))"
     R"(T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d))"},
    {"duration", R"(P(\d{1,4}W|\d{1,4}Y(\d{1,2}M)?(\d{1,3}D)?|\d{1,2}M(\d{1,3}D)?|\d{1,3}D)|PT\d{1,4}[HMS])"},
    {"uuid", R"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"},
    {"email", R"([a-zA-Z0-9_+-]{1,32}(\.[a-zA-Z0-9_+-]{1,16})?@[a-zA-Z0-9]{1,20}(-[a-zA-Z0-9]{1,20})?)"
              R"((\.[a-zA-Z0-9]{1,20}(-[a-zA-Z0-9]{1,20})?){1,3})"},
    {"hostname", R"([a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\.[a-z0-9]{1,20}(-[a-z0-9]{1,20})?){0,3})"},
    {"ipv4", R"(((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d))"},
    {"ipv6", R"(([0-9a-f]{1,4}:){7}[0-9a-f]{1,4})"},
    {"uri", R"(https?://[a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\.[a-z0-9]{1,20}(-[a-z0-9]{1,20})?)*(:[1-9]\d{1,3})?)"
            R"((/[A-Za-z0-9._~-]{0,40})*(\?[A-Za-z0-9._~=&-]{1,100})?(#[A-Za-z0-9._~-]{1,40})?)"},
};

class Reader {
 public:
  Reader(GrammarAst& ast, const OrderedJson& document) : ast_(ast), merger_(document) {}

  int32_t read(const OrderedJson& schema) {
    const int32_t rule = rule_for(schema, "schema");
    while (!waiting_.empty()) {  // nested schemas one by one: no recursion
      const Waiting next = std::move(waiting_.back());
      waiting_.pop_back();
      path_depth_ = next.depth;
      ast_.define(next.rule, value(next.schema, next.path));
    }
    return rule;
  }

  int32_t object() { return any_object(); }

 private:
  struct Waiting {
    int32_t rule;
    OrderedJson schema;
    std::string path;
    int depth;
  };

  // The rule of a schema; equal schemas share one, which is what ends recursion.
  int32_t rule_for(const OrderedJson& schema, const std::string& path) {
    auto [it, fresh] = rules_.try_emplace(schema.dump(), -1);
    if (!fresh) return it->second;
    if (rules_.size() > kMaxRules)
      fail(ErrorCode::kUnsupported, "{}: the schema unfolds into more than {} parts", path, kMaxRules);
    if (path_depth_ >= kMaxValueDepth) fail(ErrorCode::kUnsupported, "{}: the schema nests too deep", path);
    it->second = ast_.add_rule(path.size() > 120 ? path.substr(0, 120) : path);
    waiting_.push_back({it->second, schema, path, path_depth_ + 1});
    return it->second;
  }

  Node value(const OrderedJson& schema, const std::string& path) {
    // A plain reference is the rule of what it names, so that recursion meets it again.
    if (schema.is_object() && schema.contains("$ref") && schema["$ref"].is_string()) {
      const bool alone = std::all_of(schema.items().begin(), schema.items().end(), [](const auto& item) {
        return item.key() == "$ref" || is_annotation(item.key());
      });
      if (alone) return ast_.call(rule_for(merger_.resolve(schema["$ref"], path), path));
    }
    return flat_value(merger_.flatten(schema, path), path);
  }

  Node flat_value(OrderedJson s, const std::string& path) {
    if (s == false) return ast_.nothing();
    if (s.contains(kSchemaChoices)) return choices(std::move(s), path);
    check_keywords(s, path);
    bool null = false;
    if (s.contains("nullable")) {
      if (!s["nullable"].is_boolean()) fail(ErrorCode::kInvalidArgument, "{}.nullable: expected true or false", path);
      null = s["nullable"];
      s.erase("nullable");
    }
    if (s.empty()) return ast_.call(any_value());
    std::vector<Node> parts;
    if (null) parts.push_back(ast_.bytes("null"));
    if (s.contains("const") || s.contains("enum")) {
      parts.push_back(literals(s, path));
    } else {
      for (const std::string& type : types(s, path)) parts.push_back(typed(s, type, path));
    }
    return ast_.alt(std::move(parts));
  }

  Node choices(OrderedJson s, const std::string& path) {
    OrderedJson all = std::move(s[kSchemaChoices]);
    s.erase(kSchemaChoices);
    const OrderedJson first = all[0];
    all.erase(0);
    if (!all.empty()) s[kSchemaChoices] = std::move(all);
    std::vector<Node> parts;
    for (size_t i = 0; i < first.size(); ++i) {
      const std::string at = fmt::format("{}.anyOf[{}]", path, i);
      if (s.empty()) {
        parts.push_back(ast_.call(rule_for(first[i], at)));
        continue;
      }
      const OrderedJson merged = merger_.merge(s, merger_.flatten(first[i], at, 1), at);
      if (merged != false) parts.push_back(ast_.call(rule_for(merged, at)));
    }
    return ast_.alt(std::move(parts));
  }

  static void check_keywords(const OrderedJson& s, const std::string& path) {
    static const std::set<std::string_view> kKnown = {"type",
                                                      "enum",
                                                      "const",
                                                      "properties",
                                                      "required",
                                                      "additionalProperties",
                                                      "minProperties",
                                                      "maxProperties",
                                                      "items",
                                                      "prefixItems",
                                                      "minItems",
                                                      "maxItems",
                                                      "minLength",
                                                      "maxLength",
                                                      "pattern",
                                                      "format",
                                                      "minimum",
                                                      "maximum",
                                                      "exclusiveMinimum",
                                                      "exclusiveMaximum",
                                                      "nullable",
                                                      "multipleOf",
                                                      "uniqueItems"};
    for (const auto& [key, value] : s.items())
      if (!kKnown.contains(key)) fail(ErrorCode::kUnsupported, "{}: the keyword \"{}\" is not supported", path, key);
    if (s.contains("uniqueItems") && s["uniqueItems"] != false)
      fail(ErrorCode::kUnsupported, "{}: the keyword \"uniqueItems\" is not supported", path);
    if (s.contains("multipleOf") && !(s["multipleOf"] == 1 && s.value("type", OrderedJson()) == "integer"))
      fail(ErrorCode::kUnsupported, "{}: the keyword \"multipleOf\" is not supported", path);
  }

  // The types a schema allows. Without `type` the other keywords tell what is meant.
  std::vector<std::string> types(const OrderedJson& s, const std::string& path) {
    static const std::set<std::string> kNames = {"null", "boolean", "object", "array", "number", "integer", "string"};
    std::vector<std::string> out;
    if (s.contains("type")) {
      const OrderedJson list = s["type"].is_array() ? s["type"] : OrderedJson::array({s["type"]});
      for (const OrderedJson& type : list) {
        if (!type.is_string() || !kNames.contains(type))
          fail(ErrorCode::kInvalidArgument,
               "{}.type: {} is not a type; expected null, boolean, object, array, number, "
               "integer or string",
               path, type.dump().substr(0, 40));
        out.push_back(type);
      }
      return out;
    }
    for (const char* key : {"properties", "required", "additionalProperties", "minProperties", "maxProperties"})
      if (s.contains(key)) return {"object"};
    for (const char* key : {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"})
      if (s.contains(key)) return {"array"};
    for (const char* key : {"minLength", "maxLength", "pattern", "format"})
      if (s.contains(key)) return {"string"};
    return {"number"};
  }

  Node typed(const OrderedJson& s, const std::string& type, const std::string& path) {
    if (type == "null") return ast_.bytes("null");
    if (type == "boolean") return ast_.alt({ast_.bytes("true"), ast_.bytes("false")});
    if (type == "object") return object(s, path);
    if (type == "array") return array(s, path);
    if (type == "string") return string(s, path);
    return number(s, type == "integer", path);
  }

  static std::string type_of(const OrderedJson& value) {
    if (value.is_null()) return "null";
    if (value.is_boolean()) return "boolean";
    if (value.is_object()) return "object";
    if (value.is_array()) return "array";
    if (value.is_string()) return "string";
    return value.is_number_integer() || value.is_number_unsigned() ? "integer" : "number";
  }

  Node literals(const OrderedJson& s, const std::string& path) {
    for (const auto& [key, value] : s.items())
      if (key != "enum" && key != "const" && key != "type")
        fail(ErrorCode::kUnsupported, "{}: \"{}\" beside enum or const is not supported", path, key);
    OrderedJson list = s.contains("enum") ? s["enum"] : OrderedJson::array({s["const"]});
    if (!list.is_array() || list.empty())
      fail(ErrorCode::kInvalidArgument, "{}.enum: expected an array of at least one value", path);
    std::vector<std::string> allowed;
    if (s.contains("type")) allowed = types(s, path);
    std::vector<Node> parts;
    for (const OrderedJson& item : list) {
      if (s.contains("const") && item != s["const"]) continue;
      const std::string type = type_of(item);
      auto has = [&](const char* name) { return std::find(allowed.begin(), allowed.end(), name) != allowed.end(); };
      if (s.contains("type") && !has(type.c_str()) && !(type == "integer" && has("number"))) continue;
      parts.push_back(ast_.bytes(dumped(item, path)));
    }
    return ast_.alt(std::move(parts));
  }

  static std::string dumped(const OrderedJson& value, const std::string& path) {
    try {
      return value.dump();
    } catch (const OrderedJson::exception&) {
      fail(ErrorCode::kInvalidArgument, "{}: a string is not valid UTF-8", path);
    }
  }

  static std::optional<int64_t> count(const OrderedJson& s, const char* key, const std::string& path) {
    if (!s.contains(key)) return std::nullopt;
    const OrderedJson& v = s[key];
    const bool whole =
        v.is_number_integer() ||
        (v.is_number_float() &&
         v.get<double>() == static_cast<double>(static_cast<int64_t>(std::clamp(v.get<double>(), -1e15, 1e15))));
    if (!whole || v.get<double>() < 0)
      fail(ErrorCode::kInvalidArgument, "{}.{}: expected a whole number of 0 or more", path, key);
    return static_cast<int64_t>(std::min(v.get<double>(), 1e15));
  }

  // Shared pieces
  // ---------------------------------------------------------------------------------------------------------------

  // A line break with its indentation, or a space, or nothing.
  Node space() {
    if (space_ < 0) {
      space_ = leaf_rule(
          "space", ast_.alt({ast_.bytes(" "), ast_.seq({ast_.bytes("\n"),
                                                        ast_.repeat(ast_.chars({{' ', ' '}, {'\t', '\t'}}), 0, 40)})}));
    }
    return ast_.optional(ast_.call(space_));
  }
  Node comma() { return ast_.seq({ast_.bytes(","), space()}); }

  int32_t leaf_rule(std::string name, Node body) {
    const int32_t rule = ast_.add_rule(std::move(name));
    ast_.define(rule, body);
    ast_.rule(rule).json = ast_.rule(rule).apart = true;
    return rule;
  }

  Node plain_string(int32_t min, int32_t max) {
    int32_t& rule = strings_.try_emplace({min, max}, -1).first->second;
    if (rule < 0) {
      // Unbounded strings are counted too, so that all strings are one automaton.
      const Node inside = ast_.counted(json_any_char(ast_), min, max);
      rule = leaf_rule("a string", ast_.seq({ast_.bytes("\""), inside, ast_.bytes("\"")}));
      ast_.rule(rule).any_length = true;
    }
    return ast_.call(rule);
  }

  int32_t any_value() {
    if (any_value_ < 0) {
      any_value_ = ast_.add_rule("any value");
      any_object_ = ast_.add_rule("any object");
      define_any();
    }
    return any_value_;
  }
  int32_t any_object() {
    any_value();
    return any_object_;
  }
  void define_any() {
    const Node v = ast_.call(any_value_);
    const Node pair = ast_.seq({plain_string(0, GrammarAst::kUnbounded), ast_.bytes(":"), space(), v});
    ast_.define(any_object_, braces("{", ast_.members({{pair, Member::kRepeated}}, comma()), "}"));
    const Node items = braces("[", ast_.members({{v, Member::kRepeated}}, comma()), "]");
    ast_.define(any_value_, ast_.alt({ast_.call(any_object_), items, plain_string(0, GrammarAst::kUnbounded),
                                      plain_number(), ast_.bytes("true"), ast_.bytes("false"), ast_.bytes("null")}));
  }

  Node plain_number() {
    if (number_ < 0) number_ = leaf_rule("a number", number_node(ast_, std::nullopt, std::nullopt, ""));
    return ast_.call(number_);
  }

  Node braces(const char* open, Node inside, const char* close) {
    return ast_.seq({ast_.bytes(open), space(), inside, space(), ast_.bytes(close)});
  }

  // Types
  // ------------------------------------------------------------------------------------------------------------------

  Node object(const OrderedJson& s, const std::string& path) {
    const OrderedJson none = OrderedJson::object();
    const OrderedJson& properties = s.contains("properties") ? s["properties"] : none;
    if (!properties.is_object()) fail(ErrorCode::kInvalidArgument, "{}.properties: expected an object", path);
    std::set<std::string> required;
    if (s.contains("required")) {
      if (!s["required"].is_array()) fail(ErrorCode::kInvalidArgument, "{}.required: expected an array of names", path);
      for (const OrderedJson& name : s["required"]) {
        if (!name.is_string()) fail(ErrorCode::kInvalidArgument, "{}.required: expected an array of names", path);
        required.insert(name);
      }
    }
    const bool says = s.contains("additionalProperties");
    const OrderedJson rest = says ? s["additionalProperties"] : OrderedJson(true);
    const bool open = says ? rest != false : !s.contains("properties");
    std::vector<std::pair<Node, Member>> members;
    std::vector<std::string> names;
    auto add = [&](const std::string& name, const OrderedJson& schema) {
      names.push_back(name);
      const bool must = required.erase(name) > 0;
      if (schema == false && !must) return;
      const std::string at = fmt::format("{}.properties.{}", path, name);
      const Node key = ast_.bytes(dumped(name, path) + ":");
      members.emplace_back(ast_.seq({key, space(), ast_.call(rule_for(schema, at))}),
                           must ? Member::kRequired : Member::kOptional);
    };
    for (const auto& [name, schema] : properties.items()) add(name, schema);
    for (const std::string& name : std::set<std::string>(required)) add(name, rest);
    const auto must = static_cast<int64_t>(
        std::count_if(members.begin(), members.end(), [](const auto& m) { return m.second == Member::kRequired; }));
    const std::optional<int64_t> least = count(s, "minProperties", path), most = count(s, "maxProperties", path);
    if (least && *least > must)
      fail(ErrorCode::kUnsupported, "{}: \"minProperties\" above the number of required ones is not supported", path);
    if (most && (open || *most < static_cast<int64_t>(members.size())))
      fail(ErrorCode::kUnsupported, "{}: \"maxProperties\" below the number of declared ones is not supported", path);
    if (open) {
      const Node value =
          rest == true ? ast_.call(any_value()) : ast_.call(rule_for(rest, path + ".additionalProperties"));
      members.emplace_back(ast_.seq({other_key(names, path), ast_.bytes(":"), space(), value}), Member::kRepeated);
    }
    if (members.empty()) return ast_.bytes("{}");
    return braces("{", ast_.members(members, comma()), "}");
  }

  // A key that is none of the names, written without escapes.
  Node other_key(const std::vector<std::string>& names, const std::string& path) {
    if (names.empty()) return plain_string(0, GrammarAst::kUnbounded);
    std::vector<std::u32string> codes;
    for (const std::string& name : names) {
      if (name.size() > kMaxKnownName)
        fail(ErrorCode::kUnsupported,
             "{}: \"additionalProperties\" beside a property whose name has {} bytes is not "
             "supported",
             path, name.size());
      std::u32string& code = codes.emplace_back();
      ClassReader in{name};
      while (in.at < name.size()) code += in.next_code();
    }
    std::sort(codes.begin(), codes.end());
    const Node body = other_text(codes, 0, codes.size(), 0);
    return ast_.call(leaf_rule("another key", ast_.seq({ast_.bytes("\""), body, ast_.bytes("\"")})));
  }

  // What follows `depth` characters that names [begin, end) begin with, without being one of them in the end.
  Node other_text(const std::vector<std::u32string>& names, size_t begin, size_t end, size_t depth) {
    const std::vector<CodeRange> plain = {{0x20, '!'}, {'#', '['}, {']', 0x10FFFF}};
    std::vector<Node> parts;
    std::vector<CodeRange> taken;
    const bool is_name = names[begin].size() == depth;
    if (!is_name) parts.push_back(ast_.empty());
    for (size_t i = begin + (is_name ? 1 : 0); i < end;) {
      if (names[i].size() == depth) {
        ++i;
        continue;
      }
      const char32_t c = names[i][depth];
      size_t last = i;
      while (last < end && names[last].size() > depth && names[last][depth] == c) ++last;
      if (c >= 0x20 && c != '"' && c != '\\') {
        taken.push_back({c, c});
        parts.push_back(ast_.seq({ast_.chars({{c, c}}), other_text(names, i, last, depth + 1)}));
      }
      i = last;
    }
    std::vector<CodeRange> others = complement_ranges(normalize_ranges(taken));
    others = complement_ranges(normalize_ranges([&] {
      std::vector<CodeRange> out = complement_ranges(others), not_plain = complement_ranges(normalize_ranges(plain));
      out.insert(out.end(), not_plain.begin(), not_plain.end());
      return out;
    }()));
    parts.push_back(ast_.seq({ast_.chars(others), ast_.repeat(ast_.chars(plain), 0, GrammarAst::kUnbounded)}));
    return ast_.alt(std::move(parts));
  }

  Node array(const OrderedJson& s, const std::string& path) {
    OrderedJson prefix = OrderedJson::array(), items = true;
    bool open = true;
    if (s.contains("prefixItems")) {
      prefix = s["prefixItems"];
      if (!prefix.is_array()) fail(ErrorCode::kInvalidArgument, "{}.prefixItems: expected an array", path);
      open = s.contains("items");
    }
    if (s.contains("items")) {
      items = s["items"];
      if (items.is_array()) fail(ErrorCode::kUnsupported, "{}.items: an array is not supported; use prefixItems", path);
      open = items != false;
    }
    const auto fixed = static_cast<int64_t>(prefix.size());
    const int64_t least = count(s, "minItems", path).value_or(0);
    const std::optional<int64_t> limit = count(s, "maxItems", path);
    if (least > kMaxItems) fail(ErrorCode::kUnsupported, "{}: \"minItems\" above {} is not supported", path, kMaxItems);
    if (!s.contains("items") && least > fixed) open = true;
    int64_t most = limit ? std::min(*limit, std::max(kMaxItems, fixed)) : -1;
    if (!open) most = most < 0 ? fixed : std::min(most, fixed);
    if (most >= 0 && least > most) return ast_.nothing();
    if (most == 0) return ast_.bytes("[]");
    std::vector<Node> elements;
    for (int64_t i = 0; i < fixed && (most < 0 || i < most); ++i)
      elements.push_back(
          ast_.call(rule_for(prefix[static_cast<size_t>(i)], fmt::format("{}.prefixItems[{}]", path, i))));
    Node tail = ast_.empty();  // what follows the fixed elements, and with it a comma before each
    if (open && (most < 0 || most > fixed)) {
      const Node item = items == true ? ast_.call(any_value()) : ast_.call(rule_for(items, path + ".items"));
      const auto more = static_cast<int32_t>(std::max<int64_t>(0, least - fixed));
      const int32_t at_most = most < 0 ? GrammarAst::kUnbounded : static_cast<int32_t>(most - fixed);
      if (fixed == 0) {
        const Node rest =
            ast_.repeat(ast_.seq({comma(), item}), std::max(0, more - 1), at_most < 0 ? at_most : at_most - 1);
        tail = ast_.seq({item, rest});
        if (least == 0) tail = ast_.optional(tail);
      } else {
        tail = ast_.repeat(ast_.seq({comma(), item}), more, at_most);
      }
    }
    for (size_t i = elements.size(); i-- > 0;) {
      const Node element = i == 0 ? elements[i] : ast_.seq({comma(), elements[i]});
      tail = ast_.seq({element, tail});
      if (static_cast<int64_t>(i) >= least) tail = ast_.optional(tail);
    }
    return braces("[", tail, "]");
  }

  Node string(const OrderedJson& s, const std::string& path) {
    const std::optional<int64_t> least = count(s, "minLength", path), most = count(s, "maxLength", path);
    if (least && most && *least > *most) return ast_.nothing();
    if (!s.contains("pattern") && !s.contains("format")) {
      if (least.value_or(0) > GrammarAst::kMaxRepeat)
        fail(ErrorCode::kUnsupported, "{}: \"minLength\" above {} is not supported", path, GrammarAst::kMaxRepeat);
      const int64_t longest = most ? std::min<int64_t>(*most, GrammarAst::kMaxRepeat) : GrammarAst::kUnbounded;
      return plain_string(static_cast<int32_t>(least.value_or(0)), static_cast<int32_t>(longest));
    }
    if (s.contains("pattern") && s.contains("format"))
      fail(ErrorCode::kUnsupported, "{}: \"pattern\" beside \"format\" is not supported", path);
    RegexNode inside{};
    if (s.contains("format")) {
      if (!s["format"].is_string()) fail(ErrorCode::kInvalidArgument, "{}.format: expected a string", path);
      const std::string name = s["format"];
      const auto* format =
          std::find_if(std::begin(kFormats), std::end(kFormats), [&](const auto& f) { return f.first == name; });
      if (format == std::end(kFormats))
        fail(ErrorCode::kUnsupported, "{}: the format \"{}\" is not supported", path, name.substr(0, 60));
      inside = regex_node(ast_, format->second, {.json = true});
    } else {
      if (!s["pattern"].is_string()) fail(ErrorCode::kInvalidArgument, "{}.pattern: expected a string", path);
      try {
        const std::string pattern = s["pattern"];
        inside = regex_node(ast_, pattern, {.json = true, .anchored = false});
      } catch (const Error& e) {
        fail(e.code(), "{}.pattern: {}", path, e.what());
      }
    }
    if (inside.shortest < least.value_or(0) || inside.longest > most.value_or(RegexNode::kUnboundedLength)) {
      fail(ErrorCode::kUnsupported,
           "{}: \"minLength\" and \"maxLength\" beside a pattern or format that may be shorter "
           "or longer are not supported",
           path);
    }
    return ast_.call(leaf_rule(path.substr(0, 120), ast_.seq({ast_.bytes("\""), inside.node, ast_.bytes("\"")})));
  }

  Node number(const OrderedJson& s, bool integer, const std::string& path) {
    auto bound = [&](const char* plain, const char* exclusive, bool is_low) -> std::optional<NumberBound> {
      std::optional<NumberBound> out;
      for (const char* key : {plain, exclusive}) {
        if (!s.contains(key)) continue;
        const OrderedJson& v = s[key];
        if (!v.is_number()) fail(ErrorCode::kInvalidArgument, "{}.{}: expected a number", path, key);
        const bool tighter = !out || (is_low ? v >= out->value : v <= out->value);
        if (tighter) out = NumberBound{v, key == exclusive};
      }
      return out;
    };
    const auto low = bound("minimum", "exclusiveMinimum", true), high = bound("maximum", "exclusiveMaximum", false);
    if (s.contains("format")) {
      static const std::set<std::string> kNumbers = {"int32", "int64", "float", "double"};
      if (!s["format"].is_string() || !kNumbers.contains(s["format"]))
        fail(ErrorCode::kUnsupported, "{}: the format {} of a number is not supported", path,
             s["format"].dump().substr(0, 60));
    }
    if (!low && !high && !integer) return plain_number();
    const Node node = integer ? integer_node(ast_, low, high, path) : number_node(ast_, low, high, path);
    return ast_.call(leaf_rule(path.substr(0, 120), node));
  }

  GrammarAst& ast_;
  SchemaMerger merger_;
  std::unordered_map<std::string, int32_t> rules_;  // by the schema's text
  std::vector<Waiting> waiting_;
  int path_depth_ = 0;
  std::map<std::pair<int32_t, int32_t>, int32_t> strings_;  // by length
  int32_t space_ = -1, number_ = -1, any_value_ = -1, any_object_ = -1;
};

}  // namespace

int32_t schema_rule(GrammarAst& ast, const OrderedJson& schema) {
  check_json_depth(schema, "the schema");
  std::string text;
  try {
    text = schema.dump();
  } catch (const OrderedJson::exception&) {
    fail(ErrorCode::kInvalidArgument, "the schema holds a string that is not valid UTF-8");
  }
  if (text.size() > kMaxSchemaBytes)
    fail(ErrorCode::kUnsupported, "the schema has {} bytes; at most {} are supported", text.size(), kMaxSchemaBytes);
  return Reader(ast, schema).read(schema);
}

int32_t json_object_rule(GrammarAst& ast) {
  const OrderedJson none;
  return Reader(ast, none).object();
}

}  // namespace tessera

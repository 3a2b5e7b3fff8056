#include "api/reply_constraint.h"

#include <algorithm>
#include <list>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"
#include "text/grammar_ast.h"
#include "text/grammar_ebnf.h"
#include "text/grammar_regex.h"
#include "text/grammar_schema.h"
#include "text/harmony_types.h"

namespace tessera {

namespace {

using Node = GrammarAst::Node;

constexpr size_t kKeptGrammars = 64;

// Tags of a reply without channels, where the tokenizer has tokens for them: then only those are tags (see
// reply_parser.cc). Otherwise -1, and their text is.
struct Tags {
  int32_t think = -1, think_end = -1, call = -1, call_end = -1;

  static Tags of(const Tokenizer& tokenizer) {
    auto id = [&](std::string_view text) { return tokenizer.token_to_id(text).value_or(-1); };
    return {id("<think>"), id("</think>"), id("<tool_call>"), id("</tool_call>")};
  }
  std::vector<int32_t> ids() const {
    std::vector<int32_t> out{think, think_end, call, call_end};
    std::erase(out, -1);
    return out;
  }
};

// What the prompt has opened for the model.
enum class Opened : char { kNothing = '0', kReasoning = '1', kAnswer = '2' };

Opened opened_by(std::string_view prompt, bool harmony) {
  if (harmony) {
    if (prompt.ends_with("<|channel|>final<|message|>")) return Opened::kAnswer;
    return prompt.ends_with("<|channel|>analysis<|message|>") ? Opened::kReasoning : Opened::kNothing;
  }
  const size_t last = prompt.find_last_not_of(" \n\r\t");
  prompt = prompt.substr(0, last == std::string_view::npos ? 0 : last + 1);
  if (prompt.ends_with("</think>")) return Opened::kAnswer;
  return prompt.ends_with("<think>") ? Opened::kReasoning : Opened::kNothing;
}

class GrammarConstraint final : public TokenConstraint {
 public:
  explicit GrammarConstraint(CompiledGrammar grammar) : matcher_(std::move(grammar)) {}

  bool fill_mask(std::span<uint32_t> mask) override {
    matcher_.fill_mask(mask);
    return true;
  }
  bool accept(int32_t id) override { return matcher_.accept(id); }
  void rollback(int64_t tokens) override { matcher_.rollback(tokens); }
  int64_t max_rollback() const override { return GrammarMatcher::kMaxRollback; }
  bool ended() const override { return matcher_.ended(); }
  std::unique_ptr<TokenConstraint> clone() const override { return std::make_unique<GrammarConstraint>(*this); }

 private:
  GrammarMatcher matcher_;
};

struct Tool {
  std::string name;
  OrderedJson parameters;  // null: takes nothing
};

std::vector<Tool> read_tools(const ReplyShape& shape) {
  std::vector<Tool> out;
  if (shape.tools.is_null() || shape.choice == ToolChoice::kNone) return out;
  if (!shape.tools.is_array()) fail(ErrorCode::kInvalidArgument, "tools: expected an array");
  std::set<std::string> names;
  for (size_t i = 0; i < shape.tools.size(); ++i) {
    const OrderedJson& entry = shape.tools[i];
    if (!entry.is_object()) fail(ErrorCode::kInvalidArgument, "tools[{}]: expected an object", i);
    const OrderedJson& f = entry.contains("function") ? entry["function"] : entry;
    if (!f.is_object() || !f.contains("name") || !f["name"].is_string())
      fail(ErrorCode::kInvalidArgument, "tools[{}].function.name: expected a string", i);
    const std::string name = f["name"];
    const bool fits = !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
             c == '.';
    });
    if (!fits) {
      fail(ErrorCode::kInvalidArgument,
           "tools[{}].function.name: expected 1 to 128 letters, digits, underscores, dashes or dots", i);
    }
    if (!names.insert(name).second)
      fail(ErrorCode::kInvalidArgument, "tools[{}].function.name: \"{}\" is there twice", i, name);
    out.push_back({name, f.contains("parameters") ? f["parameters"] : OrderedJson()});
  }
  return out;
}

// Runs a reader of schemas whose messages begin with "schema", and puts the place there instead.
template <class F>
auto at_place(const std::string& place, F&& read) {
  try {
    return read();
  } catch (const Error& e) {
    const std::string what = e.what();
    throw Error(e.code(), what.starts_with("schema") ? place + what.substr(6) : place + ": " + what);
  }
}

// The grammar of one kind of reply.
class Builder {
 public:
  Builder(const ReplyShape& shape, const std::vector<int32_t>& eos_ids) : shape_(shape), eos_ids_(eos_ids) {}

  GrammarAst take() { return std::move(ast_); }

  void root(Node body) {
    ast_.root = ast_.add_rule("the reply");
    ast_.define(ast_.root, body);
  }

  // What follows the prompt's <|start|>assistant: reasoning and comments, then the answer or a call. (A call ends the
  // turn, so there is one.)
  void harmony(const HarmonyTokens& tokens, Opened opened) {
    auto special = [&](HarmonySpecial s) { return ast_.token(tokens.id(s)); };
    const Node text = free_text({});
    auto message = [&](const char* channel) {
      return ast_.seq({special(HarmonySpecial::kChannel), ast_.bytes(channel), special(HarmonySpecial::kMessage)});
    };
    const Node close =
        ast_.seq({text, special(HarmonySpecial::kEnd), special(HarmonySpecial::kStart), ast_.bytes("assistant")});
    const std::vector<Tool> tools = chosen_tools();
    std::vector<Node> asides{ast_.seq({message("analysis"), close})};
    if (!tools.empty()) asides.push_back(ast_.seq({message("commentary"), close}));
    std::vector<Node> last;
    const Node answer_end = ast_.seq({answer({}), end(tokens.id(HarmonySpecial::kCall))});
    if (may_answer()) last.push_back(ast_.seq({message("final"), answer_end}));
    for (const Tool& tool : tools) last.push_back(harmony_call(tokens, tool));
    const Node rest = ast_.seq({ast_.repeat(ast_.alt(asides), 0, GrammarAst::kUnbounded), ast_.alt(last)});
    if (opened == Opened::kAnswer) return root(answer_end);
    root(opened == Opened::kReasoning ? ast_.seq({close, rest}) : rest);
  }

  // Text with <think> and <tool_call> tags.
  void tagged(const Tags& tags, bool thinks, Opened opened) {
    tags_ = tags;
    const Node thought =
        ast_.seq({free_text(texts_of({{tags.think_end, "</think>"}})), tag(tags.think_end, "</think>")});
    Node before = ast_.empty();
    if (opened == Opened::kReasoning) {
      before = thought;
    } else if (thinks && opened == Opened::kNothing) {
      before = ast_.optional(ast_.seq({tag(tags.think, "<think>"), thought}));
    }
    const Node lines = ast_.repeat(ast_.bytes("\n"), 0, 2);
    const std::vector<Tool> tools = chosen_tools();
    std::vector<Node> rest;
    if (may_answer()) {
      rest.push_back(answer(texts_of({{tags.think, "<think>"},
                                      {tags.think_end, "</think>"},
                                      {tags.call, "<tool_call>"},
                                      {tags.call_end, "</tool_call>"}})));
    }
    if (!tools.empty()) {
      std::vector<Node> kinds;
      for (const Tool& tool : tools) kinds.push_back(tagged_call(tool));
      const Node call = ast_.alt(std::move(kinds));
      const Node more = ast_.repeat(ast_.seq({ast_.bytes("\n"), call}), 0, GrammarAst::kUnbounded);
      const Node calls = shape_.parallel_tool_calls ? ast_.seq({call, more}) : call;
      const bool comments = may_answer() && shape_.format == AnswerFormat::kText;
      rest.push_back(comments ? ast_.seq({rest[0], calls}) : calls);
    }
    root(ast_.seq({before, lines, ast_.alt(std::move(rest)), end(-1)}));
  }

  void plain() { root(ast_.seq({answer({}), end(-1)})); }

 private:
  bool may_answer() const { return shape_.choice == ToolChoice::kNone || shape_.choice == ToolChoice::kAuto; }

  std::vector<Tool> chosen_tools() const {
    std::vector<Tool> tools = read_tools(shape_);
    if (shape_.choice == ToolChoice::kNamed) {
      std::erase_if(tools, [&](const Tool& tool) { return tool.name != shape_.tool_name; });
      if (tools.empty())
        fail(ErrorCode::kInvalidArgument, "tool_choice: \"{}\" is none of the tools", shape_.tool_name.substr(0, 128));
    }
    if (shape_.choice == ToolChoice::kRequired && tools.empty())
      fail(ErrorCode::kInvalidArgument, "tool_choice: \"required\" needs tools");
    return tools;
  }

  Node tag(int32_t id, const char* text) { return id >= 0 ? ast_.token(id) : ast_.bytes(text); }
  // Those tags that are text.
  static std::vector<std::string> texts_of(std::initializer_list<std::pair<int32_t, const char*>> tags) {
    std::vector<std::string> out;
    for (const auto& [id, text] : tags)
      if (id < 0) out.emplace_back(text);
    return out;
  }

  // What ends the reply, but for one id.
  Node end(int32_t but) {
    std::vector<Node> ends;
    for (int32_t id : eos_ids_)
      if (id != but) ends.push_back(ast_.token(id));
    return ends.empty() ? ast_.empty() : ast_.alt(std::move(ends));
  }

  Node free_text(std::vector<std::string> without) {
    const int32_t rule = ast_.add_rule("free text");
    ast_.rule(rule).apart = true;
    ast_.define(rule, ast_.text_without(std::move(without)));
    return ast_.call(rule);
  }

  Node answer(std::vector<std::string> without) {
    int32_t rule = 0;
    switch (shape_.format) {
      case AnswerFormat::kText:
        return free_text(std::move(without));
      case AnswerFormat::kJsonObject:
        return ast_.call(json_object_rule(ast_));
      case AnswerFormat::kJsonSchema:
        return schema_at(shape_.format_field, shape_.schema);
      case AnswerFormat::kRegex:
        rule = ast_.add_rule("the pattern");
        ast_.define(rule, at_place(shape_.format_field, [&] { return regex_node(ast_, shape_.grammar, {}).node; }));
        break;
      case AnswerFormat::kEbnf:
        rule = at_place(shape_.format_field, [&] { return ebnf_rules(ast_, shape_.grammar); });
        break;
    }
    ast_.rule(rule).apart = true;
    ast_.rule(rule).place = shape_.format_field;
    return ast_.call(rule);
  }

  Node schema_at(const std::string& place, const OrderedJson& schema) {
    const int32_t rule = at_place(place, [&] { return schema_rule(ast_, schema); });
    ast_.rule(rule).place = place;
    return ast_.call(rule);
  }

  Node arguments(const Tool& tool) {
    if (tool.parameters.is_null()) return ast_.bytes("{}");
    size_t index = 0;
    for (const Tool& other : read_tools(shape_)) {
      if (other.name == tool.name) break;
      ++index;
    }
    const std::string place = fmt::format("tools[{}].{}", index, shape_.parameters_field);
    OrderedJson schema = tool.parameters;
    if (schema.is_object() && !schema.contains("type")) schema["type"] = "object";
    if (!schema.is_object() || schema["type"] != "object")
      fail(ErrorCode::kInvalidArgument, "{}.type: the arguments of a function are an object", place);
    return schema_at(place, schema);
  }

  // As models write it; openai-harmony writes the recipient before the channel.
  Node harmony_call(const HarmonyTokens& tokens, const Tool& tool) {
    const Node channel = ast_.token(tokens.id(HarmonySpecial::kChannel));
    const std::string to = " to=functions." + tool.name;
    const Node header = ast_.alt({ast_.seq({channel, ast_.bytes("commentary" + to)}),
                                  ast_.seq({ast_.bytes(to), channel, ast_.bytes("commentary")})});
    const Node constrained =
        ast_.seq({ast_.bytes(" "), ast_.token(tokens.id(HarmonySpecial::kConstrain)), ast_.bytes("json")});
    const Node type = ast_.alt({constrained, ast_.bytes(" json"), ast_.empty()});
    return ast_.seq({header, type, ast_.token(tokens.id(HarmonySpecial::kMessage)), arguments(tool),
                     ast_.token(tokens.id(HarmonySpecial::kCall))});
  }

  Node tagged_call(const Tool& tool) {
    return ast_.seq({tag(tags_.call, "<tool_call>"), ast_.bytes("\n{\"name\": \"" + tool.name + "\", \"arguments\": "),
                     arguments(tool), ast_.bytes("}\n"), tag(tags_.call_end, "</tool_call>")});
  }

  const ReplyShape& shape_;
  const std::vector<int32_t>& eos_ids_;
  GrammarAst ast_;
  Tags tags_;
};

std::string key_of(const ReplyShape& shape) {
  OrderedJson key = {{"format", static_cast<int>(shape.format)},
                     {"schema", shape.schema},
                     {"grammar", shape.grammar},
                     {"tools", shape.tools},
                     {"choice", static_cast<int>(shape.choice)},
                     {"name", shape.tool_name},
                     {"parallel", shape.parallel_tool_calls}};
  return key.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace

struct ReplyConstraints::Impl {
  Impl(const Tokenizer& tokenizer, std::vector<int32_t> eos, int64_t vocab_size)
      : eos_ids(std::move(eos)), tags(Tags::of(tokenizer)), vocabulary(tokenizer, vocab_size, tags.ids()) {
    auto id_of = [&](std::string_view name) { return tokenizer.token_to_id(name); };
    if (id_of("<|channel|>") && id_of("<|start|>") && id_of("<|message|>")) harmony = HarmonyTokens::from(id_of);
    if (harmony && std::find(eos_ids.begin(), eos_ids.end(), harmony->id(HarmonySpecial::kReturn)) == eos_ids.end())
      eos_ids.push_back(harmony->id(HarmonySpecial::kReturn));
  }

  // `build` fills a Builder; its grammar is kept under the key.
  template <class F>
  std::shared_ptr<const TokenConstraint> make(const std::string& key, const ReplyShape& shape, F&& build) {
    {
      std::lock_guard lock(mutex);
      for (auto it = kept.begin(); it != kept.end(); ++it) {
        if (it->first != key) continue;
        kept.splice(kept.begin(), kept, it);
        return kept.front().second;
      }
    }
    Builder builder(shape, eos_ids);
    build(builder);
    auto made = std::make_shared<const GrammarConstraint>(CompiledGrammar::compile(builder.take(), vocabulary));
    std::lock_guard lock(mutex);
    kept.emplace_front(key, made);
    if (kept.size() > kKeptGrammars) kept.pop_back();
    return made;
  }

  std::vector<int32_t> eos_ids;
  Tags tags;
  GrammarVocabulary vocabulary;
  std::optional<HarmonyTokens> harmony;

  std::mutex mutex;
  std::list<std::pair<std::string, std::shared_ptr<const TokenConstraint>>> kept;  // most recent first
};

ReplyConstraints::ReplyConstraints(const Tokenizer& tokenizer, std::vector<int32_t> eos_ids, int64_t vocab_size)
    : impl_(std::make_unique<Impl>(tokenizer, std::move(eos_ids), vocab_size)) {}
ReplyConstraints::~ReplyConstraints() = default;

std::shared_ptr<const TokenConstraint> ReplyConstraints::chat(const ReplyShape& shape, std::string_view prompt_end) {
  const bool tools = shape.choice != ToolChoice::kNone && !shape.tools.is_null() && !shape.tools.empty();
  const bool must = shape.choice == ToolChoice::kRequired || shape.choice == ToolChoice::kNamed;
  if (shape.format == AnswerFormat::kText && !tools && !must) return nullptr;
  const Opened opened = opened_by(prompt_end, impl_->harmony.has_value());
  const std::string key = std::string("chat") + static_cast<char>(opened) + key_of(shape);
  return impl_->make(key, shape, [&](Builder& builder) {
    if (impl_->harmony) return builder.harmony(*impl_->harmony, opened);
    builder.tagged(impl_->tags, impl_->tags.think >= 0, opened);
  });
}

std::shared_ptr<const TokenConstraint> ReplyConstraints::completion(const ReplyShape& shape) {
  if (shape.format == AnswerFormat::kText) return nullptr;
  return impl_->make("text" + key_of(shape), shape, [](Builder& builder) { builder.plain(); });
}

}  // namespace tessera

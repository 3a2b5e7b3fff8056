// Constrained replies: what their masks let through always reads back as what was asked for, drawn at random and by the
// glossary model through the engine.
#include "api/reply_constraint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "api/batch_engine.h"
#include "api/llm_impl.h"
#include "api/reply_parser.h"
#include "support/fixtures.h"
#include "tessera/chat.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

const char* const kModel = TESSERA_SOURCE_DIR "/models/glossary";

Llm& glossary() {
  static Llm llm = Llm::load(kModel, {.dtype = "float32", .max_context = 2048});
  return llm;
}

ReplyConstraints& constraints() {
  static ReplyConstraints made(glossary().impl().text(), glossary().impl().eos_ids, glossary().vocab_size());
  return made;
}

const OrderedJson& weather_tools() {
  static const OrderedJson tools = OrderedJson::parse(R"([
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a place",
     "parameters": {"type": "object", "properties": {"location": {"type": "string", "maxLength": 40},
       "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}, "required": ["location"]}}},
    {"type": "function", "function": {"name": "roll", "parameters": {"type": "object",
     "properties": {"sides": {"type": "integer", "minimum": 2, "maximum": 100}}, "required": ["sides"]}}},
    {"type": "function", "function": {"name": "now"}}])");
  return tools;
}

// Tokens that bring a reply to its end.
std::vector<int32_t> closing_tokens(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string bytes = tokenizer.token_bytes(id);
    if (tokenizer.is_special(id) || bytes == "\"" || bytes == "}" || bytes == "<" || bytes == "</think>" ||
        bytes == "<tool_call>")
      ids.push_back(id);
  }
  return ids;
}

// Draws a reply under a constraint: a random allowed token each time, ends preferred after a while.
std::vector<int32_t> drawn(const TokenConstraint& prototype, const std::vector<int32_t>& closing, int64_t vocab_size,
                           uint64_t seed) {
  std::unique_ptr<TokenConstraint> constraint = prototype.clone();
  std::vector<uint32_t> mask(static_cast<size_t>((vocab_size + 31) / 32));
  auto allows = [&](int64_t id) { return mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1; };
  std::vector<int32_t> ids;
  for (int step = 0; step < 300 && !constraint->ended(); ++step) {
    EXPECT_TRUE(constraint->fill_mask(mask));
    std::vector<int32_t> from;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    if (step > 40 || (seed >> 60) < 6) std::copy_if(closing.begin(), closing.end(), std::back_inserter(from), allows);
    if (from.empty()) {
      for (int64_t id = 0; id < vocab_size; ++id)
        if (allows(id)) from.push_back(static_cast<int32_t>(id));
    }
    if (from.empty()) {
      ADD_FAILURE() << "nothing may follow after " << ids.size() << " tokens";
      return {};
    }
    ids.push_back(from[(seed >> 33) % from.size()]);
    if (!constraint->accept(ids.back())) {
      ADD_FAILURE() << "an allowed token is refused after " << ids.size() << " tokens";
      return {};
    }
  }
  return constraint->ended() ? ids : std::vector<int32_t>();
}

ReplyParser::Parts parsed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::unique_ptr<ReplyParser> parser = make_reply_parser(tokenizer);
  const ReplyParser::Emit ignore = [](auto&&...) {};
  for (int32_t id : ids) parser->push(id, ignore);
  parser->finish(ignore);
  return parser->parts();
}

void expect_call(const ToolCall& call) {
  const OrderedJson arguments = OrderedJson::parse(call.arguments, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(arguments.is_object()) << call.name << " " << call.arguments;
  if (call.name == "get_weather") {
    ASSERT_TRUE(arguments.contains("location") && arguments["location"].is_string()) << call.arguments;
    EXPECT_LE(arguments.size(), 2u);
    if (arguments.contains("unit")) {
      EXPECT_TRUE(arguments["unit"] == "celsius" || arguments["unit"] == "fahrenheit");
    }
  } else if (call.name == "roll") {
    ASSERT_TRUE(arguments.contains("sides") && arguments["sides"].is_number_integer()) << call.arguments;
    EXPECT_TRUE(arguments["sides"] >= 2 && arguments["sides"] <= 100);
  } else {
    EXPECT_EQ(call.name, "now");
    EXPECT_TRUE(arguments.empty());
  }
}

void expect_calls_and_answers(const Tokenizer& tokenizer, ReplyConstraints& made, int64_t vocab_size,
                              std::string_view prompt_end) {
  ReplyShape shape{.format = AnswerFormat::kJsonObject, .tools = weather_tools()};
  const auto either = made.chat(shape, prompt_end);
  shape.choice = ToolChoice::kRequired;
  const auto required = made.chat(shape, prompt_end);
  shape.choice = ToolChoice::kNamed;
  shape.tool_name = "roll";
  const auto named = made.chat(shape, prompt_end);
  shape.choice = ToolChoice::kNone;
  const auto none = made.chat(shape, prompt_end);
  const std::vector<int32_t> closing = closing_tokens(tokenizer);
  int complete = 0, calls = 0, answers = 0;
  for (uint64_t seed = 0; seed < 25; ++seed) {
    for (const auto& constraint : {either, required, named, none}) {
      const std::vector<int32_t> ids = drawn(*constraint, closing, vocab_size, seed);
      if (ids.empty()) continue;
      ++complete;
      const ReplyParser::Parts parts = parsed(tokenizer, ids);
      SCOPED_TRACE(tokenizer.decode(ids));
      if (constraint == required || constraint == named) {
        EXPECT_FALSE(parts.tool_calls.empty());
      }
      if (constraint == none) {
        EXPECT_TRUE(parts.tool_calls.empty());
      }
      for (const ToolCall& call : parts.tool_calls) {
        if (constraint == named) {
          EXPECT_EQ(call.name, "roll");
        }
        expect_call(call);
        ++calls;
      }
      if (parts.tool_calls.empty()) {
        EXPECT_TRUE(OrderedJson::parse(parts.answer, nullptr, false).is_object()) << parts.answer;
        ++answers;
      }
    }
  }
  EXPECT_GT(complete, 40);
  EXPECT_GT(calls, 20);
  EXPECT_GT(answers, 10);
}

TEST(ReplyConstraint, HarmonyRepliesReadBack) {
  expect_calls_and_answers(glossary().impl().text(), constraints(), glossary().vocab_size(), "<|start|>assistant");
}

TEST(ReplyConstraint, TaggedRepliesReadBack) {
  TS_NEED_FIXTURE(path, "tokenizers/qwen3/tokenizer.json");
  const Tokenizer tokenizer = Tokenizer::from_file(path);
  ReplyConstraints made(tokenizer, {*tokenizer.token_to_id("<|im_end|>")}, 151936);
  expect_calls_and_answers(tokenizer, made, 151936, "<|im_start|>assistant\n");
}

TEST(ReplyConstraint, FreeTextNeedsNone) {
  EXPECT_EQ(constraints().chat({}, ""), nullptr);
  EXPECT_EQ(constraints().chat({.tools = weather_tools(), .choice = ToolChoice::kNone}, ""), nullptr);
  EXPECT_EQ(constraints().completion({}), nullptr);
}

TEST(ReplyConstraint, KeepsWhatItHasMade) {
  const ReplyShape shape{.format = AnswerFormat::kJsonObject};
  EXPECT_EQ(constraints().chat(shape, "a<|start|>assistant"), constraints().chat(shape, "b<|start|>assistant"));
  EXPECT_NE(constraints().chat(shape, "<|start|>assistant"), constraints().chat(shape, "<|channel|>final<|message|>"));
}

TEST(ReplyConstraint, NamesThePlaceOfAMistake) {
  auto error = [](ReplyShape shape) -> std::string {
    try {
      constraints().chat(shape, "");
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(
      error({.format = AnswerFormat::kJsonSchema, .schema = OrderedJson::parse(R"({"properties":{"a":{"not":{}}}})")}),
      HasSubstr("response_format.json_schema.schema.properties.a: the keyword \"not\""));
  EXPECT_THAT(error({.format = AnswerFormat::kRegex, .grammar = "(a", .format_field = "regex"}),
              HasSubstr("regex: '(' without ')'"));
  EXPECT_THAT(error({.format = AnswerFormat::kEbnf, .grammar = "root ::="}), HasSubstr("no error"));
  EXPECT_THAT(error({.format = AnswerFormat::kEbnf, .grammar = "x", .format_field = "grammar"}),
              HasSubstr("grammar: line 1"));
  OrderedJson tools = weather_tools();
  tools[1]["function"]["parameters"]["properties"]["sides"]["multipleOf"] = 2;
  EXPECT_THAT(error({.tools = tools}),
              HasSubstr("tools[1].function.parameters.properties.sides: the keyword \"multipleOf\""));
  const OrderedJson endless =
      OrderedJson::parse(R"({"properties":{"a":{"$ref":"#"}},"required":["a"],"type":"object"})");
  EXPECT_THAT(error({.format = AnswerFormat::kJsonSchema, .schema = endless}),
              HasSubstr("response_format.json_schema.schema: no text can match"));
  tools = weather_tools();
  tools[1]["function"]["parameters"] = endless;  // nobody could call it, and the others would be called instead
  EXPECT_THAT(error({.tools = tools}), HasSubstr("tools[1].function.parameters: no text can match"));
  tools = weather_tools();
  tools[2]["function"]["name"] = "a b";
  EXPECT_THAT(error({.tools = tools}), HasSubstr("tools[2].function.name"));
  tools[2]["function"]["name"] = "roll";
  EXPECT_THAT(error({.tools = tools}), HasSubstr("\"roll\" is there twice"));
  EXPECT_THAT(error({.tools = weather_tools(), .choice = ToolChoice::kNamed, .tool_name = "fly"}),
              HasSubstr("tool_choice: \"fly\""));
  EXPECT_THAT(error({.choice = ToolChoice::kRequired}), HasSubstr("tool_choice: \"required\" needs tools"));
}

// The engine
// --------------------------------------------------------------------------------------------------------------------

std::vector<int32_t> question(const std::string& text, const OrderedJson& tools = {}) {
  ChatOptions options;
  options.current_date = "2025-01-01";
  options.reasoning_effort = "low";
  if (!tools.is_null()) options.tools = tools.dump();
  Chat chat(glossary(), options);
  chat.set_messages(OrderedJson::array({{{"role", "user"}, {"content", text}}}).dump());
  return chat.prompt_ids();
}

struct Answer {
  std::vector<int32_t> ids;
  std::optional<RequestResult> end;
};

std::vector<Answer> run(Engine& engine, Request request) {
  std::vector<Answer> answers(static_cast<size_t>(request.samples));
  request.eos_ids = glossary().impl().eos_ids;
  request.on_token = [&](int sample, int32_t id, const TokenLogprob*) {
    answers[static_cast<size_t>(sample)].ids.push_back(id);
    return true;
  };
  request.on_end = [&](int sample, const RequestResult& result) { answers[static_cast<size_t>(sample)].end = result; };
  engine.submit(std::move(request));
  while (engine.step()) {
  }
  return answers;
}

TEST(ConstrainedEngine, AnswersUnderASchema) {
  const OrderedJson schema =
      OrderedJson::parse(R"({"type": "object", "properties": {"word": {"type": "string", "maxLength": 30},
    "letters": {"type": "integer", "minimum": 1, "maximum": 20}, "common": {"type": "boolean"}},
    "required": ["word", "letters", "common"], "additionalProperties": false})");
  const auto constraint =
      constraints().chat({.format = AnswerFormat::kJsonSchema, .schema = schema}, "<|start|>assistant");
  for (int64_t lookup : {0, 6}) {
    BatchEngine batch(glossary().impl(), {.max_context = 1024, .prompt_lookup = lookup});
    const std::vector<Answer> answers =
        run(batch.engine, {.prompt = question("What does house mean?"),
                           .params = {.temperature = 0.7, .seed = 3, .logprobs = 2, .max_tokens = 400},
                           .samples = 4,
                           .constraint = constraint});
    for (const Answer& answer : answers) {
      ASSERT_TRUE(answer.end && !answer.end->failed) << (answer.end ? answer.end->error : "no end");
      ASSERT_EQ(answer.end->reason, FinishReason::kStop) << glossary().decode(answer.ids, false);
      const std::string text = parsed(glossary().impl().text(), answer.ids).answer;
      const OrderedJson value = OrderedJson::parse(text, nullptr, /*allow_exceptions=*/false);
      ASSERT_TRUE(value.is_object()) << text;
      EXPECT_TRUE(value["word"].is_string() && value["common"].is_boolean() && value.size() == 3) << text;
      EXPECT_TRUE(value["letters"].is_number_integer() && value["letters"] >= 1 && value["letters"] <= 20) << text;
    }
  }
}

TEST(ConstrainedEngine, DraftsChangeNothing) {
  const auto constraint = constraints().chat({.format = AnswerFormat::kJsonObject}, "<|start|>assistant");
  std::vector<int32_t> before;
  for (int64_t lookup : {0, 8}) {
    BatchEngine batch(glossary().impl(), {.max_context = 1024, .prompt_lookup = lookup});
    const std::vector<Answer> answers = run(batch.engine, {.prompt = question("Define courage."),
                                                           .params = {.temperature = 0, .max_tokens = 120},
                                                           .constraint = constraint});
    if (lookup > 0) {
      EXPECT_EQ(answers[0].ids, before);
    }
    before = answers[0].ids;
  }
}

TEST(ConstrainedEngine, CallsAreMadeAndNotMadeAsAsked) {
  ReplyShape shape{.tools = weather_tools(), .choice = ToolChoice::kRequired};
  BatchEngine batch(glossary().impl(), {.max_context = 1024});
  for (const char* text : {"What is the weather in Paris?", "What does serendipity mean?"}) {
    for (ToolChoice choice : {ToolChoice::kRequired, ToolChoice::kNamed, ToolChoice::kAuto}) {
      shape.choice = choice;
      shape.tool_name = "roll";
      const std::vector<Answer> answers =
          run(batch.engine, {.prompt = question(text, weather_tools()),
                             .params = {.temperature = 0, .max_tokens = 300},
                             .constraint = constraints().chat(shape, "<|start|>assistant")});
      ASSERT_TRUE(answers[0].end && !answers[0].end->failed) << answers[0].end->error;
      const std::string raw = glossary().decode(answers[0].ids, false);
      ASSERT_EQ(answers[0].end->reason, FinishReason::kStop) << raw;
      const ReplyParser::Parts parts = parsed(glossary().impl().text(), answers[0].ids);
      if (choice != ToolChoice::kAuto) {
        ASSERT_EQ(parts.tool_calls.size(), 1u) << raw;
      }
      for (const ToolCall& call : parts.tool_calls) expect_call(call);
      if (choice == ToolChoice::kNamed) {
        EXPECT_EQ(parts.tool_calls[0].name, "roll") << raw;
      }
      if (choice == ToolChoice::kAuto && std::string(text).find("Paris") != std::string::npos) {
        ASSERT_EQ(parts.tool_calls.size(), 1u) << raw;
        EXPECT_EQ(parts.tool_calls[0].name, "get_weather");
        EXPECT_THAT(parts.tool_calls[0].arguments, HasSubstr("Paris"));
      }
    }
  }
}

// Allows nothing: the sample fails, and with it no other.
class Impossible final : public TokenConstraint {
 public:
  bool fill_mask(std::span<uint32_t> mask) override {
    std::fill(mask.begin(), mask.end(), 0u);
    return true;
  }
  bool accept(int32_t) override { return false; }
  void rollback(int64_t) override {}
  int64_t max_rollback() const override { return 0; }
  bool ended() const override { return false; }
  std::unique_ptr<TokenConstraint> clone() const override { return std::make_unique<Impossible>(*this); }
};

TEST(ConstrainedEngine, ADeadEndFailsItsOwnRequest) {
  BatchEngine batch(glossary().impl(), {.max_context = 1024});
  int ended = 0, failed = 0;
  for (int i = 0; i < 2; ++i) {
    Request request{.prompt = question("Define courage."), .params = {.temperature = 0, .max_tokens = 5}, .samples = 2};
    if (i == 1) request.constraint = std::make_shared<Impossible>();
    request.on_end = [&](int, const RequestResult& result) {
      ++ended;
      failed += result.failed;
      if (result.failed) {
        EXPECT_THAT(result.error, HasSubstr("no token"));
      }
    };
    batch.engine.submit(std::move(request));
  }
  while (batch.engine.step()) {
  }
  EXPECT_EQ(ended, 4);
  EXPECT_EQ(failed, 2);
}

}  // namespace
}  // namespace tessera

#include "text/harmony_chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "text/harmony.h"
#include "text/tokenizer.h"

namespace tessera {
namespace {

using testing::HasSubstr;

// Generated chats as gpt-oss's chat template renders them (tools/compare_harmony.py golden).
TEST(HarmonyChat, MatchesTheChatTemplate) {
  const OrderedJson cases =
      OrderedJson::parse(read_text_file(std::string(TESSERA_TEST_DATA) + "/harmony/chat_cases.json"));
  ASSERT_GE(cases.size(), 60u);
  for (size_t i = 0; i < cases.size(); ++i) {
    const OrderedJson& one = cases[i];
    HarmonyChatOptions options;
    options.system.current_date = "2025-06-28";
    options.system.effort = harmony_effort(one["effort"].get<std::string>());
    const std::vector<HarmonyMessage> messages = harmony_from_chat(one["messages"], one["tools"], options);
    const HarmonyRenderOptions render{HarmonyDrop::kFinished};
    const std::string text = harmony_text(
        one["mode"] == "training" ? render_harmony_for_training(messages, render)
                                  : render_harmony_for_completion(messages, HarmonyRole::kAssistant, render));
    ASSERT_EQ(text, one["text"].get<std::string>()) << "case " << i;
  }
}

// The demonstration model's own template is the same but for its identity and the spelling of calls. Its answers come
// back from the ids as they were written.
TEST(HarmonyChat, MatchesTheGlossaryModel) {
  const std::string path = std::string(TESSERA_TEST_DATA) + "/glossary/golden-float32.json";
  const OrderedJson golden = OrderedJson::parse(read_text_file(path));
  const Tokenizer tokenizer = Tokenizer::from_file(std::string(TESSERA_SOURCE_DIR) + "/models/glossary/tokenizer.json");
  const HarmonyTokens tokens = HarmonyTokens::from([&](std::string_view name) { return tokenizer.token_to_id(name); });
  const auto encode = [&](std::string_view text) { return tokenizer.encode(text, {.parse_special = false}); };
  const auto bytes_of = [&](int32_t id) { return tokenizer.token_bytes(id); };
  int compared = 0;
  for (const OrderedJson& one : golden["prompts"]) {
    if (!one.contains("messages")) continue;
    HarmonyChatOptions options;
    options.constrain_calls = true;
    options.system.model_identity =
        one.value("model_identity", "You are Tessera Glossary, a tiny demonstration model.");
    options.system.knowledge_cutoff = one.value("knowledge_cutoff", "2026-06");
    options.system.current_date = one["current_date"].get<std::string>();
    options.system.effort = harmony_effort(one.value("reasoning_effort", "medium"));
    const std::vector<HarmonyMessage> messages = harmony_from_chat(one["messages"], one["tools"], options);
    const HarmonyRenderOptions render{HarmonyDrop::kFinished, true};
    const std::vector<HarmonyPiece> pieces = render_harmony_for_completion(messages, HarmonyRole::kAssistant, render);
    EXPECT_EQ(harmony_text(pieces), one["prompt"].get<std::string>());
    EXPECT_EQ(harmony_ids(pieces, tokens, encode), one["prompt_ids"].get<std::vector<int32_t>>());

    const std::vector<HarmonyParsed> reply =
        parse_harmony(one["output_ids"].get<std::vector<int32_t>>(), bytes_of, tokens, HarmonyRole::kAssistant);
    std::vector<HarmonyMessage> written;
    for (const HarmonyParsed& parsed : reply) {
      EXPECT_FALSE(parsed.bare);
      written.push_back(parsed.message);
    }
    ASSERT_FALSE(written.empty());
    const std::string text = harmony_text(render_harmony_for_training(written, {HarmonyDrop::kNone, true}));
    EXPECT_EQ(text, "<|start|>assistant" + one["output"].get<std::string>());
    ++compared;
  }
  EXPECT_EQ(compared, 39);
}

std::string prompt(const char* messages, const char* tools = "null", bool builtin = false) {
  HarmonyChatOptions options;
  if (builtin) options.system.tools = {harmony_browser(), harmony_python()};
  const std::string text = harmony_text(render_harmony(
      harmony_from_chat(OrderedJson::parse(messages), OrderedJson::parse(tools), options), {HarmonyDrop::kFinished}));
  return text.substr(text.find("<|end|>") + 7);  // without the system message
}

TEST(HarmonyChat, TurnsFollowTheLibraryWhereTheTemplateDiffers) {
  EXPECT_EQ(prompt(R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])"),
            "<|start|>developer<|message|># Instructions\n\nBe brief.<|end|><|start|>user<|message|>Hi<|end|>");
  EXPECT_EQ(prompt(R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                       {"role": "system", "content": "Now in French."}])"),
            "<|start|>user<|message|>ab<|end|>"
            "<|start|>developer<|message|># Instructions\n\nNow in French.<|end|>");
  EXPECT_EQ(prompt(R"([{"role": "user", "content": "Hi"},
                       {"role": "assistant", "reasoning_content": "r", "content": "Let me look.", "tool_calls": [
                          {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                          {"id": "c2", "type": "function", "function": {"name": "g", "arguments": {"b": [1, 2]}}}]},
                       {"role": "tool", "tool_call_id": "c1", "content": "one"},
                       {"role": "tool", "tool_call_id": "c2", "content": {"two": 2}}])"),
            "<|start|>user<|message|>Hi<|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>r<|end|>"
            "<|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
            "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{\"a\":1}<|call|>"
            "<|start|>assistant to=functions.g<|channel|>commentary json<|message|>{\"b\": [1, 2]}<|call|>"
            "<|start|>functions.f to=assistant<|channel|>commentary<|message|>one<|end|>"
            "<|start|>functions.g to=assistant<|channel|>commentary<|message|>{\"two\": 2}<|end|>");
  EXPECT_EQ(
      prompt(R"([{"role": "assistant", "tool_calls": [{"function": {"name": "browser.search", "arguments": "{}"}}]},
                       {"role": "tool", "content": "found"},
                       {"role": "tool", "name": "functions.x", "content": "other"}])",
             "null", true),
      "<|start|>assistant to=browser.search<|channel|>commentary json<|message|>{}<|call|>"
      "<|start|>browser.search to=assistant<|channel|>commentary<|message|>found<|end|>"
      "<|start|>functions.x to=assistant<|channel|>commentary<|message|>other<|end|>");
  EXPECT_THAT(
      prompt(R"([{"role": "user", "content": "Hi"}])",
             R"([{"type": "function", "function": {"name": "f"}}, {"name": "g", "description": "Two\nlines"}])"),
      HasSubstr("namespace functions {\n\ntype f = () => any;\n\n// Two\n// lines\ntype g = () => any;\n\n}"));
}

TEST(HarmonyChat, ErrorsNameThePlace) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {R"({})", "messages: found object"},
      {R"([3])", "messages[0]: found number"},
      {R"([{"content": "x"}])", "messages[0].role: found nothing"},
      {R"([{"role": "robot", "content": "x"}])", "messages[0].role: found \"robot\""},
      {R"([{"role": "user"}])", "messages[0].content: found nothing"},
      {R"([{"role": "user", "content": 3}])", "messages[0].content: found number"},
      {R"([{"role": "user", "content": [{"type": "image_url"}]}])", "messages[0].content[0].type: found \"image_url\""},
      {R"([{"role": "user", "content": "x"}, {"role": "assistant", "thinking": 3}])",
       "messages[1].thinking: found number"},
      {R"([{"role": "assistant", "tool_calls": 3}])", "messages[0].tool_calls: found number"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {}}]}])", "messages[0].tool_calls[0].name: found nothing"},
      {R"([{"role": "tool", "content": "x"}])", "messages[0]: found a tool result with no call"}};
  for (const auto& [messages, expected] : cases) {
    try {
      prompt(messages);
      ADD_FAILURE() << "no error for " << messages;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.what(), HasSubstr(expected));
    }
  }
  EXPECT_THROW(prompt("[]", R"([{"function": 3}])"), Error);
  EXPECT_THROW(prompt("[]", R"({"a": 1})"), Error);
}

HarmonyParsed parsed(std::string text, std::string channel, std::string recipient = {}, bool bare = false) {
  HarmonyParsed out;
  out.message = harmony_text_message(HarmonyRole::kAssistant, std::move(text), std::move(channel));
  out.message.recipient = std::move(recipient);
  out.end = HarmonyEnd::kEnd;
  out.bare = bare;
  return out;
}

TEST(HarmonyChat, PartsOfAReply) {
  EXPECT_EQ(harmony_part(parsed("", "analysis")), HarmonyPart::kReasoning);
  EXPECT_EQ(harmony_part(parsed("", "final")), HarmonyPart::kAnswer);
  EXPECT_EQ(harmony_part(parsed("", "")), HarmonyPart::kAnswer);
  EXPECT_EQ(harmony_part(parsed("", "side-notes")), HarmonyPart::kAnswer);
  EXPECT_EQ(harmony_part(parsed("", "commentary")), HarmonyPart::kAnswer);
  EXPECT_EQ(harmony_part(parsed("", "commentary", "", true)), HarmonyPart::kReasoning);
  EXPECT_EQ(harmony_part(parsed("", "commentary", "assistant")), HarmonyPart::kReasoning);
  EXPECT_EQ(harmony_part(parsed("", "commentary", "functions.f")), HarmonyPart::kToolCall);
  EXPECT_EQ(harmony_part(parsed("", "analysis", "functions.f")), HarmonyPart::kToolCall);
  EXPECT_EQ(harmony_part(parsed("", "", "python")), HarmonyPart::kToolCall);
  EXPECT_EQ(harmony_part(parsed("", "final", "functions.f")), HarmonyPart::kAnswer);
  EXPECT_EQ(harmony_part(parsed("", "final", "user")), HarmonyPart::kAnswer);
  HarmonyParsed result = parsed("", "commentary", "assistant");
  result.message.author = {HarmonyRole::kTool, "functions.f"};
  EXPECT_EQ(harmony_part(result), HarmonyPart::kNone);
}

TEST(HarmonyChat, RepliesComeBack) {
  EXPECT_EQ(harmony_to_chat({parsed("think", "analysis"), parsed("more", "analysis"), parsed("4", "final")}),
            OrderedJson::parse(R"({"role": "assistant", "content": "4", "reasoning_content": "think\nmore"})"));
  EXPECT_EQ(
      harmony_to_chat(
          {parsed("t", "analysis"), parsed("{}", "commentary", "functions.f"), parsed("1+1", "analysis", "python")}, 3),
      OrderedJson::parse(R"({"role": "assistant", "content": null, "reasoning_content": "t", "tool_calls": [
                {"id": "call_3", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "call_4", "type": "function", "function": {"name": "python", "arguments": "1+1"}}]})"));
  EXPECT_EQ(harmony_to_chat({}), OrderedJson::parse(R"({"role": "assistant", "content": ""})"));
  // What came back is accepted again.
  OrderedJson history = OrderedJson::array();
  history.push_back(harmony_to_chat({parsed("t", "analysis"), parsed("{}", "commentary", "functions.f")}));
  EXPECT_EQ(prompt(history.dump().c_str()),
            "<|start|>assistant<|channel|>analysis<|message|>t<|end|>"
            "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>");
}

}  // namespace
}  // namespace tessera

#include "server/request_property.h"

#include <gtest/gtest.h>

#include <random>

#include "core/json.h"

namespace tessera::server {
namespace {

// Bodies that all parts of the readers see.
const char* const kBodies[] = {
    R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "reasoning_content": "r", "content": null, "tool_calls": [{"id": "1", "type": "function",
         "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "1", "content": "x"}],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"},
        "strict": true}}], "tool_choice": {"type": "function", "function": {"name": "f"}}, "stop": ["a", "b"], "n": 2,
        "max_tokens": 5, "temperature": 0.5, "stream": true, "stream_options": {"include_usage": true},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}})",
    R"({"prompt": [[1, 2], [3]], "logprobs": 2, "logit_bias": {"5": -1}, "structured_outputs": {"regex": "a+"}})",
    R"({"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}, {"type": "reasoning", "content":
        [{"type": "reasoning_text", "text": "r"}], "summary": []}, {"type": "function_call", "call_id": "1", "name": "f",
        "arguments": "{}"}, {"type": "function_call_output", "call_id": "1", "output": "o"}], "tools": [{"type":
        "function", "name": "f", "parameters": {}}], "tool_choice": {"type": "function", "name": "f"}, "reasoning":
        {"effort": "low"}, "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}})",
    R"({"max_tokens": 5, "system": [{"type": "text", "text": "s"}], "messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": ""}, {"type": "tool_use",
        "id": "1", "name": "f", "input": {"a": 1}}]}, {"role": "user", "content": [{"type": "tool_result",
        "tool_use_id": "1", "content": [{"type": "text", "text": "x"}]}]}], "tools": [{"name": "f", "input_schema":
        {"type": "object"}}], "tool_choice": {"type": "tool", "name": "f"}, "thinking": {"type": "enabled",
        "budget_tokens": 2000}, "stop_sequences": ["x"]})"};

TEST(RequestProperty, GoodBodies) {
  for (const char* body : kBodies) EXPECT_EQ(check_request_body(body), "");
}

class Mutations {
 public:
  explicit Mutations(uint32_t seed) : random_(seed) {}

  // Replaces, removes or adds one value somewhere.
  void change(OrderedJson& value) {
    if (value.is_structured() && !value.empty() && random_() % 5 != 0) {
      const size_t at = random_() % value.size();
      if (random_() % 12 == 0 && value.is_array()) return value.erase(value.begin() + static_cast<long>(at)), void();
      auto child = std::next(value.begin(), static_cast<long>(at));
      if (random_() % 12 == 0 && value.is_object()) return value.erase(child), void();
      return change(*child);
    }
    static const char* const kValues[] = {"null",
                                          "true",
                                          "0",
                                          "-1",
                                          "1e300",
                                          "18446744073709551615",
                                          "-9223372036854775808",
                                          "0.5",
                                          R"("")",
                                          R"("text")",
                                          R"("f")",
                                          "[]",
                                          "[null]",
                                          "[[]]",
                                          "{}",
                                          R"({"type": "text"})",
                                          R"({"type": 1})",
                                          R"([{"type": "function"}])",
                                          R"("<|start|>\u0000")",
                                          R"({"$ref": "#"})"};
    value = OrderedJson::parse(kValues[random_() % std::size(kValues)]);
  }

 private:
  std::mt19937 random_;
};

TEST(RequestProperty, ChangedBodies) {
  Mutations mutations(1);
  std::mt19937 random(2);
  for (int round = 0; round < 20000; ++round) {
    OrderedJson body = OrderedJson::parse(kBodies[random() % std::size(kBodies)]);
    for (size_t n = 1 + random() % 3; n > 0; --n) mutations.change(body);
    ASSERT_EQ(check_request_body(body.dump()), "") << body.dump();
  }
}

TEST(RequestProperty, ChangedBytes) {
  std::mt19937 random(3);
  for (int round = 0; round < 5000; ++round) {
    std::string body = kBodies[random() % std::size(kBodies)];
    for (size_t n = 1 + random() % 4; n > 0; --n) body[random() % body.size()] = static_cast<char>(random());
    ASSERT_EQ(check_request_body(body), "") << body;
  }
}

}  // namespace
}  // namespace tessera::server

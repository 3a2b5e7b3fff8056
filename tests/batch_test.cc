// Many requests at once through the public library, on the trained demo model: the golden chats all together, with a
// cache that is too small for them, with drafts; and a chat's second turn.
#include <gtest/gtest.h>

#include "api/llm_impl.h"
#include "api/openai_json.h"
#include "core/json.h"
#include "support/fixtures.h"
#include "tessera/batch.h"
#include "tessera/chat.h"

namespace tessera {
namespace {

const char* const kModel = TESSERA_SOURCE_DIR "/models/glossary";

Llm& glossary() {
  static Llm llm = Llm::load(kModel, {.dtype = "float32", .max_context = 600});
  return llm;
}

class GlossaryBatch : public testing::TestWithParam<std::pair<const char*, BatchOptions>> {};

TEST_P(GlossaryBatch, GoldenChatsTokenForToken) {
  TS_NEED_FIXTURE(path, "glossary/golden-float32.json");
  Json golden = read_json_file(path);
  std::vector<BatchRequest> requests;
  for (const Json& prompt : golden["prompts"]) {
    const auto limit =
        static_cast<int64_t>(prompt.contains("raw") ? prompt["output_ids"].size() : 200);  // plain text has no end
    requests.push_back({.id = std::to_string(requests.size()),
                        .prompt = prompt["prompt_ids"].get<std::vector<int32_t>>(),
                        .params = {.temperature = 0, .max_tokens = limit}});
  }
  const std::vector<BatchOutput> outputs = generate_batch(glossary(), requests, GetParam().second);
  ASSERT_EQ(outputs.size(), requests.size());
  int64_t cached = 0, preempted = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const BatchOutput& out = outputs[i];
    EXPECT_EQ(out.id, requests[i].id);
    EXPECT_EQ(out.status, BatchStatus::kFinished) << out.error;
    EXPECT_EQ(out.generation.ids, golden["prompts"][i]["output_ids"].get<std::vector<int32_t>>()) << i;
    EXPECT_LE(out.created_time, out.started_time);
    EXPECT_LE(out.started_time, out.first_token_time);
    EXPECT_LE(out.first_token_time, out.finished_time);
    EXPECT_EQ(out.timestamps.size(), GetParam().second.record_timestamps ? out.generation.ids.size() : 0u);
    cached += out.cached_tokens;
    preempted += out.preemptions;
  }
  EXPECT_TRUE(preempted > 0 || GetParam().second.num_blocks == 0);
  EXPECT_EQ(cached > 0, GetParam().second.allow_block_sharing);
}

INSTANTIATE_TEST_SUITE_P(
    Options, GlossaryBatch,
    testing::Values(std::pair{"together", BatchOptions{.max_requests_per_batch = 40, .record_timestamps = true}},
                    std::pair{
                        "small_cache_small_pages",
                        BatchOptions{
                            .max_requests_per_batch = 33, .max_batch_tokens = 77, .block_size = 16, .num_blocks = 120}},
                    std::pair{"swapping", BatchOptions{.max_requests_per_batch = 33,
                                                       .max_batch_tokens = 77,
                                                       .block_size = 16,
                                                       .num_blocks = 100,
                                                       .swap_memory = int64_t{64} << 20}},
                    std::pair{"prefill_first_big_pages", BatchOptions{.max_requests_per_batch = 8,
                                                                      .block_size = 128,
                                                                      .allow_block_sharing = false,
                                                                      .scheduler_type = "prefill_first"}},
                    std::pair{"prompt_lookup",
                              BatchOptions{.max_requests_per_batch = 16, .prompt_lookup = 5, .deterministic = true}}),
    [](const auto& info) { return std::string(info.param.first); });

// On a GPU in bf16 too, where the fast kernels' last bits depend on the batch: the same tokens and log-probabilities.
TEST(Batch, DeterministicWhateverElseRuns) {
  Llm llm = Llm::load(kModel, {.max_context = 600});
  std::vector<BatchRequest> requests;
  for (int i = 0; i < 40; ++i) {
    std::string text = "What does ";
    for (int k = 0; k <= i % 7 * 9; ++k) text += "house ";
    requests.push_back({.id = std::to_string(i),
                        .prompt = llm.encode(text),
                        .params = {.temperature = i % 2 * 0.8, .logprobs = 2, .max_tokens = 5 + i}});
  }
  const std::vector<BatchOutput> together =
      generate_batch(llm, requests, {.max_requests_per_batch = 24, .max_batch_tokens = 100, .deterministic = true});
  for (size_t i = 0; i < requests.size(); i += 5) {
    const std::vector<BatchOutput> alone = generate_batch(llm, {requests[i]}, {.deterministic = true});
    EXPECT_EQ(alone[0].generation.ids, together[i].generation.ids) << i;
    for (size_t t = 0; t < alone[0].generation.logprobs.size(); ++t)
      EXPECT_EQ(alone[0].generation.logprobs[t].logprob, together[i].generation.logprobs[t].logprob) << i << " " << t;
  }
}

// Every definition that the model has learnt, 40 requests at a time, in a cache that is too small for them.
TEST(Batch, FiveHundredDefinitionsTogether) {
  TS_NEED_FIXTURE(path, "glossary-words500.json");
  const Json words = read_json_file(path);
  OpenAiReader reader(glossary());
  std::vector<OpenAiRequest> asked;
  std::vector<BatchRequest> requests;
  for (const Json& word : words) {
    asked.push_back(reader.chat_completion(
        {{"messages", {{{"role", "user"}, {"content", word["question"]}}}}, {"temperature", 0}, {"max_tokens", 200}}));
    requests.push_back(asked.back().request);
  }
  const std::vector<BatchOutput> outputs = generate_batch(glossary(), requests,
                                                          {.max_requests_per_batch = 40,
                                                           .max_batch_tokens = 200,
                                                           .block_size = 16,
                                                           .num_blocks = 200,
                                                           .swap_memory = int64_t{1} << 20});
  ASSERT_EQ(outputs.size(), words.size());
  int64_t preempted = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const OrderedJson body = openai_response(glossary(), asked[i], {outputs[i]}, "", 0);
    EXPECT_EQ(body["choices"][0]["message"]["content"], words[i]["answer"].get<std::string>());
    preempted += outputs[i].preemptions;
  }
  EXPECT_GT(preempted, 0);
}

TEST(Batch, OneBadRequestFailsAlone) {
  const std::vector<int32_t> ids = glossary().encode("The house");
  std::vector<BatchRequest> requests = {{.id = "good", .prompt = ids, .params = {.temperature = 0, .max_tokens = 5}},
                                        {.id = "cold", .prompt = ids, .params = {.temperature = -1}},
                                        {.id = "empty"},
                                        {.id = "long", .prompt = std::vector<int32_t>(600, 1)},
                                        {.id = "many", .prompt = ids, .params = {.max_tokens = 3}, .samples = 3}};
  requests[4].params.seed = 1;
  const std::vector<BatchOutput> out = generate_batch(glossary(), requests);
  ASSERT_EQ(out.size(), 7u);
  EXPECT_EQ(out[0].status, BatchStatus::kFinished);
  EXPECT_EQ(out[0].generation.ids, glossary().generate(ids, requests[0].params).ids);
  EXPECT_NE(out[1].error.find("temperature"), std::string::npos);
  EXPECT_NE(out[2].error.find("empty"), std::string::npos);
  EXPECT_NE(out[3].error.find("600 tokens"), std::string::npos);
  for (int i : {1, 2, 3}) EXPECT_EQ(out[static_cast<size_t>(i)].status, BatchStatus::kFailed);
  for (int k : {0, 1, 2}) EXPECT_EQ(out[static_cast<size_t>(4 + k)].sample, k);
  EXPECT_THROW(generate_batch(glossary(), requests, {.scheduler_type = "best"}), Error);
  EXPECT_THROW(generate_batch(glossary(), requests, {.max_context = 100000}), Error);
  EXPECT_THROW(generate_batch(glossary(), requests, {.cache_memory = 10}), Error);
}

// The second turn's prompt has lost the first answer's reasoning and equals the first prompt up to its end.
TEST(Batch, SecondTurnOfAChatReadsOnlyWhatIsNew) {
  Llm llm = Llm::load(kModel, {.dtype = "float32", .max_context = 2000, .page_size = 16});
  Chat chat(llm, {.sampling = {.temperature = 0}});
  chat.say("What does house mean?");
  const int64_t before = llm.impl().engine().stats().prompt_tokens;
  Reply second = chat.say("Use river in a sentence.");
  const int64_t read = llm.impl().engine().stats().prompt_tokens - before;
  EXPECT_LT(read, second.generation.usage.prompt_tokens / 2);
}

TEST(OpenAi, BodiesAreReadAndWrongOnesNamed) {
  OpenAiReader reader(glossary());
  OrderedJson body =
      OrderedJson::parse(R"({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9,
    "stop": "x", "n": 2, "seed": 4, "logit_bias": {"7": 1.5}, "logprobs": true, "top_logprobs": 3, "user": "ignored"})");
  OpenAiRequest r = reader.chat_completion(body);
  EXPECT_EQ(r.request.samples, 2);
  EXPECT_EQ(r.request.params.max_tokens, 9);
  EXPECT_EQ(r.request.params.seed, 4u);
  EXPECT_EQ(r.request.params.logprobs, 3);
  EXPECT_EQ(r.request.params.logit_bias.at(7), 1.5f);
  EXPECT_EQ(r.stop, std::vector<std::string>{"x"});
  EXPECT_GT(r.request.prompt.size(), 10u);
  for (const char* bad :
       {R"({})", R"([])", R"({"messages": 3})", R"({"messages": [{"role": "user", "content": "x"}], "n": "2"})",
        R"({"messages": [{"role": "user", "content": "x"}], "logit_bias": {"a": 1}})",
        R"({"messages": [{"role": "user", "content": "x"}], "stop": [1]})",
        R"({"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}})"})
    EXPECT_THROW(reader.chat_completion(OrderedJson::parse(bad)), Error) << bad;
  EXPECT_EQ(reader.completion(OrderedJson::parse(R"({"prompt": [1, 2, 3]})")).request.prompt,
            (std::vector<int32_t>{1, 2, 3}));
  EXPECT_THROW(reader.completion(OrderedJson::parse(R"({"prompt": [1, -2]})")), Error);
  EXPECT_THROW(reader.completion(OrderedJson::parse(R"({"prompt": [[1]]})")), Error);
}

}  // namespace
}  // namespace tessera

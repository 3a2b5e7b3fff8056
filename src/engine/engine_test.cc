#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <numeric>
#include <random>

#include "core/error.h"
#include "engine/test_machine.h"

namespace tessera {
namespace {

struct Answer {
  std::vector<int32_t> ids;
  RequestResult result;
  bool ended = false;
};

Request request(std::vector<int32_t> prompt, int64_t max_tokens, std::vector<Answer>& answers) {
  return {.prompt = std::move(prompt),
          .params = {.temperature = 0, .max_tokens = max_tokens},
          .samples = static_cast<int>(answers.size()),
          .on_token =
              [&answers](int k, int32_t id, const TokenLogprob*) {
                EXPECT_FALSE(answers[static_cast<size_t>(k)].ended);
                answers[static_cast<size_t>(k)].ids.push_back(id);
                return true;
              },
          .on_end =
              [&answers](int k, const RequestResult& result) {
                EXPECT_FALSE(answers[static_cast<size_t>(k)].ended);
                answers[static_cast<size_t>(k)].result = result;
                answers[static_cast<size_t>(k)].ended = true;
              }};
}

struct Case {
  const char* name;
  int64_t page_size, batch_tokens, requests;
  double cache_share;  // of what 8 whole contexts need
  EngineOptions engine;
  bool prefix_cache = true;
  double swap_share = 0;   // as cache_share
  bool recording = false;  // as on a GPU
};

class EngineAnswers : public testing::TestWithParam<Case> {};

TEST_P(EngineAnswers, AreTheModelsOwn) {
  const Case& c = GetParam();
  RunnerOptions options = small();
  options.page_size = c.page_size;
  options.max_batch_tokens = c.batch_tokens;
  options.max_sequences = std::min<int64_t>(8, c.batch_tokens);
  options.prefix_cache = c.prefix_cache;
  const CacheLayout layout = layout_cache(ToyModel().cache(), false);
  const int64_t one = layout.pages_for(options.max_context, options.max_batch_tokens, c.page_size);
  options.cache_bytes = std::max<int64_t>(one, static_cast<int64_t>(static_cast<double>(one) * 8 * c.cache_share)) *
                        layout.page_bytes(c.page_size, 4);
  options.swap_bytes =
      static_cast<int64_t>(static_cast<double>(one) * 8 * c.swap_share) * layout.page_bytes(c.page_size, 4);
  Machine m(options, c.engine, c.recording);
  std::mt19937 random(9);
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::vector<Answer>> answers(static_cast<size_t>(c.requests));
  std::vector<int64_t> lengths;
  for (size_t i = 0; i < answers.size(); ++i) {
    answers[i].resize(random() % 4 == 0 ? 3 : 1);
    prompts.push_back(random_prompt(random, 200));
    lengths.push_back(1 + static_cast<int64_t>(random() % 120));
    ASSERT_EQ(m.engine.submit(request(prompts[i], lengths[i], answers[i])).status, Submitted::kAccepted);
    if (i % 3 == 0) m.engine.step();
  }
  m.drain();
  for (size_t i = 0; i < answers.size(); ++i) {
    for (const Answer& a : answers[i]) {
      ASSERT_TRUE(a.ended);
      EXPECT_FALSE(a.result.failed);
      EXPECT_EQ(a.result.reason, FinishReason::kLength);
      ASSERT_EQ(a.ids, ToyModel::answer(prompts[i], lengths[i])) << "request " << i;
    }
  }
  const EngineStats stats = m.engine.stats();
  EXPECT_EQ(stats.running + stats.waiting + stats.pages_held, 0);
  if (auto* context = dynamic_cast<RecordingContext*>(m.context.get()))
    EXPECT_TRUE(context->replayed > 10 * context->recorded || c.batch_tokens == 1 || c.engine.prompt_lookup > 0);
  EXPECT_TRUE(c.cache_share > 0.3 || stats.preemptions > 0);
  EXPECT_EQ(c.swap_share > 0, stats.cache.swapped_in_pages > 0);
  EXPECT_TRUE(c.swap_share < 0.3 || stats.swaps == stats.preemptions);
  EXPECT_EQ(m.runner.cache().host_pool().held(), 0);
  EXPECT_EQ(c.prefix_cache, stats.cache.hits > 0);
  EXPECT_TRUE(c.engine.prompt_lookup == 0 || stats.accepted_tokens > stats.drafted_tokens / 4);
}

std::vector<Case> cases(bool recording) {
  std::vector<Case> all = {Case{"roomy", 8, 64, 60, 1.0, {}},
                           Case{"preempted", 8, 64, 60, 0.16, {}},
                           Case{"preempted_prefill_first", 16, 64, 60, 0.16, {.policy = SchedulePolicy::kPrefillFirst}},
                           Case{"tiny_pages_odd_chunks", 1, 13, 40, 0.5, {}},
                           Case{"one_token_steps", 8, 1, 10, 1.0, {}},
                           Case{"big_pages", 128, 50, 40, 1.0, {}},
                           Case{"no_prefix_cache", 8, 64, 40, 0.5, {}, false},
                           Case{"prompt_lookup", 8, 64, 60, 1.0, {.prompt_lookup = 6}},
                           Case{"prompt_lookup_preempted", 8, 64, 60, 0.16, {.prompt_lookup = 6}},
                           Case{"swapped", 8, 64, 60, 0.16, {}, true, 1.0},
                           Case{"swapped_little_room", 8, 64, 60, 0.16, {}, true, 0.05},
                           Case{"swapped_no_prefix_cache", 8, 64, 60, 0.16, {}, false, 1.0},
                           Case{"swapped_prefill_first_lookup",
                                16,
                                64,
                                60,
                                0.16,
                                {.policy = SchedulePolicy::kPrefillFirst, .prompt_lookup = 6},
                                true,
                                0.5},
                           Case{"static_batches", 8, 64, 40, 1.0, {.static_batching = true}}};
  for (Case& c : all) c.recording = recording;
  return all;
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Shapes, EngineAnswers, testing::ValuesIn(cases(false)), name_of);
INSTANTIATE_TEST_SUITE_P(Recorded, EngineAnswers, testing::ValuesIn(cases(true)), name_of);

// Requests that end in every way, those that must wait for their last token (penalties) among those that need not.
class EngineEnds : public testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(Recording, EngineEnds, testing::Bool());

TEST_P(EngineEnds, AsTheyWould) {
  RunnerOptions options = small();
  const CacheLayout layout = layout_cache(ToyModel().cache(), false);
  options.cache_bytes = layout.pages_for(options.max_context, options.max_batch_tokens, options.page_size) *
                        layout.page_bytes(options.page_size, 4);  // for one of eight: some are preempted
  options.swap_bytes = options.cache_bytes / 8;
  Machine m(options, {}, GetParam());
  std::mt19937 random(4);
  constexpr size_t kRequests = 150;
  std::vector<std::vector<Answer>> answers(kRequests, std::vector<Answer>(1));
  std::vector<std::vector<int32_t>> expected(kRequests);
  std::vector<FinishReason> reasons(kRequests, FinishReason::kLength);
  for (size_t i = 0; i < kRequests; ++i) {
    const std::vector<int32_t> prompt = random_prompt(random, 150);
    const auto length = static_cast<int64_t>(1 + random() % 90);
    std::vector<int32_t>& ids = expected[i];
    ids = ToyModel::answer(prompt, length);
    const auto cut = static_cast<size_t>(random() % static_cast<size_t>(length));
    Request r = request(prompt, length, answers[i]);
    switch (random() % 5) {
      case 0: {  // an end of the text
        r.eos_ids = {ids[cut]};
        const auto end = std::find(ids.begin(), ids.end(), ids[cut]);
        ids.erase(end + 1, ids.end());
        reasons[i] = FinishReason::kStop;
        break;
      }
      case 1:  // its receiver has heard enough
        r.on_token = [&, cut, then = r.on_token, k = i](int sample, int32_t id, const TokenLogprob* logprob) {
          then(sample, id, logprob);
          return answers[k][0].ids.size() <= cut;
        };
        ids.resize(cut + 1);
        reasons[i] = FinishReason::kStop;
        break;
      case 2:
        r.params.presence_penalty = 0.001;
        break;
      case 3:
        r.params.logprobs = 2;
        break;
    }
    ASSERT_EQ(m.engine.submit(std::move(r)).status, Submitted::kAccepted);
    for (auto steps = random() % 4; steps > 0; --steps) m.engine.step();
  }
  m.drain();
  for (size_t i = 0; i < kRequests; ++i) {
    const Answer& a = answers[i][0];
    ASSERT_TRUE(a.ended);
    EXPECT_FALSE(a.result.failed) << a.result.error;
    EXPECT_EQ(a.result.reason, reasons[i]);
    EXPECT_EQ(a.ids, expected[i]) << "request " << i;
    EXPECT_EQ(a.result.completion_tokens, std::ssize(expected[i]));
  }
  const EngineStats stats = m.engine.stats();
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_EQ(stats.running + stats.waiting + stats.pages_held, 0);
}

TEST(Engine, EnqueuesAStepBeforeTheLastOneIsDone) {
  Machine m(small(), {}, /*recording=*/true);
  const RecordingContext& context = m.gpu();
  std::vector<int64_t> behind;  // steps that nobody has waited for, at each one's enqueueing
  m.model.before_step = [&] { behind.push_back(context.marks - 1 - context.waited); };
  std::vector<Answer> a(1), b(1);
  m.engine.submit(request({1, 2, 3}, 20, a));
  m.drain();
  EXPECT_EQ(a[0].ids, ToyModel::answer({1, 2, 3}, 20));
  std::vector<int64_t> expected(20, 1);
  expected[0] = 0;
  EXPECT_EQ(behind, expected);

  // A penalty is known only with the last token.
  behind.clear();
  Request r = request({1, 2, 3}, 20, b);
  r.params.presence_penalty = 0.001;
  m.engine.submit(std::move(r));
  m.drain();
  EXPECT_EQ(b[0].ids, a[0].ids);
  EXPECT_EQ(behind, std::vector<int64_t>(20, 0));
}

// A chat drops the first answer's reasoning, which was longer than the window: the second turn computes only what
// follows the last page that both prompts share.
TEST(Engine, SecondTurnComputesOnlyWhatIsNew) {
  Machine m;
  std::vector<int32_t> first(101), second;
  std::iota(first.begin(), first.end(), 0);
  for (int32_t& id : first) id %= 50;
  second = first;
  for (int i = 0; i < 40; ++i) second.push_back((i * 11) % 50);
  std::vector<Answer> a(1), b(1);
  m.engine.submit(request(first, 4 * ToyModel::kWindow, a));
  m.drain();
  const int64_t before = m.engine.stats().prompt_tokens;
  m.engine.submit(request(second, 5, b));
  m.drain();
  EXPECT_EQ(b[0].result.cached_tokens, 96);
  EXPECT_EQ(m.engine.stats().prompt_tokens - before, 141 - 96 - 1);  // the last one is counted as the answer's
  EXPECT_EQ(b[0].ids, ToyModel::answer(second, 5));
}

TEST(Engine, SamplesAreThoseOfTheirSeeds) {
  std::vector<int32_t> prompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
  auto draw = [&](uint64_t seed, int samples, int64_t lookup) {
    Machine m(small(), {.prompt_lookup = lookup});
    std::vector<Answer> answers(static_cast<size_t>(samples));
    Request r = request(prompt, 60, answers);
    r.params.temperature = 1.5;
    r.params.seed = seed;
    m.engine.submit(std::move(r));
    m.drain();
    std::vector<std::vector<int32_t>> ids;
    for (Answer& a : answers) ids.push_back(a.ids);
    return ids;
  };
  auto three = draw(40, 3, 0);
  EXPECT_EQ(three[0], draw(40, 1, 0)[0]);
  EXPECT_EQ(three[1], draw(41, 1, 0)[0]);
  EXPECT_EQ(three[2], draw(42, 1, 0)[0]);
  EXPECT_NE(three[0], three[1]);
  EXPECT_EQ(three, draw(40, 3, 5));  // drafts change nothing
}

// The prompt's last token is a step of its own, for which a draft could be looked up.
TEST(Engine, SamplesPartAtThePromptWhateverIsDrafted) {
  RunnerOptions options = small();
  options.max_batch_tokens = 20;
  for (int64_t length : {1, 21, 41}) {
    Machine m(options, {.prompt_lookup = 6});
    std::vector<int32_t> prompt(static_cast<size_t>(length));
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i % 3);
    std::vector<Answer> answers(3);
    m.engine.submit(request(prompt, 20, answers));
    m.drain();
    for (const Answer& a : answers) EXPECT_EQ(a.ids, ToyModel::answer(prompt, 20));
  }
}

// On the device as on the host: the same tokens for the same seeds, with whatever parameters.
TEST(Engine, DeviceSamplesWhatTheHostWould) {
  std::vector<std::vector<int32_t>> ids[2];
  std::vector<std::vector<TokenLogprob>> reports[2];
  for (bool recording : {false, true}) {
    Machine m(small(), {}, recording);
    m.runner.warm_up();
    std::mt19937 random(3);
    ids[recording].resize(40);
    reports[recording].resize(40);
    for (size_t i = 0; i < 40; ++i) {
      SamplingParams params{.temperature = i % 4 * 0.5,
                            .top_k = i % 3 == 0 ? 7 : 0,
                            .top_p = i % 5 == 0 ? 0.8 : 1.0,
                            .min_p = i % 7 == 0 ? 0.1 : 0.0,
                            .repetition_penalty = i % 2 == 0 ? 1.2 : 1.0,
                            .presence_penalty = i % 6 == 0 ? 0.5 : 0.0,
                            .seed = i,
                            .logprobs = static_cast<int>(i % 3) - 1,
                            .max_tokens = 20};
      if (i % 4 == 3) params.logit_bias[static_cast<int32_t>(i)] = 3;
      m.engine.submit({.prompt = random_prompt(random, 60),
                       .params = params,
                       .on_token = [&, i, recording](int, int32_t id, const TokenLogprob* report) {
                         ids[recording][i].push_back(id);
                         if (report) reports[recording][i].push_back(*report);
                         return true;
                       }});
    }
    m.drain();
    EXPECT_EQ(m.runner.cache().pool().held(), 0);
  }
  EXPECT_EQ(ids[0], ids[1]);
  for (size_t i = 0; i < 40; ++i) {
    ASSERT_EQ(reports[0][i].size(), reports[1][i].size());
    for (size_t t = 0; t < reports[0][i].size(); ++t) {
      const TokenLogprob &a = reports[0][i][t], &b = reports[1][i][t];
      EXPECT_NEAR(a.logprob, b.logprob, 1e-5);
      ASSERT_EQ(a.top.size(), b.top.size());
      for (size_t k = 0; k < a.top.size(); ++k) EXPECT_EQ(a.top[k].first, b.top[k].first);
    }
  }
}

TEST(Engine, EndsOfRequests) {
  Machine m(small(), {.max_queue = 3});
  std::vector<int32_t> prompt = {1, 2, 3};
  const std::vector<int32_t> whole = ToyModel::answer(prompt, 30);
  std::vector<Answer> eos(1), stop(1), refused(1), cancelled(2), late(1);
  Request r = request(prompt, 100, eos);
  r.eos_ids = {whole[10]};
  m.engine.submit(std::move(r));
  r = request(prompt, 100, stop);
  r.on_token = [n = 0](int, int32_t, const TokenLogprob*) mutable { return ++n < 7; };
  m.engine.submit(std::move(r));
  r = request(prompt, 100, refused);
  r.on_token = [n = 0](int, int32_t, const TokenLogprob*) mutable -> bool {
    if (++n == 5) fail(ErrorCode::kIo, "the client is gone");
    return true;
  };
  m.engine.submit(std::move(r));
  EXPECT_EQ(m.engine.submit(request(prompt, 5, late)).status, Submitted::kQueueFull);
  m.engine.step();
  const Submission s = m.engine.submit(request(prompt, 300, cancelled));
  ASSERT_EQ(s.status, Submitted::kAccepted);
  m.engine.step();
  m.engine.step();
  m.engine.cancel(s.id);
  m.engine.step();
  EXPECT_TRUE(cancelled[0].ended && cancelled[1].ended);
  EXPECT_EQ(cancelled[0].result.reason, FinishReason::kCancelled);
  r = request(prompt, 100000, late);
  r.timeout_seconds = 0.002;
  m.engine.submit(std::move(r));
  m.drain();
  EXPECT_EQ(eos[0].result.reason, FinishReason::kStop);
  EXPECT_EQ(eos[0].ids, ToyModel::answer(prompt, static_cast<int64_t>(std::find(whole.begin(), whole.end(), whole[10]) -
                                                                      whole.begin() + 1)));
  EXPECT_EQ(stop[0].result.completion_tokens, 7);
  EXPECT_EQ(stop[0].result.reason, FinishReason::kStop);
  EXPECT_TRUE(refused[0].result.failed);
  EXPECT_EQ(refused[0].result.error, "the client is gone");
  EXPECT_EQ(refused[0].result.error_code, ErrorCode::kIo);
  EXPECT_TRUE(late[0].ended);
  EXPECT_TRUE(late[0].result.failed ||
              late[0].result.reason == FinishReason::kLength);  // a fast machine fills the context
  EXPECT_EQ(m.engine.stats().pages_held, 0);
  EXPECT_THROW(m.engine.submit(request({}, 1, late)), Error);
  EXPECT_THROW(m.engine.submit(request({50}, 1, late)), Error);
  EXPECT_THROW(m.engine.submit(request(std::vector<int32_t>(400, 1), 1, late)), Error);
}

TEST(Engine, ContextIsTheLastLimit) {
  Machine m;
  std::vector<int32_t> prompt(390, 2);
  std::vector<Answer> a(1);
  m.engine.submit(request(prompt, 0, a));
  m.drain();
  EXPECT_EQ(a[0].ids, ToyModel::answer(prompt, 10));
  EXPECT_EQ(a[0].result.reason, FinishReason::kLength);
}

TEST(Engine, AFaultOfTheDeviceEndsEveryRequestWithItsError) {
  Machine m;
  int steps = 0;
  m.model.before_step = [&] {
    if (++steps == 4) fail(ErrorCode::kIo, "the device has failed");
  };
  std::vector<Answer> a(1), b(2);
  m.engine.submit(request({1, 2}, 50, a));
  m.engine.submit(request({1, 2, 3}, 50, b));
  m.drain();
  for (const Answer& x : {a[0], b[0], b[1]}) {
    EXPECT_TRUE(x.ended && x.result.failed);
    EXPECT_EQ(x.result.error, "the device has failed");
  }
  EXPECT_THROW(m.engine.submit(request({1}, 1, a)), Error);
}

// The fault comes to light where the engine waits for the device, with requests running, waiting and arriving.
TEST(Engine, AFaultInTheMiddleOfABatchLeavesNobodyWaiting) {
  std::atomic<int> ended{0};
  RunnerOptions runner = small();
  runner.max_sequences = 3;
  Machine m(runner, {}, /*recording=*/true);
  int waits = 0;
  m.gpu().on_synchronize = [&] {
    if (++waits >= 6) fail(ErrorCode::kIo, "CUDA: running on the device: an illegal memory access was encountered");
  };
  std::vector<std::vector<Answer>> answers(8, std::vector<Answer>(1));
  for (size_t i = 0; i < answers.size(); ++i) {
    Request r = request({1, 2, static_cast<int32_t>(i)}, 300, answers[i]);
    r.on_end = [&, then = r.on_end](int k, const RequestResult& result) {
      then(k, result);
      ++ended;
    };
    m.engine.submit(std::move(r));
  }
  std::string told, told_late;
  m.engine.on_death([&](const std::string& why) { told = why; });
  m.engine.start();
  for (int i = 0; i < 2000 && ended < 8; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(ended, 8);
  m.engine.stop();
  for (const std::vector<Answer>& a : answers) {
    EXPECT_TRUE(a[0].ended && a[0].result.failed);
    EXPECT_EQ(a[0].result.error_code, ErrorCode::kIo);
    EXPECT_NE(a[0].result.error.find("illegal memory access"), std::string::npos);
  }
  EXPECT_NE(m.engine.dead().find("illegal memory access"), std::string::npos);
  EXPECT_EQ(told, m.engine.dead());
  m.engine.on_death([&](const std::string& why) { told_late = why; });
  EXPECT_EQ(told_late, told);
  EXPECT_THROW(m.engine.submit(request({1}, 1, answers[0])), Error);
}

TEST(Engine, UnfinishedRequestsEndWithTheEngine) {
  std::vector<Answer> a(2), b(1);
  {
    Machine m;
    m.engine.submit(request({1, 2}, 500, a));
    m.engine.step();
    m.engine.submit(request({1, 2}, 500, b));
  }
  EXPECT_EQ(a[0].result.reason, FinishReason::kCancelled);
  EXPECT_TRUE(a[1].ended && b[0].ended);
}

TEST(Engine, SaysHowManyTokensWouldFit) {
  RunnerOptions options = small();
  options.cache_bytes = 1000;
  try {
    Machine m(options);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kOutOfMemory);
    EXPECT_NE(std::string(e.what()).find("--cache-memory"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find(" tokens of one request"), std::string::npos) << e.what();
  }
}

// Clients on several threads submit, fork and cancel at random while the engine runs. TESSERA_RANDOM_SECONDS sets for
// how long (default 2). Every finished answer is right, every request ends once, and no page is lost.
struct ClientsCase {
  const char* name;
  bool recording;
  int64_t prompt_lookup;  // drafts have every step wait for the last one
};

class EngineClients : public testing::TestWithParam<ClientsCase> {};

INSTANTIATE_TEST_SUITE_P(Devices, EngineClients,
                         testing::Values(ClientsCase{"cpu", false, 3}, ClientsCase{"recorded", true, 3},
                                         ClientsCase{"recorded_ahead", true, 0}),
                         [](const auto& info) { return info.param.name; });

TEST_P(EngineClients, Random) {
  const char* text = std::getenv("TESSERA_RANDOM_SECONDS");
  const double seconds = text ? std::atof(text) : 2.0;
  RunnerOptions options = small();
  const CacheLayout layout = layout_cache(ToyModel().cache(), false);
  options.cache_bytes = layout.pages_for(options.max_context, options.max_batch_tokens, 8) * layout.page_bytes(8, 4);
  options.swap_bytes = options.cache_bytes / 4;  // some of the preempted are swapped out, some computed again
  Machine m(options, {.max_queue = 40, .prompt_lookup = GetParam().prompt_lookup}, GetParam().recording);
  std::atomic<int64_t> accepted{0}, ended{0}, wrong{0}, full{0}, finished{0};
  m.engine.start();
  std::vector<std::thread> clients;
  for (uint32_t c = 0; c < 4; ++c) {
    clients.emplace_back([&, c] {
      std::mt19937 random(c);
      while (m.engine.now() < seconds) {
        const int samples = random() % 4 == 0 ? 2 : 1;
        const auto length = static_cast<int64_t>(1 + random() % 120);
        std::vector<int32_t> prompt = random_prompt(random, random() % 2 ? 20 : 150);
        auto got = std::make_shared<std::vector<std::vector<int32_t>>>(static_cast<size_t>(samples));
        const Submission s =
            m.engine.submit({.prompt = prompt,
                             .params = {.temperature = 0, .max_tokens = length},
                             .samples = samples,
                             .priority = static_cast<int>(random() % 3),
                             .timeout_seconds = random() % 10 == 0 ? 0.01 : 0,
                             .on_token =
                                 [got, length](int k, int32_t id, const TokenLogprob*) {
                                   (*got)[static_cast<size_t>(k)].push_back(id);
                                   return length % 8 != 5 || id % 4 != 1;  // some clients have read enough
                                 },
                             .on_end =
                                 [&, got, prompt, length](int k, const RequestResult& result) {
                                   const auto& ids = (*got)[static_cast<size_t>(k)];
                                   const auto want = ToyModel::answer(prompt, static_cast<int64_t>(ids.size()));
                                   const bool whole = !result.failed && result.reason == FinishReason::kLength;
                                   if (ids != want || (whole && static_cast<int64_t>(ids.size()) != length)) ++wrong;
                                   finished += whole;
                                   ++ended;
                                 }});
        if (s.status == Submitted::kQueueFull) {
          ++full;
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          continue;
        }
        accepted += samples;
        if (random() % 5 == 0) m.engine.cancel(s.id - static_cast<int64_t>(random() % 3));
        if (random() % 50 == 0) (void)m.engine.stats();
      }
    });
  }
  for (std::thread& t : clients) t.join();
  while (ended < accepted && m.engine.now() < seconds + 60) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  m.engine.stop();
  EXPECT_EQ(ended, accepted);
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(finished, 0);
  EXPECT_GT(m.engine.stats().swaps, 0);
  EXPECT_GT(m.engine.stats().preemptions, m.engine.stats().swaps);
  EXPECT_EQ(m.runner.cache().host_pool().held(), 0);
  EXPECT_EQ(m.engine.stats().pages_held, 0);
  EXPECT_EQ(m.runner.cache().pool().held(), 0);
}

}  // namespace
}  // namespace tessera

// The engine on a device that computes a step while the next one is planned, against one that knows every token before
// it plans: whatever happens meanwhile, the answers are the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <thread>

#include "core/error.h"
#include "engine/follower.h"
#include "engine/likelihood.h"
#include "engine/test_machine.h"
#include "parallel/thread_group.h"

namespace tessera {
namespace {

// Allows tokens by how many came before, now and then all of them; ends the answer, or leaves it no way to go on.
class Counting final : public TokenConstraint {
 public:
  Counting(int period, int64_t end, int64_t stuck) : period_(period), end_(end), stuck_(stuck) {}

  bool fill_mask(std::span<uint32_t> mask) override {
    if (made_ % 4 == 3) return false;
    std::fill(mask.begin(), mask.end(), 0);
    for (int32_t id = 0; id < ToyModel::kVocab && made_ != stuck_; ++id)
      if (id % period_ != made_ % period_) mask[static_cast<size_t>(id / 32)] |= uint32_t{1} << id % 32;
    return true;
  }
  bool accept(int32_t id) override {
    const bool allowed = made_ % 4 == 3 || id % period_ != made_ % period_;
    made_ += allowed;
    return allowed;
  }
  void rollback(int64_t tokens) override { made_ -= tokens; }
  int64_t max_rollback() const override { return made_; }
  bool ended() const override { return made_ >= end_; }
  std::unique_ptr<TokenConstraint> clone() const override { return std::make_unique<Counting>(*this); }

 private:
  int period_;
  int64_t end_, stuck_, made_ = 0;
};

// One sample's answer as its caller heard it.
struct Heard {
  std::vector<int32_t> ids;
  std::vector<TokenLogprob> logprobs;
  RequestResult result;
  bool ended = false;

  // Ended from outside, at any time.
  bool cut_off() const {
    return result.failed ? result.error_code == ErrorCode::kCancelled : result.reason == FinishReason::kCancelled;
  }
};

// What is asked, again and again.
struct Wish {
  Request request;                // without callbacks
  std::optional<size_t> enough;   // its receiver ends it after so many tokens
  double timeout_seconds = 0;     // where time passes
  bool cancelled = false;         // likewise
  std::vector<Heard> heard = {};  // by sample

  Request ask(bool timed = false) {
    heard.assign(static_cast<size_t>(request.samples), {});
    Request r = request;
    if (timed) r.timeout_seconds = timeout_seconds;
    r.on_token = [this](int k, int32_t id, const TokenLogprob* logprob) {
      Heard& h = heard[static_cast<size_t>(k)];
      EXPECT_FALSE(h.ended);
      EXPECT_TRUE(id >= 0 && id < ToyModel::kVocab);
      h.ids.push_back(id);
      if (logprob) h.logprobs.push_back(*logprob);
      return !enough || h.ids.size() < *enough;
    };
    r.on_end = [this](int k, const RequestResult& result) {
      Heard& h = heard[static_cast<size_t>(k)];
      EXPECT_FALSE(h.ended);
      h.result = result, h.ended = true;
    };
    return r;
  }
};

Wish random_wish(std::mt19937& random) {
  auto one_in = [&](uint32_t n) { return random() % n == 0; };
  Wish w;
  w.request.prompt = random_prompt(random, one_in(3) ? 100 : 20);
  SamplingParams& p = w.request.params;
  p.temperature = one_in(2) ? 0 : 0.5 + static_cast<double>(random() % 20) / 10;
  p.seed = random();
  p.max_tokens = one_in(12) ? 0 : static_cast<int64_t>(1 + random() % 60);  // 0: until the context is full
  if (one_in(3)) w.request.eos_ids = {static_cast<int32_t>(random() % 50), static_cast<int32_t>(random() % 50)};
  if (one_in(4)) p.stop_token_ids = {static_cast<int32_t>(random() % 50)};
  if (one_in(8)) p.top_k = 5;
  if (one_in(8)) p.top_p = 0.8;
  if (one_in(8)) p.logit_bias = {{static_cast<int32_t>(random() % 50), 2.0f}};
  if (one_in(6)) p.logprobs = static_cast<int>(random() % 3);
  if (one_in(10)) p.presence_penalty = 0.5;
  if (one_in(10)) p.repetition_penalty = 1.3;
  if (one_in(6)) w.request.samples = 2 + static_cast<int>(random() % 3);
  if (one_in(10)) {
    const auto end = static_cast<int64_t>(1 + random() % 30);
    w.request.constraint = std::make_shared<Counting>(2 + random() % 3, end, one_in(4) ? end - 1 : -1);
  }
  if (one_in(6)) w.enough = 1 + random() % 30;
  w.request.priority = one_in(5) ? static_cast<int>(random() % 3) : 0;
  if (one_in(15)) w.timeout_seconds = static_cast<double>(1 + random() % 30) / 10000;
  w.cancelled = one_in(6);
  return w;
}

// Odd pages and chunks, and a cache in which few fit.
RunnerOptions cramped(uint32_t seed) {
  RunnerOptions o = small();
  o.max_context = 160;
  o.max_sequences = 6;
  o.max_batch_tokens = seed % 2 ? 64 : 24;
  o.page_size = std::array{1, 8, 16}[seed % 3];
  o.prefix_cache = seed % 5 != 4;
  o.checkpoint_tokens = 32;
  const CacheLayout layout = layout_cache(ToyModel().cache(), false);
  o.cache_bytes = layout.pages_for(o.max_context, o.max_batch_tokens, o.page_size) * layout.page_bytes(o.page_size, 4);
  o.swap_bytes = std::array<int64_t, 3>{0, o.cache_bytes / 8, 4 * o.cache_bytes}[seed / 2 % 3];
  return o;
}

void expect_same(const Heard& got, const Heard& want) {
  ASSERT_TRUE(got.ended && want.ended);
  ASSERT_LE(got.ids.size(), want.ids.size());
  EXPECT_EQ(got.ids, std::vector<int32_t>(want.ids.begin(), want.ids.begin() + std::ssize(got.ids)));
  EXPECT_EQ(got.result.completion_tokens, std::ssize(got.ids));
  for (size_t i = 0; i < got.logprobs.size(); ++i) {
    EXPECT_EQ(got.logprobs[i].id, got.ids[i]);
    EXPECT_NEAR(got.logprobs[i].logprob, want.logprobs[i].logprob, 1e-5);
    ASSERT_EQ(got.logprobs[i].top.size(), want.logprobs[i].top.size());
    for (size_t k = 0; k < got.logprobs[i].top.size(); ++k)
      EXPECT_EQ(got.logprobs[i].top[k].first, want.logprobs[i].top[k].first);
  }
  if (got.cut_off()) return;
  EXPECT_EQ(got.ids.size(), want.ids.size());
  EXPECT_EQ(got.result.failed, want.result.failed);
  EXPECT_EQ(got.result.error, want.result.error);
  EXPECT_EQ(got.result.reason, want.result.reason);
}

// The answers of an engine that has room for all, and for which every step waits.
std::vector<std::vector<Heard>> answers_of(std::vector<Wish>& wishes) {
  RunnerOptions options = small();
  options.max_context = cramped(0).max_context;
  Machine m(options);
  for (Wish& w : wishes) m.engine.submit(w.ask());
  m.drain();
  std::vector<std::vector<Heard>> answers;
  for (const Wish& w : wishes) answers.push_back(w.heard);
  return answers;
}

struct Counts {
  int64_t steps = 0, ahead = 0, preemptions = 0, swaps = 0, hits = 0, cut_off = 0, whole = 0;
};

// Without `links`: one rank alone.
void arrive_and_leave(uint32_t seed, Counts& counts, RankLinks* links = nullptr) {
  std::mt19937 random(seed);
  std::vector<Wish> wishes(30);
  for (Wish& w : wishes) w = random_wish(random);
  const std::vector<std::vector<Heard>> answers = answers_of(wishes);
  constexpr int64_t kQueueTokens = 4000;
  Machine m(cramped(seed),
            {.policy = seed % 4 == 3 ? SchedulePolicy::kPrefillFirst : SchedulePolicy::kFifo,
             .max_queue_tokens = kQueueTokens},
            /*recording=*/true, links);
  m.model.before_step = [&] { ++counts.steps, counts.ahead += m.gpu().marks - 1 > m.gpu().waited; };
  std::vector<int64_t> to_cancel;
  const uint32_t pace = 1 + seed % 5;
  for (size_t next = 0; m.engine.step() || next < wishes.size() || !to_cancel.empty();) {
    for (; next < wishes.size() && random() % pace == 0; ++next) {
      const int64_t id = m.engine.submit(wishes[next].ask(/*timed=*/true)).id;
      if (wishes[next].cancelled) to_cancel.push_back(id);
    }
    if (to_cancel.empty() || random() % 8 != 0) continue;
    m.engine.cancel(to_cancel.front());
    to_cancel.erase(to_cancel.begin());
  }
  for (size_t i = 0; i < wishes.size(); ++i) {
    for (size_t k = 0; k < answers[i].size(); ++k) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << ", request " << i << ", sample " << k);
      expect_same(wishes[i].heard[k], answers[i][k]);
      ++(wishes[i].heard[k].cut_off() ? counts.cut_off : counts.whole);
    }
  }
  const EngineStats stats = m.engine.stats();
  counts.preemptions += stats.preemptions, counts.swaps += stats.swaps, counts.hits += stats.cache.hits;
  EXPECT_EQ(stats.running + stats.waiting + stats.pages_held, 0);
  EXPECT_EQ(m.runner.cache().pool().held() + m.runner.cache().host_pool().held(), 0);
  int64_t room = 0;  // nothing has stayed in the queue's books
  while (m.engine.submit({.prompt = std::vector<int32_t>(100)}).status == Submitted::kAccepted) room += 100;
  EXPECT_EQ(room, kQueueTokens);
  EXPECT_EQ(m.engine.submit({.prompt = {1}}).status, Submitted::kQueueFull);
}

// TESSERA_RANDOM_SECONDS sets for how long at least.
TEST(RunAhead, AnswersAreThoseOfStepsThatWait) {
  const char* text = std::getenv("TESSERA_RANDOM_SECONDS");
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(text ? std::atof(text) : 0);
  Counts counts;
  for (uint32_t seed = 0; (seed < 100 || std::chrono::steady_clock::now() < end) && !HasFailure(); ++seed)
    arrive_and_leave(seed, counts);
  EXPECT_GT(counts.ahead, counts.steps / 4);
  EXPECT_GT(counts.steps - counts.ahead, counts.steps / 10);
  EXPECT_GT(counts.swaps, 0);
  EXPECT_GT(counts.preemptions, counts.swaps);
  EXPECT_GT(counts.hits, 0);
  EXPECT_GT(counts.cut_off, 0);
  EXPECT_GT(counts.whole, counts.cut_off);
}

struct Fails final : HostCall {
  void run() override { fail(ErrorCode::kIo, "a file with experts could not be read"); }
};

// Rank 0's links to another rank, which splits the vocabulary with it and fails in one of its steps, if told to.
class TwoRanks {
 public:
  explicit TwoRanks(int fails_at = 0) {
    other_ = std::thread([this, fails_at] {
      ToyModel model;
      ThreadPool pool(1);
      RecordingContext context;
      Fails call;
      model.before_step = [&, step = 0]() mutable {
        if (++step == fails_at) context.call_on_host(call);
      };
      RankLinks links = links_of(1);
      try {
        follow(model, Kernels::reference(), pool, context, links);
      } catch (const Error& e) {
        thrown_ = e.what();
        worlds_[1]->abort(thrown_);
        channels_[1]->abort(thrown_);
      }
    });
  }
  ~TwoRanks() { end(); }

  RankLinks& links() { return links_; }
  // What the other rank threw.
  std::string end() {
    if (!other_.joinable()) return thrown_;
    say_end(links_);
    other_.join();
    return thrown_;
  }

 private:
  RankLinks links_of(int rank) {
    Communicator* world = worlds_[static_cast<size_t>(rank)].get();
    const StepRanks step{.mesh = {.tensor = 2}, .rank = rank, .world = world, .tensor = world, .replicas = world};
    return RankLinks{.step = step, .channel = channels_[static_cast<size_t>(rank)].get()};
  }

  std::vector<std::unique_ptr<Channel>> channels_ = make_thread_channels(2);
  std::vector<std::unique_ptr<Communicator>> worlds_ = make_thread_communicators(2);
  RankLinks links_ = links_of(0);
  std::string thrown_;
  std::thread other_;
};

// The other rank's device awaits tokens, too.
TEST(RunAhead, AnswersOfTwoRanksAreThoseOfStepsThatWait) {
  TwoRanks ranks;
  Counts counts;
  for (uint32_t seed = 0; seed < 15 && !HasFailure(); ++seed) arrive_and_leave(seed, counts, &ranks.links());
  EXPECT_EQ(ranks.end(), "");
  EXPECT_GT(counts.ahead, counts.steps / 5);
  EXPECT_GT(counts.preemptions, 0);
}

TEST(RunAhead, AFaultOfTheOtherRankEndsEveryRequest) {
  for (int at = 1; at < 12; ++at) {
    TwoRanks ranks(at);
    std::mt19937 random(static_cast<uint32_t>(at));
    std::vector<Wish> wishes(12);
    {
      Machine m(cramped(static_cast<uint32_t>(at)), {}, /*recording=*/true, &ranks.links());
      for (Wish& w : wishes) {
        w = random_wish(random);
        m.engine.submit(w.ask());
      }
      m.drain();
      EXPECT_NE(m.engine.dead(), "");
    }
    EXPECT_EQ(ranks.end(), "a file with experts could not be read");
    for (const Wish& w : wishes)
      for (const Heard& h : w.heard) EXPECT_TRUE(h.ended);
  }
}

// The caller of step() stops when its answer has ended, which a step that was enqueued then did not know.
TEST(RunAhead, TheLastAnswerLeavesNothingOnItsWay) {
  const std::vector<int32_t> prompt = {1, 2, 3}, whole = ToyModel::answer(prompt, 30);
  for (bool cut : {false, true}) {
    for (size_t length : {1, 2, 3, 4, 9}) {
      Machine m(small(), {}, /*recording=*/true);
      Wish w{.request = {.prompt = prompt, .params = {.temperature = 0}}};
      if (cut) {
        w.enough = length;
      } else {
        w.request.eos_ids = {whole[length - 1]};
      }
      for (int again = 0; again < 2; ++again) {
        m.engine.submit(w.ask());
        while (!w.heard[0].ended) m.engine.step();
        EXPECT_LE(w.heard[0].ids.size(), length);
        EXPECT_EQ(w.heard[0].ids, ToyModel::answer(prompt, std::ssize(w.heard[0].ids)));
        EXPECT_FALSE(w.heard[0].result.failed) << w.heard[0].result.error;
        // The runner is the caller's as long as no request runs.
        EXPECT_GT(negative_log_likelihood(m.runner, whole), 0);
      }
    }
  }
}

TEST(RunAhead, ARequestThatIsCutOffInFlightEndsOnce) {
  for (int steps = 0; steps < 8; ++steps) {
    for (bool late : {false, true}) {
      Machine m(small(), {}, /*recording=*/true);
      Wish w{.request = {.prompt = {1, 2, 3}, .params = {.temperature = 0}}}, other = w;
      if (late) w.request.timeout_seconds = 0.01;
      const int64_t id = m.engine.submit(w.ask()).id;
      m.engine.submit(other.ask());
      for (int i = 0; i < steps; ++i) m.engine.step();
      if (late) {
        std::this_thread::sleep_for(std::chrono::milliseconds(11));
      } else {
        m.engine.cancel(id);
      }
      m.drain();
      EXPECT_TRUE(w.heard[0].ended && w.heard[0].cut_off());
      EXPECT_EQ(w.heard[0].ids, ToyModel::answer({1, 2, 3}, std::ssize(w.heard[0].ids)));
      EXPECT_EQ(other.heard[0].ids, ToyModel::answer({1, 2, 3}, 397));
    }
  }
}

TEST(RunAhead, AnEngineThatIsStoppedInFlightGoesOn) {
  RunnerOptions options = small();
  options.max_context = 4000;
  Machine m(options, {}, /*recording=*/true);
  std::atomic<int64_t> heard{0}, ended{0};
  std::vector<int32_t> ids[3];
  for (int32_t i = 0; i < 3; ++i) {
    m.engine.submit({.prompt = {1, 2, i},
                     .params = {.temperature = 0, .max_tokens = 600},
                     .on_token =
                         [&, i](int, int32_t id, const TokenLogprob*) {
                           ids[i].push_back(id);
                           ++heard;
                           return true;
                         },
                     .on_end = [&](int, const RequestResult&) { ++ended; }});
  }
  for (int64_t pause = 90; ended < 3; pause += 90) {
    m.engine.start();
    while (heard < pause && ended < 3) std::this_thread::yield();
    m.engine.stop();
    EXPECT_EQ(m.gpu().waited, m.gpu().marks - 1);  // nothing is left on its way
  }
  for (int32_t i = 0; i < 3; ++i) EXPECT_EQ(ids[i], ToyModel::answer({1, 2, i}, 600));
}

TEST(RunAhead, AnEngineThatGoesInFlightEndsItsRequests) {
  for (int steps = 0; steps < 30; ++steps) {
    std::mt19937 random(static_cast<uint32_t>(steps));
    std::vector<Wish> wishes(12);
    std::shared_ptr<DeviceContext> context;
    {
      Machine m(cramped(static_cast<uint32_t>(steps)), {}, /*recording=*/true);
      context = m.context;
      for (Wish& w : wishes) {
        w = random_wish(random);
        m.engine.submit(w.ask());
      }
      for (int i = 0; i < steps; ++i) m.engine.step();
    }
    EXPECT_EQ(static_cast<RecordingContext&>(*context).released_in_use, 0);
    for (const Wish& w : wishes)
      for (const Heard& h : w.heard) EXPECT_TRUE(h.ended);
  }
}

// What a step's host calls throw comes to light when the engine waits for it, while the device computes the next one.
TEST(RunAhead, AFaultInFlightEndsEveryRequestWithItsError) {
  for (int at = 1; at < 25; ++at) {
    std::mt19937 random(static_cast<uint32_t>(at));
    std::vector<Wish> wishes(12);
    Fails call;
    std::shared_ptr<DeviceContext> context;
    {
      Machine m(cramped(static_cast<uint32_t>(at)), {}, /*recording=*/true);
      context = m.context;
      int steps = 0;
      m.model.before_step = [&] {
        if (++steps == at) m.context->call_on_host(call);
      };
      for (Wish& w : wishes) {
        w = random_wish(random);
        w.request.params.ignore_eos = true;
        m.engine.submit(w.ask());
      }
      m.drain();
      EXPECT_EQ(m.engine.dead(), "a file with experts could not be read");
      EXPECT_LE(steps, at + 1);
      EXPECT_EQ(m.runner.cache().pool().held() + m.runner.cache().host_pool().held(), 0);
    }
    EXPECT_EQ(static_cast<RecordingContext&>(*context).released_in_use, 0);
    int64_t failed = 0;
    for (const Wish& w : wishes) {
      for (const Heard& h : w.heard) {
        EXPECT_TRUE(h.ended);
        failed += h.result.failed && h.result.error_code == ErrorCode::kIo;
      }
    }
    EXPECT_GT(failed, 0);
  }
}

}  // namespace
}  // namespace tessera

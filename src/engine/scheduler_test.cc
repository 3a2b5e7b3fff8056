#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>

namespace tessera {
namespace {

std::vector<int32_t> tokens(int64_t count, int32_t first = 0) {
  std::vector<int32_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), first);
  return out;
}

CacheOptions hybrid(int32_t pages) {
  return {.windows = {32, 0}, .page_size = 16, .pages = pages};
}

std::unique_ptr<Job> job(std::vector<int32_t> ids, int priority = 0) {
  auto j = std::make_unique<Job>();
  j->prompt_length = static_cast<int64_t>(ids.size());
  j->tokens = std::move(ids);
  j->priority = priority;
  return j;
}

// Plays the model: every item that reaches the last token gets one more.
void play(Scheduler& scheduler, const StepPlan& plan) {
  for (const StepItem& item : plan.items) {
    scheduler.commit(item);
    if (item.sample) item.job->tokens.push_back(7);
  }
}

TEST(Scheduler, DecodesFirstThenSplitsPromptsIntoTheBudget) {
  PagedCache cache(hybrid(200));
  Scheduler s(cache, {.max_requests = 4, .max_batch_tokens = 64, .max_context = 512});
  auto a = job(tokens(10)), b = job(tokens(100, 1000));
  ASSERT_EQ(s.submit(*a, 0), Submitted::kAccepted);
  const StepPlan& first = s.plan(0);
  ASSERT_EQ(first.items.size(), 1u);
  EXPECT_TRUE(first.items[0].sample);
  play(s, first);
  ASSERT_EQ(s.submit(*b, 1), Submitted::kAccepted);
  const StepPlan& second = s.plan(1);
  ASSERT_EQ(second.items.size(), 2u);
  EXPECT_EQ(second.items[0].job, a.get());
  EXPECT_EQ(second.items[0].count, 1);
  EXPECT_EQ(second.items[1].count, 63);
  EXPECT_FALSE(second.items[1].sample);
  EXPECT_EQ(second.tokens, 64);
  play(s, second);
  const StepPlan& third = s.plan(1);
  EXPECT_EQ(third.items[1].begin, 63);
  EXPECT_EQ(third.items[1].count, 37);
  EXPECT_TRUE(third.items[1].sample);
  play(s, third);
  s.remove(*a);
  s.remove(*b);
  EXPECT_EQ(cache.pool().held(), 0);
}

TEST(Scheduler, PrefillFirst) {
  PagedCache cache(hybrid(200));
  Scheduler s(cache, {.max_requests = 4,
                      .max_batch_tokens = 32,
                      .max_logit_rows = 32,
                      .max_context = 512,
                      .policy = SchedulePolicy::kPrefillFirst});
  auto a = job(tokens(10)), b = job(tokens(40, 1000));
  (void)s.submit(*a, 0);
  play(s, s.plan(0));
  (void)s.submit(*b, 1);
  const StepPlan& plan = s.plan(1);
  ASSERT_EQ(plan.items.size(), 1u);
  EXPECT_EQ(plan.items[0].job, b.get());
  play(s, plan);
  EXPECT_EQ(s.plan(1).items.size(), 2u);
}

TEST(Scheduler, QueueIsBoundedAndLongPromptsAreRefusedAtOnce) {
  PagedCache cache(hybrid(200));
  Scheduler s(cache, {.max_requests = 1, .max_context = 64, .max_queue = 2, .max_queue_tokens = 50});
  auto a = job(tokens(20)), b = job(tokens(20)), c = job(tokens(20)), d = job(tokens(64)), e = job(tokens(31));
  EXPECT_EQ(s.submit(*d, 0), Submitted::kTooLong);
  EXPECT_EQ(s.submit(*a, 0), Submitted::kAccepted);
  EXPECT_EQ(s.submit(*e, 0), Submitted::kQueueFull);  // tokens
  EXPECT_EQ(s.submit(*b, 0), Submitted::kAccepted);
  EXPECT_EQ(s.submit(*c, 0), Submitted::kQueueFull);  // requests
  s.remove(*b);
  EXPECT_EQ(s.submit(*c, 0), Submitted::kAccepted);
}

TEST(Scheduler, PriorityAgesAndDeadlinesEnd) {
  PagedCache cache(hybrid(200));
  Scheduler s(cache, {.max_requests = 1, .max_context = 64, .priority_seconds = 10});
  auto running = job(tokens(5)), low = job(tokens(5)), high = job(tokens(5), 1), later = job(tokens(5), 1);
  (void)s.submit(*running, 0);
  play(s, s.plan(0));
  (void)s.submit(*low, 0);
  (void)s.submit(*high, 5);
  (void)s.submit(*later, 11);
  std::vector<Job*> order;
  for (Job* j = running.get(); j;) {
    s.remove(*j);
    const StepPlan& plan = s.plan(20);
    j = plan.items.empty() ? nullptr : plan.items[0].job;
    if (j) order.push_back(j);
    play(s, plan);
  }
  EXPECT_EQ(order, (std::vector<Job*>{high.get(), low.get(), later.get()}));

  auto timed = job(tokens(5));
  timed->deadline = 30;
  (void)s.submit(*timed, 21);
  play(s, s.plan(22));
  EXPECT_TRUE(s.plan(29.9).expired.empty());
  const StepPlan& over = s.plan(30);
  EXPECT_EQ(over.expired, std::vector<Job*>{timed.get()});
  EXPECT_TRUE(over.items.empty());
  EXPECT_EQ(cache.pool().held(), 0);
}

TEST(Scheduler, ForksShareThePromptAndDraftsTakeWhatIsLeft) {
  PagedCache cache(hybrid(100));
  Scheduler s(cache, {.max_requests = 4, .max_batch_tokens = 32, .max_logit_rows = 6, .max_context = 512});
  auto a = job(tokens(20));
  (void)s.submit(*a, 0);
  const StepPlan& first = s.plan(0);
  s.commit(first.items[0]);
  std::vector<std::unique_ptr<Job>> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(job(tokens(20)));
    children.back()->tokens.push_back(100 + i);
    s.fork(*a, *children.back());
  }
  a->tokens.push_back(99);
  EXPECT_EQ(s.running(), 4);
  EXPECT_EQ(s.waiting(), 1);
  const int32_t held = cache.pool().held();
  a->draft = {1, 2, 3, 4};
  const StepPlan& second = s.plan(0);
  ASSERT_EQ(second.items.size(), 4u);
  EXPECT_EQ(second.items[0].drafts, 2);      // six rows of logits
  EXPECT_EQ(cache.pool().held(), held + 6);  // all but one copy the partial page of both groups
  a->tokens.push_back(1);
  a->tokens.push_back(55);
  s.commit(second.items[0], 1);
  EXPECT_EQ(a->stored(), 22);
  for (size_t i = 1; i < 4; ++i) play(s, {.items = {second.items[i]}});
  for (auto& c : children) s.remove(*c);
  s.remove(*a);
  EXPECT_EQ(cache.pool().held(), 0);
}

TEST(Scheduler, TheBestRankedTakesPagesFromTheOthers) {
  // Two groups; one request of 64 tokens in steps of 16 needs 4 + 4 pages.
  PagedCache cache({.windows = {32, 0}, .page_size = 16, .pages = 9});
  Scheduler s(cache, {.max_requests = 4, .max_batch_tokens = 16, .max_logit_rows = 16, .max_context = 64});
  std::vector<std::unique_ptr<Job>> jobs;
  for (int i = 0; i < 4; ++i) {
    jobs.push_back(job(tokens(5, 100 * i)));
    ASSERT_EQ(s.submit(*jobs.back(), i), Submitted::kAccepted);
  }
  std::vector<size_t> finished;
  for (int step = 0; step < 2000 && finished.size() < 4; ++step) {
    play(s, s.plan(5));
    for (size_t i = 0; i < 4; ++i) {
      if (jobs[i]->state == Job::State::kNew || jobs[i]->tokens.size() < 60) continue;
      s.remove(*jobs[i]);
      finished.push_back(i);
    }
  }
  EXPECT_EQ(finished, (std::vector<size_t>{0, 1, 2, 3}));
  EXPECT_GT(s.counters().preemptions, 0);
  EXPECT_EQ(jobs[0]->preemptions, 0);
}

TEST(Scheduler, PreemptedWorkWaitsInHostMemory) {
  PagedCache cache({.windows = {32, 0}, .page_size = 16, .pages = 9, .host_pages = 8});
  Scheduler s(cache, {.max_requests = 2, .max_batch_tokens = 16, .max_logit_rows = 16, .max_context = 64});
  auto first = job(tokens(5)), second = job(tokens(40, 100)), third = job(tokens(5, 200));
  (void)s.submit(*first, 0);
  (void)s.submit(*second, 1);
  int64_t stored = 0, computed = 0;
  while (second->preemptions == 0) {
    stored = second->stored();
    play(s, s.plan(2));
    ASSERT_LT(first->tokens.size(), 60u);
  }
  EXPECT_EQ(s.counters().swaps, 1);
  EXPECT_EQ(second->state, Job::State::kWaiting);
  EXPECT_EQ(second->stored(), stored);
  EXPECT_GT(cache.host_pool().held(), 0);
  (void)s.submit(*third, 3);
  s.remove(*first);
  const size_t known = second->tokens.size();
  while (second->tokens.size() == known) {
    const StepPlan& plan = s.plan(4);
    for (const StepItem& item : plan.items) computed += item.job == second.get() ? item.count : 0;
    play(s, plan);
  }
  EXPECT_EQ(computed, static_cast<int64_t>(known) - stored);
  EXPECT_EQ(cache.host_pool().held(), 0);
  s.remove(*second);
  s.remove(*third);
  EXPECT_EQ(cache.pool().held(), 0);
}

TEST(Scheduler, RemovedWhileSwappedOut) {
  PagedCache cache({.windows = {32, 0}, .page_size = 16, .pages = 9, .host_pages = 9});
  Scheduler s(cache, {.max_requests = 2, .max_batch_tokens = 16, .max_logit_rows = 16, .max_context = 64});
  auto first = job(tokens(5)), second = job(tokens(40, 100));
  (void)s.submit(*first, 0);
  (void)s.submit(*second, 1);
  while (second->preemptions == 0) play(s, s.plan(2));
  s.remove(*second);
  s.remove(*first);
  EXPECT_EQ(cache.host_pool().held(), 0);
  EXPECT_EQ(cache.pool().held(), 0);
}

TEST(Scheduler, StaticBatchesFillThenEnd) {
  PagedCache cache(hybrid(400));
  Scheduler s(
      cache,
      {.max_requests = 3, .max_batch_tokens = 16, .max_logit_rows = 16, .max_context = 64, .static_batching = true});
  std::vector<std::unique_ptr<Job>> jobs;
  for (int i = 0; i < 5; ++i) {
    jobs.push_back(job(tokens(12, 100 * i)));
    (void)s.submit(*jobs.back(), i);
  }
  for (int i = 0; i < 6; ++i) play(s, s.plan(9));
  EXPECT_EQ(s.running(), 3);
  s.remove(*jobs[0]);
  s.remove(*jobs[1]);
  play(s, s.plan(9));
  EXPECT_EQ(s.running(), 1);
  s.remove(*jobs[2]);
  for (int i = 0; i < 3; ++i) play(s, s.plan(9));
  EXPECT_EQ(s.running(), 2);
  s.remove(*jobs[3]);
  s.remove(*jobs[4]);
}

// Traffic of 100,000 requests with priorities, shared beginnings, cancellations and deadlines, over a cache much too
// small for all that run: each ends, no page is lost, and nobody waits out of proportion.
struct Simulated {
  const char* name;
  SchedulePolicy policy;
  int32_t host_pages;
  int32_t caches = 1;  // that share the pages
};

class Simulation : public testing::TestWithParam<Simulated> {};

TEST_P(Simulation, HundredThousandRequests) {
  constexpr int kRequests = 100000;
  std::vector<std::unique_ptr<PagedCache>> caches;
  std::vector<PagedCache*> views;
  for (int32_t shard = 0; shard < GetParam().caches; ++shard) {
    caches.push_back(std::make_unique<PagedCache>(CacheOptions{.windows = {32, 0},
                                                               .page_size = 16,
                                                               .pages = 300 / GetParam().caches,
                                                               .host_pages = GetParam().host_pages / GetParam().caches,
                                                               .shard = shard}));
    views.push_back(caches.back().get());
  }
  const SchedulerOptions options{.max_requests = 48,
                                 .max_batch_tokens = 128,
                                 .max_context = 400,
                                 .policy = GetParam().policy,
                                 .priority_seconds = 2};
  Scheduler s(views, options);
  std::mt19937 random(3);
  auto below = [&](uint32_t n) { return random() % n; };
  struct Client {
    std::unique_ptr<Job> job;
    int64_t length;  // at which it ends
    double arrival;
  };
  std::map<int64_t, Client> live;  // by arrival
  double now = 0, next_arrival = 0, longest_wait = 0;
  int arrived = 0, ended = 0, cancelled = 0, expired = 0;
  int64_t steps = 0;
  while (ended + cancelled + expired < kRequests) {
    ASSERT_LT(++steps, 2000000);
    for (; arrived < kRequests && next_arrival <= now; ++arrived) {
      std::vector<int32_t> ids =
          tokens(below(3) ? 1 + below(60) : 1 + below(300), static_cast<int32_t>(100 * below(20)));
      ids.back() = static_cast<int32_t>(below(1000));
      Client c{job(std::move(ids), static_cast<int>(below(10) == 0) - static_cast<int>(below(10) == 0)), 0, now};
      c.length = std::min<int64_t>(static_cast<int64_t>(c.job->tokens.size()) + 1 + below(120), options.max_context);
      if (below(20) == 0) c.job->deadline = now + 0.5 + below(10);
      ASSERT_EQ(s.submit(*c.job, now), Submitted::kAccepted);
      live.emplace(c.job->order, std::move(c));
      // Bursts of more than the machine can do, then less.
      next_arrival += (static_cast<int64_t>(now / 30) % 2 == 0 ? 0.006 : 0.02) * (below(2000) / 1000.0);
    }
    const StepPlan& plan = s.plan(now);
    ASSERT_LE(plan.tokens, options.max_batch_tokens);
    ASSERT_LE(s.running(), options.max_requests);
    expired += static_cast<int>(plan.expired.size());
    for (Job* j : plan.expired) live.erase(j->order);
    int64_t total = 0;
    for (const StepItem& item : plan.items) {
      Job& j = *item.job;
      total += item.count;
      ASSERT_EQ(item.begin, j.stored());
      s.commit(item);
      if (!item.sample) continue;
      j.tokens.push_back(static_cast<int32_t>(below(1000)));
      const Client& c = live.at(j.order);
      if (static_cast<int64_t>(j.tokens.size()) < c.length) continue;
      longest_wait = std::max(longest_wait, now - c.arrival);
      s.remove(j);
      live.erase(j.order);
      ++ended;
    }
    ASSERT_EQ(total, plan.tokens);
    ASSERT_TRUE(total > 0 || live.empty() || !plan.expired.empty());
    now += total > 0 ? 0.004 + 0.00002 * static_cast<double>(total) : std::max(0.001, next_arrival - now);
    if (!live.empty() && below(500) == 0) {
      auto it = live.lower_bound(live.begin()->first + below(200));
      if (it == live.end()) continue;
      s.remove(*it->second.job);
      live.erase(it);
      ++cancelled;
    }
  }
  EXPECT_EQ(s.running() + s.waiting(), 0);
  CacheCounters counters;
  for (const auto& cache : caches) {
    EXPECT_EQ(cache->pool().held(), 0);
    EXPECT_EQ(cache->host_pool().held(), 0);
    EXPECT_GT(cache->counters().lookups, kRequests / 4);  // as busy as the others
    counters += cache->counters();
  }
  EXPECT_GT(s.counters().preemptions, 10);
  EXPECT_EQ(s.counters().swaps > 10, GetParam().host_pages > 0);
  EXPECT_GT(cancelled, 10);
  EXPECT_GT(expired, 10);
  printf(
      "steps %ld, simulated %.0f s, preemptions %ld (%ld swapped), longest in the system %.1f s, cancelled %d, expired "
      "%d, hit %.0f "
      "%%\n",
      steps, now, s.counters().preemptions, s.counters().swaps, longest_wait, cancelled, expired,
      100.0 * static_cast<double>(counters.hit_tokens) / static_cast<double>(counters.lookup_tokens));
}

INSTANTIATE_TEST_SUITE_P(Policies, Simulation,
                         testing::Values(Simulated{"fifo", SchedulePolicy::kFifo, 0},
                                         Simulated{"prefill_first", SchedulePolicy::kPrefillFirst, 0},
                                         Simulated{"fifo_swapping", SchedulePolicy::kFifo, 200},
                                         Simulated{"two_caches", SchedulePolicy::kFifo, 0, 2},
                                         Simulated{"three_caches_swapping", SchedulePolicy::kFifo, 200, 3}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Scheduler, AJobGoesWhereItsPromptIsKnownUnlessThatIsMuchBusier) {
  PagedCache first({.windows = {32, 0}, .page_size = 16, .pages = 400}),
      second({.windows = {32, 0}, .page_size = 16, .pages = 400, .shard = 1});
  Scheduler s(std::vector{&first, &second}, {.max_requests = 30, .max_batch_tokens = 512, .max_context = 512});
  std::vector<std::unique_ptr<Job>> jobs;
  auto start = [&](std::vector<int32_t> ids) {
    jobs.push_back(job(std::move(ids)));
    (void)s.submit(*jobs.back(), 0);
    play(s, s.plan(0));
    return jobs.back()->sequence->cache().options().shard;
  };
  const int home = start(tokens(100));
  EXPECT_EQ(start(tokens(100, 1000)), 1 - home);  // the other has nothing to do
  for (int32_t i = 0; i < 4; ++i) EXPECT_EQ(start(tokens(99)), home) << i;
  EXPECT_EQ(start(tokens(101)), home);
  EXPECT_EQ(start(tokens(101)), 1 - home);  // 6 run there and 1 here
  for (auto& j : jobs) s.remove(*j);
  EXPECT_EQ(first.pool().held() + second.pool().held(), 0);
}

// A stream of important requests that alone would fill the machine does not keep an unimportant one waiting for ever.
TEST(Scheduler, OverloadOfHigherPriorityStarvesNobody) {
  PagedCache cache(hybrid(200));
  Scheduler s(
      cache,
      {.max_requests = 2, .max_batch_tokens = 32, .max_logit_rows = 32, .max_context = 64, .priority_seconds = 5});
  std::vector<std::unique_ptr<Job>> jobs;
  auto low = job(tokens(5));
  bool started = false;
  int64_t steps = 0;
  for (double now = 0; !started && now < 100; now += 0.1, ++steps) {
    jobs.push_back(job(tokens(5), 2));
    (void)s.submit(*jobs.back(), now);
    if (steps == 10) (void)s.submit(*low, now);
    const StepPlan& plan = s.plan(now);
    for (const StepItem& item : plan.items) started = started || item.job == low.get();
    play(s, plan);
    for (auto& j : jobs)
      if (j->state == Job::State::kRunning && j->tokens.size() > 15) s.remove(*j);
  }
  EXPECT_TRUE(started);
}

}  // namespace
}  // namespace tessera

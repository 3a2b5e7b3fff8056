#include "engine/scheduler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "cache/cache_spec.h"
#include "core/error.h"

namespace tessera {

Scheduler::Scheduler(std::vector<PagedCache*> caches, const SchedulerOptions& options)
    : caches_(std::move(caches)), options_(options) {
  TS_CHECK(options_.max_requests > 0 && options_.max_batch_tokens > 0);
  TS_CHECK(options_.max_logit_rows >= std::min(options_.max_requests, options_.max_batch_tokens));
  running_.reserve(static_cast<size_t>(options_.max_requests));
  plan_.items.reserve(static_cast<size_t>(options_.max_requests));
}

Submitted Scheduler::submit(Job& job, double now) {
  TS_CHECK(job.state == Job::State::kNew && !job.tokens.empty());
  const auto length = static_cast<int64_t>(job.tokens.size());
  if (length >= options_.max_context) return Submitted::kTooLong;
  if (waiting() >= options_.max_queue || waiting_tokens_ + length > options_.max_queue_tokens)
    return Submitted::kQueueFull;
  job.rank = now - job.priority * options_.priority_seconds;
  job.order = orders_++;
  if (std::isfinite(job.deadline)) deadlines_.insert({job.deadline, &job});
  wait(job);
  return Submitted::kAccepted;
}

void Scheduler::fork(const Job& parent, Job& child) {
  TS_CHECK(parent.state == Job::State::kRunning && child.state == Job::State::kNew &&
           child.pending() > parent.stored());
  child.rank = parent.rank;
  child.order = orders_++;
  child.cached_tokens = parent.stored();
  child.admitted = true;
  if (std::isfinite(child.deadline)) deadlines_.insert({child.deadline, &child});
  if (running() >= options_.max_requests) return wait(child);
  child.sequence = parent.sequence->cache().fork(*parent.sequence);
  start(child);
}

void Scheduler::wait(Job& job) {
  job.state = Job::State::kWaiting;
  job.wanted_pages = 0;
  waiting_.insert(&job);
  waiting_tokens_ += static_cast<int64_t>(job.tokens.size());
}

void Scheduler::start(Job& job) {
  job.state = Job::State::kRunning;
  running_.insert(std::lower_bound(running_.begin(), running_.end(), &job, ByRank{}), &job);
  ++counters_.admissions;
}

void Scheduler::remove(Job& job) {
  if (job.state == Job::State::kWaiting) {
    waiting_.erase(&job);
    waiting_tokens_ -= static_cast<int64_t>(job.tokens.size());
  } else if (job.state == Job::State::kRunning) {
    running_.erase(std::lower_bound(running_.begin(), running_.end(), &job, ByRank{}));
  }
  job.sequence.reset();
  if (std::isfinite(job.deadline)) deadlines_.erase({job.deadline, &job});
  job.state = Job::State::kNew;
}

// To host memory while there is room; else what the prefix cache does not keep is computed again.
void Scheduler::give_up_pages(Job& job) {
  if (job.sequence->cache().swap_out(*job.sequence)) {
    ++counters_.swaps;
  } else {
    job.sequence.reset();
  }
}

// Back to the queue, where its rank puts it.
void Scheduler::preempt(Job& job) {
  auto item = std::find_if(plan_.items.begin(), plan_.items.end(), [&](const StepItem& i) { return i.job == &job; });
  if (item != plan_.items.end()) {
    plan_.tokens -= item->count;
    plan_.items.erase(item);
  }
  running_.erase(std::lower_bound(running_.begin(), running_.end(), &job, ByRank{}));
  give_up_pages(job);
  job.draft.clear();
  ++job.preemptions;
  ++counters_.preemptions;
  preempted_ = true;
  wait(job);
}

// Pages for `count` more tokens, taken from running jobs of lower rank if need be.
bool Scheduler::reserve(Job& job, int64_t count) {
  PagedCache& cache = job.sequence->cache();
  while (!cache.reserve(*job.sequence, count)) {
    const auto last = std::find_if(running_.rbegin(), running_.rend(),
                                   [&](const Job* other) { return &other->sequence->cache() == &cache; });
    if (*last == &job) return false;
    preempt(**last);
  }
  return true;
}

void Scheduler::add_item(Job& job, int64_t count) {
  plan_.items.push_back({.job = &job, .begin = job.stored(), .count = count, .sample = count == job.pending()});
  plan_.tokens += count;
  job.planned = plans_;
}

void Scheduler::plan_running(bool decoding) {
  for (size_t i = 0; i < running_.size() && plan_.tokens < options_.max_batch_tokens; ++i) {
    Job& job = *running_[i];
    if (job.pending() <= 0 || (job.pending() == 1) != decoding || job.planned == plans_) continue;
    const int64_t count = std::min(job.pending(), options_.max_batch_tokens - plan_.tokens);
    if (reserve(job, count)) add_item(job, count);
  }
}

int64_t Scheduler::running_in(const PagedCache& cache) const {
  if (caches_.size() == 1) return running();
  return std::count_if(running_.begin(), running_.end(),
                       [&](const Job* job) { return &job->sequence->cache() == &cache; });
}

// The one that knows most of the prompt, among those that are not much busier than others; else the least busy one.
PagedCache& Scheduler::choose_cache(const Job& job) const {
  constexpr int64_t kBusier = 4;  // jobs that a known prefix is worth
  if (job.sequence) return job.sequence->cache();
  if (caches_.size() == 1) return *caches_[0];
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const PagedCache* cache : caches_) least = std::min(least, running_in(*cache));
  PagedCache* best = nullptr;
  std::array<int64_t, 4> best_worth{};
  for (PagedCache* cache : caches_) {
    const int64_t busy = running_in(*cache);
    const std::array<int64_t, 4> worth{cache->available() >= job.wanted_pages,
                                       busy <= least + kBusier ? cache->probe(job.tokens) : -1, -busy,
                                       cache->available()};
    if (best == nullptr || worth > best_worth) best = cache, best_worth = worth;
  }
  return *best;
}

// Admits a job if its whole known length fits, and leaves each running one a page to grow into.
bool Scheduler::admit(Job& job) {
  PagedCache& cache = choose_cache(job);
  const int64_t others = running_in(cache);
  if (cache.available() < job.wanted_pages && others > 0) return false;
  const CacheOptions& c = cache.options();
  const bool swapped = job.sequence != nullptr;
  if (!swapped) job.sequence = cache.open();
  const int64_t hit = swapped ? 0 : cache.match(*job.sequence, job.tokens, job.prompt_length);
  int64_t wanted = 0;
  for (size_t g = 0; g < c.windows.size(); ++g) {
    wanted +=
        group_pages(c.windows[g], static_cast<int64_t>(job.tokens.size()) + 1, options_.max_batch_tokens, c.page_size);
    wanted += (c.windows[g] == 0 ? others : 0) - (swapped ? 0 : job.sequence->held(g));
  }
  const int64_t count = std::min(job.pending(), options_.max_batch_tokens - plan_.tokens);
  const bool fits = wanted <= cache.available() || others == 0;
  if (!fits || (swapped && !cache.swap_in(*job.sequence)) || !cache.reserve(*job.sequence, count)) {
    wanted -= cache.available();
    if (!swapped) {
      job.sequence.reset();
    } else if (!job.sequence->swapped_out()) {
      give_up_pages(job);
    }
    job.wanted_pages = static_cast<int32_t>(wanted + cache.available());
    return false;
  }
  if (!job.admitted) job.cached_tokens = hit;
  job.admitted = true;
  waiting_.erase(&job);
  waiting_tokens_ -= static_cast<int64_t>(job.tokens.size());
  start(job);
  add_item(job, count);
  return true;
}

void Scheduler::plan_waiting() {
  // The first that does not fit blocks the rest: else small ones would pass a big one for ever.
  while (!waiting_.empty() && !preempted_ && running() < options_.max_requests &&
         plan_.tokens < options_.max_batch_tokens) {
    if (!admit(**waiting_.begin())) {
      filling_ = false;
      return;
    }
  }
  if (waiting_.empty() || running() == options_.max_requests) filling_ = false;
}

// Drafts take what is left of the step.
void Scheduler::plan_drafts() {
  int64_t rows = 0;
  for (const StepItem& item : plan_.items) rows += item.sample;
  for (StepItem& item : plan_.items) {
    if (!item.sample || item.count != 1 || item.job->draft.empty()) continue;  // one row of logits a token
    const int64_t room = std::min({options_.max_batch_tokens - plan_.tokens, options_.max_logit_rows - rows,
                                   options_.max_context - static_cast<int64_t>(item.job->tokens.size()) - 1});
    const int64_t drafts = std::min(static_cast<int64_t>(item.job->draft.size()), room);
    if (drafts <= 0 || !item.job->sequence->cache().reserve(*item.job->sequence, item.count + drafts)) continue;
    item.drafts = drafts;
    item.count += drafts;
    plan_.tokens += drafts;
    rows += drafts;
  }
}

const StepPlan& Scheduler::plan(double now) {
  plan_.items.clear();
  plan_.expired.clear();
  plan_.tokens = 0;
  preempted_ = false;
  ++plans_;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    plan_.expired.push_back(deadlines_.begin()->second);
    remove(*plan_.expired.back());
  }
  if (running_.empty()) filling_ = true;
  if (options_.policy == SchedulePolicy::kFifo) plan_running(/*decoding=*/true);
  plan_running(/*decoding=*/false);
  if (filling_ || !options_.static_batching) plan_waiting();
  if (options_.policy == SchedulePolicy::kPrefillFirst) plan_running(/*decoding=*/true);
  plan_drafts();
  return plan_;
}

void Scheduler::commit(const StepItem& item, int64_t accepted) {
  Job& job = *item.job;
  const auto count = static_cast<size_t>(item.count - item.drafts + accepted);
  TS_CHECK(job.state == Job::State::kRunning && item.begin == job.stored() && accepted <= item.drafts);
  job.sequence->cache().commit(*job.sequence, std::span(job.tokens).subspan(static_cast<size_t>(item.begin), count));
  job.draft.clear();
}

}  // namespace tessera

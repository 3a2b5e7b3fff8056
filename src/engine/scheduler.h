// Decides, step by step, which tokens of which requests are computed next: chunked prefill mixed with decoding under a
// token budget. Pure: no threads, no clock, no model; time comes in and a plan goes out. It owns the requests' cache
// pages, so that a plan it returns always fits. Used by one thread.
//
// Why it cannot get stuck: running requests are ranked; one that needs pages takes them from those ranked below it
// (whose work waits in host memory, or is computed again later as far as the prefix cache has lost it), and the cache
// holds at least one request of the greatest length. A rank is fixed at arrival, so whoever waits is overtaken by
// finitely many.
#pragma once

#include <limits>
#include <set>
#include <span>
#include <vector>

#include "cache/paged_cache.h"

namespace tessera {

// One sequence of tokens that is being extended. The caller owns it and keeps it in place until remove().
struct Job {
  // The prompt, then the answer as far as it is known; the last one may stand for a token that is awaited.
  std::vector<int32_t> tokens;
  int64_t prompt_length = 0;
  std::vector<int32_t>
      draft;         // guess at what follows tokens, to be checked in the next step that computes the last one
  int priority = 0;  // higher goes first; one step is worth SchedulerOptions::priority_seconds of waiting
  double deadline = std::numeric_limits<double>::infinity();

  enum class State : uint8_t { kNew, kWaiting, kRunning };
  // Below: set by the scheduler.
  State state = State::kNew;
  double rank = 0;                          // smaller goes first
  int64_t order = 0;                        // among equal ranks
  std::unique_ptr<CacheSequence> sequence;  // while running, or swapped out while waiting
  int64_t cached_tokens = 0;                // of the prompt, at first admission
  int64_t preemptions = 0;
  int32_t wanted_pages = 0;  // free pages without which another attempt to admit it is in vain
  bool admitted = false;     // has run before
  int64_t planned = 0;       // number of the last plan that has an item of it

  int64_t stored() const { return sequence ? sequence->length() : 0; }
  int64_t pending() const { return static_cast<int64_t>(tokens.size()) - stored(); }
};

enum class SchedulePolicy : uint8_t {
  kFifo,          // running answers first, then prompts in progress, then waiting ones
  kPrefillFirst,  // prompts first: answers start sooner and then proceed together
};

struct SchedulerOptions {
  int64_t max_requests = 32;       // running at once
  int64_t max_batch_tokens = 512;  // in one step
  int64_t max_logit_rows = 128;    // in one step; at least max_requests
  int64_t max_context = 4096;
  int64_t max_queue = 1 << 20;  // waiting requests, and their tokens
  int64_t max_queue_tokens = int64_t{1} << 30;
  SchedulePolicy policy = SchedulePolicy::kFifo;
  double priority_seconds = 10;
  bool static_batching = false;  // fill a batch, then admit none until it has ended: for comparison
};

enum class Submitted : uint8_t { kAccepted, kQueueFull, kTooLong };

// Tokens [begin, begin + count) of the job, of which the last `drafts` are its draft's first.
struct StepItem {
  Job* job = nullptr;
  int64_t begin = 0;
  int64_t count = 0;
  int64_t drafts = 0;
  bool sample = false;  // reaches the last known token: the next one is wanted
};

struct StepPlan {
  std::vector<StepItem> items;  // empty: nothing to do
  int64_t tokens = 0;
  std::vector<Job*> expired;  // past their deadline, and removed
};

struct SchedulerCounters {
  int64_t preemptions = 0;
  int64_t swaps = 0;  // preemptions that kept their work in host memory
  int64_t admissions = 0;
};

class Scheduler {
 public:
  // Each cache must hold one job of max_context tokens in steps of max_batch_tokens. A job that is admitted stays with
  // one of them.
  Scheduler(std::vector<PagedCache*> caches, const SchedulerOptions& options);
  Scheduler(PagedCache& cache, const SchedulerOptions& options) : Scheduler(std::vector{&cache}, options) {}

  [[nodiscard]] Submitted submit(Job& job, double now);
  // Starts `child`, whose tokens begin with all that `parent`, which runs, has stored, on the same pages. Needs no
  // pages; the child waits like any other when enough requests run.
  void fork(const Job& parent, Job& child);
  // The next step. Its pages are reserved. Valid until the next call; every item is then committed or its job removed.
  const StepPlan& plan(double now);
  // The step is enqueued, and `accepted` drafts were right; the job's tokens already go on with them.
  void commit(const StepItem& item, int64_t accepted = 0);
  // Finished or cancelled, in any state.
  void remove(Job& job);

  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t waiting_tokens() const { return waiting_tokens_; }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  std::span<Job* const> running_jobs() const { return running_; }  // by rank
  const SchedulerOptions& options() const { return options_; }
  const SchedulerCounters& counters() const { return counters_; }

 private:
  struct ByRank {
    bool operator()(const Job* a, const Job* b) const {
      return a->rank != b->rank ? a->rank < b->rank : a->order < b->order;
    }
  };
  void plan_running(bool decoding);
  void plan_waiting();
  void plan_drafts();
  int64_t running_in(const PagedCache& cache) const;
  PagedCache& choose_cache(const Job& job) const;
  bool admit(Job& job);
  bool reserve(Job& job, int64_t count);
  void add_item(Job& job, int64_t count);
  void start(Job& job);
  void wait(Job& job);
  void preempt(Job& job);
  void give_up_pages(Job& job);

  std::vector<PagedCache*> caches_;
  SchedulerOptions options_;
  std::vector<Job*> running_;  // by rank
  std::set<Job*, ByRank> waiting_;
  std::set<std::pair<double, Job*>> deadlines_;
  int64_t waiting_tokens_ = 0;
  int64_t orders_ = 0;
  int64_t plans_ = 0;
  bool preempted_ = false;  // in this plan
  bool filling_ = true;     // static batching: the batch is not closed yet
  StepPlan plan_;
  SchedulerCounters counters_;
};

}  // namespace tessera

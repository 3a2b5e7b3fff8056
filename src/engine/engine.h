// Engine: many requests over one runner. Each step runs the scheduler's plan, samples, and hands tokens to their
// requests. One thread at a time owns the model: the caller of step(), or the engine's own after start(). submit(),
// cancel() and stats() are safe from any thread at any time.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "engine/request.h"
#include "engine/runner.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/side_thread.h"

namespace tessera {

struct EngineOptions {
  SchedulePolicy policy = SchedulePolicy::kFifo;
  int64_t max_queue = 4096;  // waiting requests, and their tokens
  int64_t max_queue_tokens = int64_t{1} << 26;
  int64_t prompt_lookup = 0;     // longest draft; 0: none
  bool static_batching = false;  // for comparison: whole batches, in which ended requests stay until all have ended
};

struct EngineStats {
  double time = 0;  // seconds, engine's clock
  int64_t steps = 0;
  int64_t prompt_tokens = 0, answer_tokens = 0;  // computed and sampled
  int64_t step_tokens = 0, step_requests = 0;    // of the last step
  int64_t running = 0, waiting = 0;
  int64_t finished = 0, failed = 0, cancelled = 0;
  int64_t preemptions = 0, swaps = 0;  // swaps: preemptions that kept their work in host memory
  int64_t drafted_tokens = 0, accepted_tokens = 0;
  int64_t pages = 0, pages_held = 0, pages_cached = 0, pages_peak = 0;
  CacheCounters cache;
};

struct Submission {
  Submitted status = Submitted::kAccepted;  // or kQueueFull
  int64_t id = 0;                           // when accepted
};

class Engine {
 public:
  // The runner must outlive the engine; its limits are the engine's.
  Engine(Runner& runner, const EngineOptions& options);
  // Ends all requests as cancelled.
  ~Engine();
  Engine(const Engine&) = delete;

  // Throws kInvalidArgument: impossible parameters, an empty prompt or one that fills the context, an unknown token id;
  // kIo after a fault of the device.
  Submission submit(Request request);
  // Takes effect before the next step; an unknown or ended id is ignored.
  void cancel(int64_t id);
  EngineStats stats() const;
  // Why no step can run any more: a fault of the device. Empty: none.
  std::string dead() const;
  // `told` is called once, from the engine's thread, when it dies; at once when it is dead. Null: nobody.
  void on_death(std::function<void(const std::string& why)> told);
  double now() const;  // seconds since construction

  // One step in the calling thread; false when there was nothing to do. REQUIRES: not started.
  bool step();
  // Steps in an own thread until stop(); which finishes the step at hand and leaves the rest as it is.
  void start();
  void stop();

 private:
  struct Live;
  struct Sample;
  struct Row;  // what one sample is drawn from

  void take_messages();
  void draft();
  void foresee();
  bool can_fly(const StepPlan& plan) const;
  void land();
  void settle();
  void compute(const StepPlan& plan);
  void launch(const StepPlan& plan);
  bool samples_parts(const StepPlan& plan) const;
  int64_t candidates(const StepPlan& plan) const;
  void die(const Error& e);
  bool sample_on_device(const StepPlan& plan);
  void take_sampled(std::span<const StepItem> items, const SampledRows& sampled);
  void begin_masks(const StepPlan& plan);
  void sample_row(Row& row);
  void build_rows(const StepPlan& plan, const Tensor& logits);
  void sample_rows();
  void commit(std::span<const StepItem> items, bool stored);
  int64_t budget(const Sample& sample) const;
  void find_end(Row& row);
  void deliver_rows();
  void deliver(Row& row);
  static std::vector<Sample*> open_samples(const Live& live);
  static void set_error(RequestResult& result, ErrorCode code, const std::string& message);
  void fail_sample(Sample& sample, ErrorCode code, const std::string& message);
  void close(Sample& sample);
  void retire(Sample& sample);
  void retire_batch();
  template <class F>
  void end_all(F&& explain);
  void publish_stats(const StepPlan& plan);
  void loop();

  Runner& runner_;
  EngineOptions options_;
  Scheduler scheduler_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::map<int64_t, std::unique_ptr<Live>> live_;
  std::vector<RunItem> items_;
  std::vector<RowSampling> samplings_;  // of the step at hand, when the device samples
  std::vector<LogitEdit> edits_;
  std::vector<Row> rows_;  // of the last step, until they are delivered
  // The step that the device works on or has done, sampled there, while the next one is planned and enqueued; its
  // tokens are not known yet. Empty: none. Samples that end meanwhile give their pages back at once: the device runs
  // steps one after another, so who gets them writes later.
  std::vector<StepItem> flight_;
  bool in_flight_ = false;                     // a step is enqueued whose tokens are not stored
  std::vector<Sample*> leaving_;               // ended meanwhile; out after the step
  std::vector<std::unique_ptr<Live>> buried_;  // ended, until no row and no step names them
  std::vector<float> copies_;                  // of rows that several samples draw from
  EngineStats counts_;
  SideThread masks_;  // makes the masks of the next rows while the device works

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Live>> inbox_;
  std::vector<int64_t> cancelled_;
  int64_t queued_ = 0, queued_tokens_ = 0;  // in the inbox and in the scheduler's queue
  int64_t next_id_ = 1;
  EngineStats stats_;
  std::string dead_;  // why no step can run any more
  std::function<void(const std::string&)> on_death_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tessera

#include "tessera/batch.h"

#include <algorithm>
#include <map>

#include "api/answer_text.h"
#include "api/batch_engine.h"
#include "core/error.h"

namespace tessera {

const char* batch_status_name(BatchStatus status) {
  switch (status) {
    case BatchStatus::kPending:
      return "pending";
    case BatchStatus::kPrefilling:
      return "prefilling";
    case BatchStatus::kDecoding:
      return "decoding";
    case BatchStatus::kFinished:
      return "finished";
    case BatchStatus::kFailed:
      return "failed";
  }
  return "failed";
}

namespace {

RunnerOptions runner_options(const Llm::Impl& llm, const BatchOptions& o) {
  auto positive = [](const char* name, int64_t value) {
    if (value < 1) fail(ErrorCode::kInvalidArgument, "{} is {}; expected 1 or more", name, value);
  };
  positive("max_requests_per_batch", o.max_requests_per_batch);
  positive("max_batch_tokens", o.max_batch_tokens);
  if (o.block_size < 0) fail(ErrorCode::kInvalidArgument, "block_size is {}; expected 0 or more", o.block_size);
  positive("max_queue_size", o.max_queue_size);
  positive("max_queue_tokens", o.max_queue_tokens);
  if (o.num_blocks < 0 || o.cache_memory < 0 || o.swap_memory < 0 || o.max_context < 0 || o.prompt_lookup < 0 ||
      o.prompt_lookup > 64)
    fail(ErrorCode::kInvalidArgument,
         "num_blocks, cache_memory, swap_memory, max_context and prompt_lookup (at most 64) must not be negative");
  RunnerOptions r = llm.own_runner ? llm.own_runner->options() : llm.run_options;
  if (o.max_context > r.max_context) {
    fail(ErrorCode::kInvalidArgument, "max_context is {}, and the model was loaded with {}", o.max_context,
         r.max_context);
  }
  if (o.max_context > 0) r.max_context = o.max_context;
  r.max_sequences = o.max_requests_per_batch;
  r.max_batch_tokens = o.max_batch_tokens;
  r.max_logit_rows = std::max<int64_t>(o.max_requests_per_batch * (o.prompt_lookup > 0 ? 4 : 1), 1);
  r.page_size = o.block_size > 0 ? o.block_size : default_page_size(llm.model->cache());
  r.prefix_cache = o.allow_block_sharing;
  r.cache_bytes = o.cache_memory;
  r.swap_bytes = o.swap_memory;
  if (o.num_blocks > 0)
    r.cache_bytes =
        o.num_blocks *
        layout_cache(llm.model->cache(), r.ignore_window).page_bytes(r.page_size, dtype_size(r.cache_type()));
  r.deterministic = o.deterministic;
  r.fit_context = r.fit_context && o.max_context == 0 && r.cache_bytes == 0;
  return r;
}

EngineOptions engine_options(const BatchOptions& o) {
  if (o.scheduler_type != "fifo" && o.scheduler_type != "prefill_first")
    fail(ErrorCode::kInvalidArgument, "scheduler_type is \"{}\"; expected fifo or prefill_first", o.scheduler_type);
  return {.policy = o.scheduler_type == "fifo" ? SchedulePolicy::kFifo : SchedulePolicy::kPrefillFirst,
          .max_queue = o.max_queue_size,
          .max_queue_tokens = o.max_queue_tokens,
          .prompt_lookup = o.prompt_lookup,
          .static_batching = o.static_batching};
}

// The engine's view of one request, and its outputs until they are handed out.
struct Pending {
  BatchRequest request;
  std::vector<AnswerText> texts;
  std::vector<std::vector<double>> timestamps;
};

class Batch {
 public:
  Batch(Llm::Impl& llm, const BatchOptions& options, const std::function<bool(BatchOutput&&)>& on_output)
      : llm_(llm), options_(options), on_output_(on_output), machine_(llm, options) {}

  BatchReport run(const std::function<std::optional<BatchRequest>()>& next) {
    llm_.cancelled.store(false, std::memory_order_relaxed);
    std::optional<BatchRequest> held;  // found the queue full
    for (bool more = true; wanted_;) {
      while (more && wanted_) {
        if (!held) held = next();
        more = held.has_value();
        if (!more || !submit(*held)) break;
        held.reset();
      }
      if (llm_.cancelled.exchange(false, std::memory_order_relaxed)) break;
      if (!machine_.engine.step() && !more) break;
    }
    wanted_ = false;  // what the engine's end cancels is not reported
    return report();
  }

 private:
  // False when the queue is full.
  bool submit(BatchRequest& request) {
    Engine& engine = machine_.engine;
    auto pending = std::make_shared<Pending>();
    if (options_.deterministic && !request.params.seed) request.params.seed = 0;
    pending->request = request;
    const Tokenizer* tokenizer = llm_.tokenizer ? &*llm_.tokenizer : nullptr;
    for (int k = 0; k < std::clamp(request.samples, 0, 128); ++k)
      pending->texts.emplace_back(tokenizer, request.params.stop, nullptr);
    pending->timestamps.resize(pending->texts.size());
    try {
      return engine
                 .submit({.prompt = request.prompt,
                          .params = request.params,
                          .eos_ids = llm_.eos_ids,
                          .samples = request.samples,
                          .priority = request.priority,
                          .timeout_seconds = request.timeout_seconds,
                          .on_token =
                              [this, pending](int k, int32_t id, const TokenLogprob* logprob) {
                                if (options_.record_timestamps)
                                  pending->timestamps[static_cast<size_t>(k)].push_back(machine_.engine.now());
                                return pending->texts[static_cast<size_t>(k)].push(id, logprob);
                              },
                          .on_end = [this, pending](int k, const RequestResult& r) { hand_out(*pending, k, r); }})
                 .status == Submitted::kAccepted;
    } catch (const Error& e) {
      RequestResult refused{.failed = true, .error_code = e.code(), .error = e.what(), .created = engine.now()};
      refused.started = refused.first_token = refused.ended = refused.created;
      if (pending->texts.empty())
        pending->texts.emplace_back(tokenizer, request.params.stop, nullptr), pending->timestamps.resize(1);
      hand_out(*pending, 0, refused);
      return true;
    }
  }

  void hand_out(Pending& pending, int k, const RequestResult& r) {
    if (!wanted_) return;
    ++report_.requests;
    report_.failed += r.failed;
    report_.cancelled += !r.failed && r.reason == FinishReason::kCancelled;
    report_.completion_tokens += r.completion_tokens;
    if (k == 0) {
      report_.prompt_tokens += r.prompt_tokens;
      report_.cached_tokens += r.cached_tokens;
    }
    BatchOutput out{.id = pending.request.id,
                    .sample = k,
                    .status = r.failed ? BatchStatus::kFailed : BatchStatus::kFinished,
                    .error = r.error,
                    .generation = pending.texts[static_cast<size_t>(k)].finish(r),
                    .cached_tokens = r.cached_tokens,
                    .preemptions = r.preemptions,
                    .created_time = r.created,
                    .started_time = r.started,
                    .first_token_time = r.first_token,
                    .finished_time = r.ended,
                    .timestamps = std::move(pending.timestamps[static_cast<size_t>(k)])};
    if (!on_output_(std::move(out))) wanted_ = false;
  }

  BatchReport report() {
    const EngineStats s = machine_.engine.stats();
    report_.seconds = machine_.engine.now();
    report_.steps = s.steps;
    report_.preemptions = s.preemptions;
    report_.swaps = s.swaps;
    report_.drafted_tokens = s.drafted_tokens;
    report_.accepted_tokens = s.accepted_tokens;
    report_.cache_bytes = machine_.runner.memory().cache_bytes;
    report_.peak_cache_bytes = s.pages_peak * machine_.runner.page_bytes();
    return report_;
  }

  Llm::Impl& llm_;
  const BatchOptions& options_;
  const std::function<bool(BatchOutput&&)>& on_output_;
  bool wanted_ = true;
  BatchReport report_;
  BatchEngine machine_;  // last: its end calls back
};

}  // namespace

BatchEngine::BatchEngine(Llm::Impl& llm, const BatchOptions& options)
    : kernels(options.deterministic ? llm.kernels.batch_invariant() : llm.kernels),
      runner(*llm.model, kernels, llm.pool, *llm.context, runner_options(llm, options), llm.links()),
      engine(runner, engine_options(options)) {}

BatchReport generate_batch(Llm& llm, const std::function<std::optional<BatchRequest>()>& next,
                           const std::function<bool(BatchOutput&&)>& on_output, const BatchOptions& options) {
  return Batch(llm.impl(), options, on_output).run(next);
}

std::vector<BatchOutput> generate_batch(Llm& llm, const std::vector<BatchRequest>& requests,
                                        const BatchOptions& options) {
  std::map<std::pair<size_t, int>, BatchOutput> outputs;
  size_t asked = 0;
  auto next = [&]() -> std::optional<BatchRequest> {
    if (asked == requests.size()) return std::nullopt;
    BatchRequest request = requests[asked];
    request.id = std::to_string(asked++);
    return request;
  };
  generate_batch(
      llm, next,
      [&](BatchOutput&& out) {
        const size_t index = std::stoul(out.id);
        out.id = requests[index].id;
        outputs[{index, out.sample}] = std::move(out);
        return true;
      },
      options);
  std::vector<BatchOutput> ordered;
  for (auto& [key, out] : outputs) ordered.push_back(std::move(out));
  return ordered;
}

}  // namespace tessera

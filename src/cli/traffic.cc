#include "cli/traffic.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <memory>
#include <random>
#include <thread>

namespace tessera::cli {

std::vector<TrafficItem> synthetic_traffic(const TrafficOptions& o, int64_t vocab_size,
                                           const std::vector<int32_t>& avoid) {
  std::mt19937_64 random(o.seed);
  auto uniform = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); };
  auto token = [&] {
    for (;;) {
      const auto id = static_cast<int32_t>(uniform(0, vocab_size - 1));
      if (std::ranges::find(avoid, id) == avoid.end()) return id;
    }
  };
  std::vector<int32_t> shared;
  for (int64_t i = 0; i < o.prompt_high; ++i) shared.push_back(token());
  std::vector<TrafficItem> traffic;
  double arrival = 0;
  for (int64_t i = 0; i < o.requests; ++i) {
    TrafficItem item;
    const int64_t length = uniform(o.prompt_low, o.prompt_high);
    const auto common = static_cast<int64_t>(o.shared_prefix * static_cast<double>(length));
    item.prompt.assign(shared.begin(), shared.begin() + common);
    while (static_cast<int64_t>(item.prompt.size()) < length) item.prompt.push_back(token());
    int64_t output = uniform(o.output_low, o.output_high);
    // A spread of 0.6 about the median is near that of GSM8K's worked answers.
    if (o.output_median > 0) {
      std::lognormal_distribution<double> lengths(std::log(o.output_median), 0.6);
      output = std::clamp(static_cast<int64_t>(lengths(random)), o.output_low, o.output_high);
    }
    item.params.temperature = 0;
    item.params.max_tokens = output;
    item.params.ignore_eos = !o.honour_eos;
    if (o.rate > 0) arrival += std::exponential_distribution<double>(o.rate)(random);
    item.arrival = arrival;
    traffic.push_back(std::move(item));
  }
  return traffic;
}

namespace {

class TrafficRun {
 public:
  TrafficRun(Llm::Impl& llm, const BatchOptions& options, const std::vector<TrafficItem>& traffic, int64_t concurrency)
      : llm_(llm),
        traffic_(traffic),
        concurrency_(concurrency),
        token_times_(traffic.size()),
        arrivals_(traffic.size()),
        machine_(llm, options) {}

  bool ended() const { return ended_ == traffic_.size(); }
  int64_t tokens() const { return tokens_; }
  int64_t cache_bytes() const { return machine_.runner.memory().cache_bytes; }

  // Serves for a while; other runs may be served between two calls, whose time does not count here.
  void advance(double seconds) {
    if (!started_) warm_up();
    const std::clock_t cpu = std::clock();
    const double begin = machine_.engine.now();
    paused_ += begin - paused_at_;
    while (!ended() && machine_.engine.now() - begin < seconds) {
      if (llm_.cancelled.load(std::memory_order_relaxed)) break;
      step();
    }
    paused_at_ = machine_.engine.now();
    result_.cpu_seconds += static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC;
    result_.seconds = now();
  }

  TrafficResult finish() {
    const EngineStats after = machine_.engine.stats();
    result_.occupancy = occupied_ / result_.seconds;
    result_.steps = after.steps - before_.steps;
    result_.preemptions = after.preemptions - before_.preemptions;
    result_.swaps = after.swaps - before_.swaps;
    result_.drafted = after.drafted_tokens - before_.drafted_tokens;
    result_.accepted = after.accepted_tokens - before_.accepted_tokens;
    result_.cache_bytes = machine_.runner.memory().cache_bytes;
    result_.peak_cache_bytes = after.pages_peak * machine_.runner.page_bytes();
    result_.peak_window_cache_bytes = peak_window_bytes();
    return std::move(result_);
  }

 private:
  void warm_up() {
    bool ended = false;
    machine_.runner.warm_up();
    machine_.engine.submit({.prompt = {traffic_[0].prompt[0]},
                            .params = {.temperature = 0, .ignore_eos = true, .max_tokens = 4},
                            .on_end = [&](int, const RequestResult&) { ended = true; }});
    while (!ended) machine_.engine.step();
    started_ = true;
    before_ = machine_.engine.stats();
    paused_ = 0;
    paused_at_ = 0;  // all of the engine's time so far
  }

  double now() const { return machine_.engine.now() - paused_; }

  void step() {
    submit_due();
    const int64_t before = tokens_;
    const bool worked = machine_.engine.step();
    const EngineStats s = machine_.engine.stats();
    if (!worked) {
      if (at_ < traffic_.size()) wait_for(traffic_[at_].arrival);
      last_step_ = now();
      return;
    }
    const double time = s.time - paused_;
    occupied_ += static_cast<double>(s.step_requests) * (time - last_step_);
    last_step_ = time;
    result_.records.push_back(
        {time, s.step_requests, s.step_tokens, s.waiting, s.pages_held, s.pages_cached, tokens_ - before});
  }

  void submit_due() {
    while (at_ < traffic_.size()) {
      const bool due =
          concurrency_ > 0 ? static_cast<int64_t>(at_ - ended_) < concurrency_ : traffic_[at_].arrival <= now();
      if (!due) return;
      const size_t i = at_;
      const Submission s = machine_.engine.submit({.prompt = traffic_[i].prompt,
                                                   .params = traffic_[i].params,
                                                   .eos_ids = llm_.eos_ids,
                                                   .on_token =
                                                       [this, i](int, int32_t, const TokenLogprob*) {
                                                         token_times_[i].push_back(now());
                                                         ++tokens_;
                                                         return true;
                                                       },
                                                   .on_end = [this, i](int, const RequestResult& r) { note(i, r); }});
      if (s.status == Submitted::kQueueFull) return;
      arrivals_[i] = concurrency_ > 0 ? now() : traffic_[i].arrival;
      ++at_;
    }
  }

  // From the allocator's counter of each group: a page of it holds a page of each of its layers.
  int64_t peak_window_bytes() const {
    const Runner& runner = machine_.runner;
    const CacheSpec spec = llm_.model->cache();
    const std::vector<CacheGroup>& groups = runner.layout().groups;
    int64_t bytes = 0;
    for (size_t g = 0; g < groups.size(); ++g) {
      for (int layer : groups[g].layers) {
        const LayerCache& shape = spec.layers[static_cast<size_t>(layer)];
        if (shape.window == 0) continue;
        for (const PagedCache* cache : runner.caches())
          bytes += cache->peak_held(g) * runner.options().page_size *
                   token_bytes(shape, dtype_size(runner.options().cache_type()));
      }
    }
    return bytes;
  }

  void wait_for(double arrival) const {
    const double left = arrival - now();
    if (left > 0) std::this_thread::sleep_for(std::chrono::duration<double>(std::min(left, 0.05)));
  }

  void note(size_t i, const RequestResult& r) {
    if (ended_ == traffic_.size()) return;
    ++ended_;
    ++result_.requests;
    result_.failed += r.failed;
    result_.prompt_tokens += r.prompt_tokens;
    result_.cached_tokens += r.cached_tokens;
    result_.output_tokens += r.completion_tokens;
    const std::vector<double>& times = token_times_[i];
    if (times.empty()) return;
    result_.ttft.push_back(times.front() - arrivals_[i]);
    for (size_t t = 1; t < times.size(); ++t) result_.itl.push_back(times[t] - times[t - 1]);
    if (times.size() > 1)
      result_.tpot.push_back((times.back() - times.front()) / static_cast<double>(times.size() - 1));
  }

  Llm::Impl& llm_;
  const std::vector<TrafficItem>& traffic_;
  int64_t concurrency_;
  std::vector<std::vector<double>> token_times_;
  size_t at_ = 0, ended_ = 0;
  std::vector<double>
      arrivals_;  // as all times here: seconds of this run's own clock, which stands still between advances
  int64_t tokens_ = 0;
  bool started_ = false;
  double paused_ = 0, paused_at_ = 0;  // engine's clock
  double occupied_ = 0, last_step_ = 0;
  EngineStats before_;
  TrafficResult result_;
  BatchEngine machine_;  // last: its end calls back
};

}  // namespace

std::vector<TrafficResult> run_traffic(Llm::Impl& llm, const std::vector<BatchOptions>& ways,
                                       const std::vector<TrafficItem>& traffic, int64_t concurrency) {
  constexpr double kSlice = 0.1;  // seconds: long enough that another run's traces in the CPU's caches do not matter
  llm.cancelled.store(false, std::memory_order_relaxed);
  std::vector<std::unique_ptr<TrafficRun>> runs;
  for (BatchOptions options : ways) {
    if (!runs.empty() && options.num_blocks == 0) options.cache_memory = runs[0]->cache_bytes();  // all the same
    runs.push_back(std::make_unique<TrafficRun>(llm, options, traffic, concurrency));
  }
  while (!llm.cancelled.load(std::memory_order_relaxed)) {
    TrafficRun* behind = nullptr;
    for (const auto& run : runs)
      if (!run->ended() && (!behind || run->tokens() < behind->tokens())) behind = run.get();
    if (!behind) break;
    behind->advance(kSlice);
  }
  std::vector<TrafficResult> results;
  for (const auto& run : runs) results.push_back(run->finish());
  return results;
}

double percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  const auto at = static_cast<size_t>(
      std::clamp(std::ceil(p * static_cast<double>(values.size())) - 1, 0.0, static_cast<double>(values.size() - 1)));
  std::nth_element(values.begin(), values.begin() + static_cast<long>(at), values.end());
  return values[at];
}

OrderedJson traffic_json(const TrafficResult& r) {
  auto spread = [](const std::vector<double>& values) {
    return OrderedJson{
        {"p50", percentile(values, 0.5)}, {"p90", percentile(values, 0.9)}, {"p99", percentile(values, 0.99)}};
  };
  return {{"seconds", r.seconds},
          {"cpu_seconds", r.cpu_seconds},
          {"requests", r.requests},
          {"failed", r.failed},
          {"prompt_tokens", r.prompt_tokens},
          {"cached_tokens", r.cached_tokens},
          {"output_tokens", r.output_tokens},
          {"output_tokens_per_second", static_cast<double>(r.output_tokens) / r.seconds},
          {"requests_per_second", static_cast<double>(r.requests) / r.seconds},
          {"occupancy", r.occupancy},
          {"steps", r.steps},
          {"preemptions", r.preemptions},
          {"swaps", r.swaps},
          {"drafted_tokens", r.drafted},
          {"accepted_tokens", r.accepted},
          {"cache_bytes", r.cache_bytes},
          {"peak_cache_bytes", r.peak_cache_bytes},
          {"peak_window_cache_bytes", r.peak_window_cache_bytes},
          {"ttft_seconds", spread(r.ttft)},
          {"itl_seconds", spread(r.itl)},
          {"tpot_seconds", spread(r.tpot)}};
}

}  // namespace tessera::cli

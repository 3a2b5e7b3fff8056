#include "cli/traffic.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
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
      : llm_(llm), traffic_(traffic), concurrency_(concurrency), token_times_(traffic.size()), machine_(llm, options) {}

  TrafficResult run() {
    warm_up();
    start_ = machine_.engine.now();
    const std::clock_t cpu = std::clock();
    const EngineStats before = machine_.engine.stats();
    double occupied = 0, last = start_;
    while (ended_ < traffic_.size()) {
      if (llm_.cancelled.load(std::memory_order_relaxed)) break;
      submit_due();
      const bool worked = machine_.engine.step();
      const EngineStats s = machine_.engine.stats();
      if (!worked) {
        if (at_ < traffic_.size()) wait_for(traffic_[at_].arrival);
        last = machine_.engine.now();
        continue;
      }
      occupied += static_cast<double>(s.step_requests) * (s.time - last);
      last = s.time;
      result_.records.push_back(
          {s.time - start_, s.step_requests, s.step_tokens, s.waiting, s.pages_held, s.pages_cached});
    }
    const EngineStats after = machine_.engine.stats();
    result_.seconds = machine_.engine.now() - start_;
    result_.cpu_seconds = static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC;
    result_.occupancy = occupied / result_.seconds;
    result_.steps = after.steps - before.steps;
    result_.preemptions = after.preemptions - before.preemptions;
    result_.swaps = after.swaps - before.swaps;
    result_.drafted = after.drafted_tokens - before.drafted_tokens;
    result_.accepted = after.accepted_tokens - before.accepted_tokens;
    result_.cache_bytes = machine_.runner.memory().cache_bytes;
    result_.peak_cache_bytes = after.pages_peak * machine_.runner.page_bytes();
    result_.peak_window_cache_bytes = peak_window_bytes();
    return std::move(result_);
  }

 private:
  void warm_up() {
    bool ended = false;
    machine_.engine.submit({.prompt = {traffic_[0].prompt[0]},
                            .params = {.temperature = 0, .ignore_eos = true, .max_tokens = 4},
                            .on_end = [&](int, const RequestResult&) { ended = true; }});
    while (!ended) machine_.engine.step();
  }

  void submit_due() {
    while (at_ < traffic_.size()) {
      const bool due = concurrency_ > 0 ? static_cast<int64_t>(at_ - ended_) < concurrency_
                                        : traffic_[at_].arrival <= machine_.engine.now() - start_;
      if (!due) return;
      const size_t i = at_;
      const Submission s = machine_.engine.submit({.prompt = traffic_[i].prompt,
                                                   .params = traffic_[i].params,
                                                   .eos_ids = llm_.eos_ids,
                                                   .on_token =
                                                       [this, i](int, int32_t, const TokenLogprob*) {
                                                         token_times_[i].push_back(machine_.engine.now());
                                                         return true;
                                                       },
                                                   .on_end = [this, i](int, const RequestResult& r) { note(i, r); }});
      if (s.status == Submitted::kQueueFull) return;
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
        bytes += runner.cache().peak_held(g) * runner.options().page_size *
                 token_bytes(shape, dtype_size(runner.options().dtype));
      }
    }
    return bytes;
  }

  void wait_for(double arrival) const {
    const double left = arrival - (machine_.engine.now() - start_);
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
    const double arrival = concurrency_ > 0 ? r.created : std::max(start_ + traffic_[i].arrival, start_);
    result_.ttft.push_back(times.front() - arrival);
    for (size_t t = 1; t < times.size(); ++t) result_.itl.push_back(times[t] - times[t - 1]);
    if (times.size() > 1)
      result_.tpot.push_back((times.back() - times.front()) / static_cast<double>(times.size() - 1));
  }

  Llm::Impl& llm_;
  const std::vector<TrafficItem>& traffic_;
  int64_t concurrency_;
  std::vector<std::vector<double>> token_times_;
  size_t at_ = 0, ended_ = 0;
  double start_ = 0;
  TrafficResult result_;
  BatchEngine machine_;  // last: its end calls back
};

}  // namespace

TrafficResult run_traffic(Llm::Impl& llm, const BatchOptions& options, const std::vector<TrafficItem>& traffic,
                          int64_t concurrency) {
  if (traffic.empty()) return {};
  llm.cancelled.store(false, std::memory_order_relaxed);
  return TrafficRun(llm, options, traffic, concurrency).run();
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

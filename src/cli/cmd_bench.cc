// tessera bench: how fast requests are served. throughput: all at once, or as they arrive; latency: a few at a time.
#include <CLI/CLI.hpp>
#include <fstream>

#include "api/openai_json.h"
#include "cli/batch_options.h"
#include "cli/bench_kernels.h"
#include "cli/bench_load.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/traffic.h"
#include "core/error.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
Prompts are random token ids; answers have the length drawn for them unless --honour-eos is given. A file of requests
(--input, as for 'tessera batch') may be served instead. Times: TTFT, until the first token; ITL, between two tokens;
TPOT, a request's mean ITL.

examples:
  tessera bench throughput models/glossary --requests 100
  tessera bench throughput models/glossary --requests 100 --static-batching --trace occupancy.csv
  tessera bench throughput MODEL --rate 4 --requests 200 --json
  tessera bench latency MODEL --concurrency 4
  tessera bench load MODEL --device cuda --no-prealloc
  tessera bench kernels MODEL --device cuda --with-hub --svg hub.svg
  tessera bench kernels MODEL --with-hub RMSNorm=ORG/NAME@v1 --batch-sizes 1,16)";

constexpr const char* kStaticHelp =
    "also serve the same requests in static batches (a batch ends when its longest answer does, as a padded batch), "
    "both "
    "taking turns, and compare";

struct Options {
  ModelOptions model;
  BatchOptions batch;
  TrafficOptions traffic;
  std::vector<int64_t> prompt = {60, 200}, output = {8, 512};
  std::string input, trace;
  int64_t concurrency = 0;
  bool compare = false;
};

void add_options(CLI::App& app, Options& o) {
  add_model_options(app, o.model);
  add_rank_options(app, o.model);
  add_batch_options(app, o.batch);
  constexpr const char* kGroup = "Traffic";
  auto positive = CLI::Range(int64_t{1}, int64_t{1} << 30);
  app.add_option("--requests", o.traffic.requests, "how many")->check(positive)->capture_default_str()->group(kGroup);
  app.add_option("--prompt-tokens", o.prompt, "shortest and longest prompt: LOW HIGH")
      ->expected(2)
      ->check(positive)
      ->group(kGroup);
  app.add_option("--output-tokens", o.output, "shortest and longest answer: LOW HIGH")
      ->expected(2)
      ->check(positive)
      ->group(kGroup);
  app.add_option("--output-median", o.traffic.output_median, "of answers with a log-normal spread; 0: uniform")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group(kGroup);
  app.add_option("--shared-prefix", o.traffic.shared_prefix, "share of each prompt that all have in common")
      ->check(CLI::Range(0.0, 1.0))
      ->group(kGroup);
  CLI::Option* rate = app.add_option("--rate", o.traffic.rate, "Poisson arrivals a second; 0: all at once")
                          ->check(CLI::NonNegativeNumber)
                          ->group(kGroup);
  app.add_option("--concurrency", o.concurrency, "keep this many requests in the system; 0: as they arrive")
      ->check(CLI::NonNegativeNumber)
      ->excludes(rate)
      ->group(kGroup);
  app.add_flag("--honour-eos", o.traffic.honour_eos, "an answer may end before its drawn length")->group(kGroup);
  app.add_option("--traffic-seed", o.traffic.seed, "of lengths, tokens and arrivals")
      ->capture_default_str()
      ->group(kGroup);
  app.add_option("--input", o.input, "serve the requests of this file instead")->group(kGroup);
  app.add_option("--trace", o.trace, "write every step's occupancy to this CSV file");
  app.add_flag("--static-batching", o.compare, kStaticHelp);
}

std::vector<TrafficItem> recorded_traffic(Llm& llm, const std::string& path) {
  OpenAiReader reader(llm);
  std::vector<TrafficItem> traffic;
  const std::string text = read_input(path);
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    if (end == begin) continue;
    OrderedJson line = OrderedJson::parse(text.substr(begin, end - begin), nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("body") || !line["body"].is_object())
      fail(ErrorCode::kInvalidArgument, "{}: byte {}: expected a request with a \"body\"", path, begin);
    OpenAiRequest r =
        line["body"].contains("messages") ? reader.chat_completion(line["body"]) : reader.completion(line["body"]);
    r.request.params.stop.clear();  // text is not looked at here
    traffic.push_back({std::move(r.request.prompt), std::move(r.request.params), 0});
  }
  if (traffic.empty()) fail(ErrorCode::kInvalidArgument, "{}: no requests", path);
  return traffic;
}

void write_trace(const std::string& path, const std::vector<std::pair<const char*, const TrafficResult*>>& runs) {
  std::ofstream file(path);
  file << "mode,seconds,requests,tokens,waiting,pages_held,pages_cached,output_tokens\n";
  for (auto [mode, result] : runs)
    for (const StepRecord& r : result->records)
      file << fmt::format("{},{:.6f},{},{},{},{},{},{}\n", mode, r.time, r.requests, r.tokens, r.waiting, r.pages_held,
                          r.pages_cached, r.output_tokens);
  if (!file.flush()) fail(ErrorCode::kIo, "{}: cannot be written", path);
}

void print(Output& out, const char* mode, const TrafficResult& r) {
  auto milliseconds = [](const std::vector<double>& v) {
    return fmt::format("{:.1f} / {:.1f} / {:.1f}", percentile(v, 0.5) * 1e3, percentile(v, 0.9) * 1e3,
                       percentile(v, 0.99) * 1e3);
  };
  out.text(fmt::format("{}: {} requests in {:.2f} s\n", mode, r.requests, r.seconds));
  out.text(
      fmt::format("  output           {:.1f} tokens/s ({} tokens; prompts {}, of which {} from the prefix cache)\n",
                  static_cast<double>(r.output_tokens) / r.seconds, r.output_tokens, r.prompt_tokens, r.cached_tokens));
  out.text(fmt::format("  occupancy        {:.1f} requests a step, {} steps, {} preemptions, {} of them by swapping\n",
                       r.occupancy, r.steps, r.preemptions, r.swaps));
  out.text(fmt::format("  cache            {:.1f} MiB at most of {:.1f} MiB\n",
                       static_cast<double>(r.peak_cache_bytes) / (1 << 20),
                       static_cast<double>(r.cache_bytes) / (1 << 20)));
  if (r.drafted > 0) out.text(fmt::format("  drafts           {} of {} accepted\n", r.accepted, r.drafted));
  out.text(fmt::format("  ms p50/p90/p99   TTFT {}   ITL {}   TPOT {}\n", milliseconds(r.ttft), milliseconds(r.itl),
                       milliseconds(r.tpot)));
}

int bench(Invocation& call, Options& o) {
  if (o.prompt[0] > o.prompt[1] || o.output[0] > o.output[1])
    fail(ErrorCode::kInvalidArgument, "--prompt-tokens and --output-tokens take LOW HIGH, with LOW not above HIGH");
  o.traffic.prompt_low = o.prompt[0], o.traffic.prompt_high = o.prompt[1];
  o.traffic.output_low = o.output[0], o.traffic.output_high = o.output[1];
  o.model.load.own_cache = false;
  Llm llm = load_llm(o.model);
  if (o.input.empty() && o.prompt[1] + o.output[1] > llm.max_context()) {
    fail(ErrorCode::kInvalidArgument,
         "prompts and answers of up to {} tokens do not fit the context of {}; shorten them", o.prompt[1] + o.output[1],
         llm.max_context());
  }
  if (o.batch.max_context == 0 && o.input.empty())
    o.batch.max_context = std::min(llm.max_context(), o.prompt[1] + o.output[1] + 1);
  const std::vector<TrafficItem> traffic = o.input.empty()
                                               ? synthetic_traffic(o.traffic, llm.vocab_size(), llm.impl().eos_ids)
                                               : recorded_traffic(llm, o.input);
  o.batch.max_queue_size = std::max<int64_t>(o.batch.max_queue_size, static_cast<int64_t>(traffic.size()));
  InterruptScope interrupt(&llm, SecondInterrupt::kEndsProgram);

  std::vector<BatchOptions> ways = {o.batch};
  if (o.compare) {
    ways.insert(ways.begin(), o.batch);
    ways[0].static_batching = true;
  }
  const std::vector<TrafficResult> results = run_traffic(llm.impl(), ways, traffic, o.concurrency);
  OrderedJson object;
  std::vector<std::pair<const char*, const TrafficResult*>> runs;
  for (size_t i = 0; i < results.size(); ++i) {
    const bool fixed = ways[i].static_batching;
    runs.emplace_back(fixed ? "static" : "continuous", &results[i]);
    object[runs.back().first] = traffic_json(results[i]);
    if (!call.json) print(call.out, fixed ? "static batches" : "continuous batching", results[i]);
  }
  const TrafficResult& result = results.back();
  if (o.compare) {
    auto speed = [](const TrafficResult& r) { return static_cast<double>(r.output_tokens) / r.seconds; };
    const double ratio = speed(result) / speed(results[0]);
    object["speedup"] = ratio;
    if (!call.json) call.out.text(fmt::format("continuous / static: {:.2f} times the tokens a second\n", ratio));
  }
  if (!o.trace.empty()) write_trace(o.trace, runs);
  if (call.json) call.out.json(object);
  if (interrupt.interrupted()) return kInterruptedExit;
  return result.failed > 0 ? 1 : 0;
}

}  // namespace

int cmd_bench(Invocation& call) {
  CLI::App app{"Measures how requests are served, and how models load.", "tessera bench"};
  app.require_subcommand(1);
  app.footer(kExamples);
  Options throughput, latency;
  latency.concurrency = 1;
  latency.traffic.requests = 20;
  CLI::App* throughput_app = app.add_subcommand("throughput", "many requests at once: tokens a second");
  add_options(*throughput_app, throughput);
  CLI::App* latency_app =
      app.add_subcommand("latency", "a few requests at a time: time to the first token and between tokens");
  add_options(*latency_app, latency);
  LoadBenchOptions loading;
  CLI::App* load_app = app.add_subcommand("load", "until a model is ready, beside a bare copy of its files");
  add_options(*load_app, loading);
  KernelBenchOptions kernels;
  CLI::App* kernels_app =
      app.add_subcommand("kernels", "tokens a second with and without kernels from the hub, over batch sizes");
  add_options(*kernels_app, kernels);
  if (!parse(app, call)) return 0;
  if (kernels_app->parsed()) return bench_kernels(call, kernels);
  if (load_app->parsed()) return bench_load(call, loading);
  return bench(call, throughput_app->parsed() ? throughput : latency);
}

}  // namespace tessera::cli

#include "cli/bench_kernels.h"

#include <CLI/CLI.hpp>
#include <set>

#include "api/batch_engine.h"
#include "api/hub_layers.h"
#include "cli/interrupt.h"
#include "cli/kernel_tools.h"
#include "cli/line_chart.h"
#include "cli/traffic.h"
#include "core/error.h"
#include "kernels/hub/call_speed.h"

namespace tessera::cli {

namespace {

constexpr const char* kOwn = "own";

// Of one batch size: output tokens a second.
struct SizeSpeed {
  int64_t size = 0;
  double builtin = 0, hub = 0;
};

std::set<std::string> row_names(const Kernels& kernels) {
  std::set<std::string> names;
  kernels.for_each([&](const auto& table) {
    for (const auto& row : table.rows) names.insert(row.name);
  });
  return names;
}

// The model with its built-in kernels, and with the hub's, in one process: weights are loaded once.
class KernelBench {
 public:
  KernelBench(Llm& llm, const KernelBenchOptions& options)
      : llm_(llm.impl()), options_(options), vocab_(llm.vocab_size()) {
    builtin_ = hub_ = llm_.kernels;
    if (options.with_hub.empty()) return;
    LoadOptions hub = options.model.load;
    hub.use_kernels = options.with_hub;
    if (options.with_hub == kOwn) {
      const std::string library = own_kernels_library();
      hub.use_kernels = fmt::format("RMSNorm={0},MoE={0},attention={0},rotary_pos_emb={0}", library);
    }
    use_hub_kernels(hub_, hub, *llm_.context);
  }

  // The better of some rounds in which both ways take turns.
  SizeSpeed at(int64_t size) {
    SizeSpeed best{.size = size};
    for (int round = 0; round < options_.rounds; ++round) {
      best.builtin = std::max(best.builtin, speed(size, builtin_));
      if (!options_.with_hub.empty()) best.hub = std::max(best.hub, speed(size, hub_));
    }
    return best;
  }

  // The ops that a kernel from the hub computes in steps of these sizes.
  OrderedJson computed_by_hub(const std::vector<int64_t>& sizes) {
    const std::set<std::string> known = row_names(builtin_);
    llm_.kernels = hub_;
    BatchEngine machine(llm_, batch(sizes.back()));
    llm_.kernels = builtin_;
    std::map<std::string, std::set<std::string>> found;
    for (const int64_t size : sizes)
      for (const KernelChoice& choice : machine.runner.explain(size, size))
        if (!choice.row.empty() && !known.contains(choice.row)) found[choice.op].insert(choice.row);
    OrderedJson out = OrderedJson::object();
    for (const auto& [op, rows] : found) out[op] = rows;
    return out;
  }

  double call_ns() const {
    return hub_kernels::call_nanoseconds(*hub_kernels::Runtime::open(), llm_.context->device(),
                                         llm_.context->native_stream());
  }
  std::string device() const { return llm_.context->info().name; }

 private:
  BatchOptions batch(int64_t size) const {
    BatchOptions b = options_.batch;
    b.max_requests_per_batch = size;
    b.max_queue_size = std::max<int64_t>(b.max_queue_size, 2 * size);
    if (b.max_context == 0) b.max_context = options_.prompt_tokens + options_.output_tokens + 1;
    return b;
  }

  double speed(int64_t size, const Kernels& kernels) {
    const TrafficOptions traffic{.requests = 2 * size,
                                 .prompt_low = options_.prompt_tokens,
                                 .prompt_high = options_.prompt_tokens,
                                 .output_low = options_.output_tokens,
                                 .output_high = options_.output_tokens};
    llm_.kernels = kernels;
    const std::vector<TrafficResult> results =
        run_traffic(llm_, {batch(size)}, synthetic_traffic(traffic, vocab_, llm_.eos_ids), size);
    llm_.kernels = builtin_;
    if (llm_.cancelled.load()) fail(ErrorCode::kCancelled, "stopped");
    if (results[0].failed > 0) fail(ErrorCode::kIo, "{} of {} requests failed", results[0].failed, 2 * size);
    return static_cast<double>(results[0].output_tokens) / results[0].seconds;
  }

  Llm::Impl& llm_;
  const KernelBenchOptions& options_;
  int64_t vocab_;
  Kernels builtin_, hub_;
};

std::string csv_text(const std::vector<SizeSpeed>& speeds) {
  std::string text = "batch,built_in_tokens_per_s,hub_tokens_per_s\n";
  for (const SizeSpeed& s : speeds) text += fmt::format("{},{:.1f},{:.1f}\n", s.size, s.builtin, s.hub);
  return text;
}

std::string figure(const std::vector<SizeSpeed>& speeds, const std::string& device, bool with_hub) {
  LineChart chart{.title = "Tokens a second over batch sizes, " + device,
                  .x_label = "requests at once",
                  .y_label = "output tokens a second",
                  .x = {},
                  .lines = {{"built-in kernels", {}}}};
  if (with_hub) chart.lines.push_back({"with kernels from the hub", {}});
  for (const SizeSpeed& s : speeds) {
    chart.x.push_back(static_cast<double>(s.size));
    chart.lines[0].values.push_back(s.builtin);
    if (with_hub) chart.lines[1].values.push_back(s.hub);
  }
  return svg_text(chart);
}

}  // namespace

void add_options(CLI::App& app, KernelBenchOptions& o) {
  add_model_options(app, o.model);
  add_batch_options(app, o.batch);
  auto positive = CLI::Range(int64_t{1}, int64_t{1} << 20);
  app.add_option("--with-hub", o.with_hub,
                 "also with these kernels, as --use-kernels names them; alone: this program's own, called as kernels "
                 "from the hub are")
      ->expected(0, 1)
      ->default_str(kOwn);  // what CLI11 gives a bare flag
  app.add_option("--batch-sizes", o.sizes, "requests at once, growing, separated by commas")
      ->delimiter(',')
      ->check(positive)
      ->capture_default_str();
  app.add_option("--prompt-tokens", o.prompt_tokens, "of each request")->check(positive)->capture_default_str();
  app.add_option("--output-tokens", o.output_tokens, "of each request")->check(positive)->capture_default_str();
  app.add_option("--rounds", o.rounds, "runs of each kind and size; the better counts")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--csv", o.csv, "write the figures to this file");
  app.add_option("--svg", o.svg, "draw them into this file");
}

int bench_kernels(Invocation& call, KernelBenchOptions& o) {
  if (!std::ranges::is_sorted(o.sizes, std::less_equal<>()))
    fail(ErrorCode::kInvalidArgument, "--batch-sizes: expected growing numbers, each once");
  if (!o.model.load.use_kernels.empty())
    fail(ErrorCode::kInvalidArgument, "--use-kernels: here --with-hub names the kernels to compare with");
  o.model.load.own_cache = false;
  Llm llm = load_llm(o.model);
  if (o.prompt_tokens + o.output_tokens > llm.max_context())
    fail(ErrorCode::kInvalidArgument, "prompts and answers of {} tokens do not fit the context of {}",
         o.prompt_tokens + o.output_tokens, llm.max_context());
  InterruptScope interrupt(&llm, SecondInterrupt::kEndsProgram);
  KernelBench bench(llm, o);
  const bool with_hub = !o.with_hub.empty();
  const double call_ns = with_hub ? bench.call_ns() : 0;
  const OrderedJson computed = with_hub ? bench.computed_by_hub(o.sizes) : OrderedJson::object();
  if (!call.json && with_hub) {
    call.out.text(fmt::format("a call through the ABI: {:.0f} ns\nby kernels from the hub: {}\n", call_ns,
                              computed.empty() ? "nothing" : computed.dump()));
  }
  if (!call.json) call.out.text(fmt::format("{:>6} {:>14} {:>14}\n", "batch", "built in", with_hub ? "hub" : ""));
  std::vector<SizeSpeed> speeds;
  OrderedJson rows = OrderedJson::array();
  for (const int64_t size : o.sizes) {
    const SizeSpeed& s = speeds.emplace_back(bench.at(size));
    OrderedJson row{{"batch", s.size}, {"builtin_tokens_per_second", s.builtin}};
    if (with_hub) row["hub_tokens_per_second"] = s.hub;
    rows.push_back(std::move(row));
    if (call.json) continue;
    const std::string other = with_hub ? fmt::format("{:>14.1f} {:>7.3f}x", s.hub, s.hub / s.builtin) : "";
    call.out.text(fmt::format("{:>6} {:>14.1f} {}\n", s.size, s.builtin, other));
  }
  if (!o.csv.empty()) write_text_file(o.csv, csv_text(speeds));
  if (!o.svg.empty()) write_text_file(o.svg, figure(speeds, bench.device(), with_hub));
  if (call.json) {
    OrderedJson object{{"device", bench.device()}, {"sizes", std::move(rows)}};
    if (with_hub) object["call_nanoseconds"] = call_ns, object["computed_by_hub"] = computed;
    call.out.json(object);
  }
  return 0;
}

}  // namespace tessera::cli

#include "cli/bench_load.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <vector>

#include "api/load_speed.h"
#include "core/error.h"

namespace tessera::cli {

namespace {

double gb(int64_t bytes) {
  return static_cast<double>(bytes) * 1e-9;
}

// Of the memory that a model takes on a device, so much more may be taken while it loads.
constexpr double kMostAboveFinal = 0.02;
constexpr int64_t kSmallModel = int64_t{1} << 30;  // one lane's blocks are more than that share of a small one

double above_final(const LoadSpeed& s) {
  return s.device_bytes == 0 ? 0 : static_cast<double>(s.device_peak) / static_cast<double>(s.device_bytes) - 1;
}

OrderedJson to_json(const LoadSpeed& s) {
  return {{"bytes", s.bytes},
          {"bare_seconds", s.bare_seconds},
          {"disk_seconds", s.disk_seconds},
          {"load_seconds", s.load_seconds},
          {"touch_seconds", s.touch_seconds},
          {"device_bytes", s.device_bytes},
          {"device_peak_bytes", s.device_peak},
          {"device_above_final", above_final(s)},
          {"staging_bytes", s.staging_bytes},
          {"pinned_bytes", s.pinned_bytes},
          {"host_peak_bytes", s.host_peak},
          {"allocations", s.allocations}};
}

LoadSpeed fastest(const std::vector<LoadSpeed>& rounds) {
  LoadSpeed best = rounds[0];
  for (const LoadSpeed& r : rounds) {
    best.disk_seconds = std::min(best.disk_seconds, r.disk_seconds);
    best.bare_seconds = std::min(best.bare_seconds, r.bare_seconds);
    best.load_seconds = std::min(best.load_seconds, r.load_seconds);
    best.touch_seconds = std::min(best.touch_seconds, r.touch_seconds);
    best.device_peak = std::max(best.device_peak, r.device_peak);
    best.host_peak = std::max(best.host_peak, r.host_peak);
  }
  return best;
}

void print(Output& out, const char* how, const LoadSpeed& s) {
  const double ready = s.touch_seconds > 0 ? s.touch_seconds : s.load_seconds;
  if (s.disk_seconds > 0) {
    out.text(fmt::format("  {:<22} {:.3f} s   {:.1f} GB/s: a plain read past the page cache\n", "the disk",
                         s.disk_seconds, gb(s.bytes) / s.disk_seconds));
  }
  out.text(fmt::format("  {:<22} {:.3f} s   {:.1f} GB/s\n", "bare copy of the files", s.bare_seconds,
                       gb(s.bytes) / s.bare_seconds));
  out.text(fmt::format("  {:<22} {:.3f} s   {:.1f} GB/s   {:.2f} of the bare copy's time\n", how, ready,
                       gb(s.bytes) / ready, ready / s.bare_seconds));
  if (s.touch_seconds > 0) out.text(fmt::format("  {:<22} {:.3f} s\n", "  of it, until mapped", s.load_seconds));
  if (s.device_bytes > 0) {
    out.text(fmt::format(
        "  {:<22} {:.3f} GB in {} blocks, at most {:.3f} GB meanwhile: {:+.2f} % ({:.3f} GB of it staging)\n",
        "device memory", gb(s.device_bytes), s.allocations, gb(s.device_peak), above_final(s) * 100,
        gb(s.staging_bytes)));
  }
  out.text(fmt::format("  {:<22} {:.3f} GB at most beside the files' pages", "host memory", gb(s.host_peak)));
  if (s.pinned_bytes > 0)
    out.text(fmt::format(": {:.3f} GB above {:.3f} GB of pinned blocks", gb(s.host_peak - s.pinned_bytes),
                         gb(s.pinned_bytes)));
  out.text("\n");
}

}  // namespace

void add_options(CLI::App& app, LoadBenchOptions& o) {
  add_model_options(app, o.model);
  app.add_option("--rounds", o.rounds, "loads, each after a bare copy; the fastest is shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_flag("--cold", o.cold, "also with files that are not in memory, beside the disk's rate");
  app.add_flag("--no-prealloc", o.scattered, "also load with device memory taken tensor by tensor, and compare");
}

int bench_load(Invocation& call, const LoadBenchOptions& o) {
  const std::string folder = find_model(o.model.model);
  OrderedJson object;
  struct Way {
    const char* key;
    const char* name;
    LoadBench bench;
  };
  std::vector<Way> ways = {{"preallocated", "preallocated", {}}};
  if (o.scattered) ways.push_back({"scattered", "tensor by tensor", {.preallocate = false}});
  if (o.cold) ways.push_back({"cold", "from the disk", {.cold = true}});
  std::vector<LoadSpeed> speeds;
  for (const Way& way : ways) {
    std::vector<LoadSpeed> rounds;
    for (int i = 0; i < o.rounds; ++i) rounds.push_back(measure_load(folder, o.model.load, way.bench));
    speeds.push_back(fastest(rounds));
    object[way.key] = to_json(speeds.back());
    if (call.json) continue;
    if (speeds.size() == 1)
      call.out.text(fmt::format("{:.3f} GB of tensors, the fastest of {}\n", gb(speeds[0].bytes), o.rounds));
    print(call.out, way.name, speeds.back());
  }
  const LoadSpeed& first = speeds[0];
  int status = 0;
  if (double above = above_final(first); first.device_bytes > kSmallModel && above > kMostAboveFinal) {
    if (!call.json) {
      call.out.text(fmt::format("device memory rose {:.2f} % above the model's own, more than the {:.0f} % allowed\n",
                                above * 100, kMostAboveFinal * 100));
    }
    status = 1;
  }
  if (o.scattered) object["scattered_over_preallocated"] = speeds[1].load_seconds / first.load_seconds;
  if (call.json) call.out.json(object);
  return status;
}

}  // namespace tessera::cli

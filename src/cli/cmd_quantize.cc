// tessera quantize: a checkpoint's experts to MXFP4, or back to bf16, as a new folder.
#include <CLI/CLI.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "loading/convert.h"
#include "models/registry.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera quantize MODEL MODEL-mxfp4
  tessera quantize MODEL-mxfp4 MODEL-bf16 --to bf16

Experts are converted, by transformers' rule; everything else is copied: attention, embeddings, tokenizer, template,
licence. OUT must not exist or be empty; after an error nothing is left there.)";

struct Options {
  std::string model, out;
  std::string to = "mxfp4";
  int threads = 0;
  int64_t shard_bytes = ConvertSettings{}.max_shard_bytes;
};

ConvertResult convert(const Options& options) {
  const Checkpoint checkpoint = Checkpoint::open(find_model(options.model));
  std::unique_ptr<Model> model = make_model(checkpoint.config());
  WeightPlan plan;
  model->declare(plan);
  ThreadPool pool(options.threads);
  ConvertSettings settings{.max_shard_bytes = options.shard_bytes};
  std::optional<Progress> progress;
  settings.progress = [&](int64_t done, int64_t total) {
    if (!progress) progress.emplace("bytes", total);
    progress->update(done);
  };
  auto run = options.to == "mxfp4" ? quantize_checkpoint : dequantize_checkpoint;
  return run(checkpoint, plan, options.out, settings, pool);
}

}  // namespace

int cmd_quantize(Invocation& call) {
  CLI::App app{"Writes a checkpoint anew with its experts in MXFP4, or in bf16.", "tessera quantize"};
  Options options;
  app.add_option("MODEL", options.model, "the checkpoint: a Hugging Face folder")->required();
  app.add_option("OUT", options.out, "the folder to write")->required();
  app.add_option("--to", options.to, "what the experts become")
      ->check(CLI::IsMember({"mxfp4", "bf16"}))
      ->capture_default_str();
  app.add_option("--max-shard-bytes", options.shard_bytes, "start a new file before one grows past this")
      ->check(CLI::Range(int64_t{1} << 20, int64_t{1} << 46))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "CPU threads; 0: every core this process may use")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.footer(kExamples);
  if (!parse(app, call)) return 0;
  const ConvertResult result = convert(options);
  if (call.json) {
    call.out.json({{"out", options.out},
                   {"converted", result.converted},
                   {"bytes_in", result.bytes_in},
                   {"bytes_out", result.bytes_out}});
  } else {
    call.out.text(fmt::format("{}: {} expert weights in {}, {:.1f} MB from {:.1f} MB\n", options.out, result.converted,
                              options.to, static_cast<double>(result.bytes_out) / 1e6,
                              static_cast<double>(result.bytes_in) / 1e6));
  }
  return 0;
}

}  // namespace tessera::cli

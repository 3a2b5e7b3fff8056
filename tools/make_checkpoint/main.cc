// make_checkpoint: writes a random Hugging Face checkpoint for a config.json.
#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>

#include "core/error.h"
#include "random_checkpoint.h"

namespace {

using namespace tessera;

int run(const RandomCheckpointOptions& options, int threads) {
  auto start = std::chrono::steady_clock::now();
  RandomCheckpointPlan plan = plan_random_checkpoint(options);
  ThreadPool pool(threads);
  write_random_checkpoint(plan, options, pool);
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  auto bytes = static_cast<double>(plan.total_bytes());
  fmt::print("{}: {} tensors, {} bytes in {:.1f} s ({:.2f} GB/s), {} threads\n", options.out, plan.tensors.size(),
             plan.total_bytes(), seconds, bytes / 1e9 / seconds, pool.size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is then an error with a message
  RandomCheckpointOptions options;
  int threads = 0;
  std::string dtype;
  CLI::App app{
      "Writes a random checkpoint with the exact names, shapes, types and sizes of a published one.\n"
      "Example: make_checkpoint --config gpt-oss-20b/config.json --out /tmp/random-20b --seed 1"};
  app.add_option("--config", options.config,
                 "config.json of the model; a model.safetensors.index.json beside it decides the shards")
      ->required();
  app.add_option("--out", options.out, "Folder to write; absent or empty")->required();
  app.add_option("--seed", options.seed, "Same seed, same bytes, whatever the number of threads")
      ->capture_default_str();
  app.add_option("--layers", options.layers, "Layers instead of the config's num_hidden_layers");
  app.add_option("--dtype", dtype, "Type of plain weights instead of the config's")
      ->check(CLI::IsMember({"bfloat16", "float16", "float32"}));
  app.add_option("--experts", options.experts, "config: as its quantization_config says; mxfp4; plain")
      ->transform(CLI::CheckedTransformer(std::map<std::string, ExpertStorage>{
          {"config", ExpertStorage::kAsConfig}, {"mxfp4", ExpertStorage::kMxfp4}, {"plain", ExpertStorage::kPlain}}));
  app.add_option("--shard-size", options.max_shard_bytes, "Most bytes of tensors a file (5GB, 500MB, ..)")
      ->transform(CLI::AsSizeValue(true));
  app.add_option("--copy-tokenizer", options.tokenizer_folders,
                 "Folder with tokenizer and chat template files to copy; may be given again for files the first lacks");
  app.add_option("--threads", threads, "0: all cores")->check(CLI::Range(0, 1024));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (!dtype.empty()) options.dtype = dtype_from_config(dtype);
  try {
    return run(options, threads);
  } catch (const Error& e) {
    std::fprintf(stderr, "make_checkpoint: %s\n", e.what());
    return e.code() == ErrorCode::kInvalidArgument ? 2 : 1;
  }
}

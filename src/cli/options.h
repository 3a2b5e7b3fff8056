// Flags that several commands share, declared once: the model and how it is loaded, and how it samples.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "tessera/llm.h"

namespace CLI {
class App;
}

namespace tessera::cli {

struct ModelOptions {
  std::string model;
  LoadOptions load;
};

// MODEL, --device, --dtype, --dequantize, --threads, --max-context, --ignore-window.
void add_model_options(CLI::App& app, ModelOptions& options);
// --device-map, --cpu-moe, --device-memory; the first has them too.
void add_placement_options(CLI::App& app, ModelOptions& options);
// Whether one of them was given.
bool wants_placement(const LoadOptions& load);
// --tp, --ep, --attention, --experts, of commands that run a model.
void add_rank_options(CLI::App& app, ModelOptions& options);
// --cache-memory, of commands that run one request at a time.
void add_cache_option(CLI::App& app, ModelOptions& options);

// The folder of MODEL: itself, or, of a hub id, its snapshot in the hub's cache, downloaded when it is not there. Says,
// before anything is read, why it cannot be a checkpoint folder: kNotFound or kUnsupported with what to do.
std::string find_model(const std::string& model);
// Where this process is a rank other than 0 of a launcher, it serves rank 0 to the end and throws EndOfRank.
void serve_other_rank(const ModelOptions& options);
struct EndOfRank {};
// Does that first.
Llm load_llm(const ModelOptions& options);

// What was given on the command line; the rest comes from the model's generation_config.json.
struct SamplingOptions {
  std::optional<double> temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty;
  std::optional<int> top_k;
  std::optional<uint64_t> seed;
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  std::vector<std::string> logit_bias;  // ID=VALUE
  bool ignore_eos = false;
  bool greedy = false;

  // `base` with the given flags over it.
  SamplingParams over(SamplingParams base) const;
  // Throws kInvalidArgument before a model is loaded, for what no model could accept.
  void validate() const;
};

void add_sampling_options(CLI::App& app, SamplingOptions& options);

// The whole of `path`, or of standard input for "-".
std::string read_input(const std::string& path);
// The JSON in it. Throws kInvalidArgument where it is none, or nested deeper than 256.
OrderedJson read_json_input(const std::string& path);
// Throws kInvalidArgument with the offset of the first byte of `text` that is not UTF-8.
void check_utf8(std::string_view text, std::string_view what);

}  // namespace tessera::cli

#include "cli/options.h"

#include <unistd.h>
#include <utf8proc.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <limits>

#include "api/rank_team.h"
#include "cli/byte_progress.h"
#include "cli/hub_model.h"
#include "core/env.h"
#include "core/error.h"

namespace tessera::cli {

namespace {

constexpr const char* kLoadGroup = "Loading";
constexpr const char* kSamplingGroup = "Sampling (default: the model's generation_config.json)";

std::string arranged_folder() {
  std::string cache = env_string(Env::kCacheHome);
  if (cache.empty()) cache = env_string(Env::kHome) + "/.cache";
  return cache + "/tessera/arranged";
}

// "17=-2.5" as {17, -2.5}.
std::pair<int32_t, float> parse_logit_bias(const std::string& text) {
  int32_t id = 0;
  float bias = 0;
  const char* end = text.data() + text.size();
  auto [after_id, id_error] = std::from_chars(text.data(), end, id);
  if (id_error == std::errc() && after_id != end && *after_id == '=') {
    auto [after_bias, bias_error] = std::from_chars(after_id + 1, end, bias);
    if (bias_error == std::errc() && after_bias == end) return {id, bias};
  }
  fail(ErrorCode::kInvalidArgument, "--logit-bias {}: expected TOKEN_ID=NUMBER, for example 1734=-5", text);
}

}  // namespace

void add_placement_options(CLI::App& app, ModelOptions& options) {
  app.add_option("--device-map", options.load.device_map,
                 "where layers' experts are kept: auto (the GPU until it is full, then main memory, then disk); "
                 "LAYERS=PLACE,... as 0-8=gpu,9-30=cpu,31-35=disk; or a device_map.json as of accelerate")
      ->group(kLoadGroup);
  app.add_option("--cpu-moe", options.load.cpu_moe,
                 "keep the experts of the first N layers in main memory, and compute them there")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->type_name("N")
      ->group(kLoadGroup);
  app.add_option("--device-memory", options.load.device_memory,
                 "use no more of the GPU's memory, such as 24GiB, the driver's share included; 0: all of it")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::NonNegativeNumber)
      ->group(kLoadGroup);
}

bool wants_placement(const LoadOptions& load) {
  return !load.device_map.empty() || load.cpu_moe > 0 || load.device_memory > 0;
}

void add_model_options(CLI::App& app, ModelOptions& options) {
  app.add_option("MODEL", options.model, "a Hugging Face folder, or a hub id: ORG/NAME or ORG/NAME@REVISION")
      ->required();
  app.add_option("--device", options.load.device, "where to run: cpu, cuda, cuda:N, or auto: a GPU when there is one")
      ->capture_default_str()
      ->group(kLoadGroup);
  app.add_option("--dtype", options.load.dtype, "type of activations, cache and plain weights; auto: the checkpoint's")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16", "float16"}))
      ->capture_default_str()
      ->group(kLoadGroup);
  app.add_flag("--dequantize", options.load.dequantize, "expand MXFP4 experts to bf16 (4 times their memory)")
      ->group(kLoadGroup);
  app.add_flag("!--no-fallback", options.load.fallback,
               "refuse a GPU without kernels for MXFP4, rather than expand the experts to bf16 there")
      ->group(kLoadGroup);
  app.add_option("--dense", options.load.dense,
                 "auto: attention and unembedding as stored; fp8: in 8 bits, quantised while loading (a GPU, bfloat16)")
      ->check(CLI::IsMember({"auto", "fp8"}))
      ->capture_default_str()
      ->group(kLoadGroup);
  app.add_option("--cache-dtype", options.load.cache_dtype,
                 "type of keys and values; auto: that of the activations; fp8: E4M3, half the memory of bfloat16")
      ->check(CLI::IsMember({"auto", "fp8"}))
      ->capture_default_str()
      ->group(kLoadGroup);
  app.add_option("--use-kernels", options.load.use_kernels,
                 "kernels from the hub: alone, the usual mapping; a mapping.json; or LAYER=ORG/NAME or LAYER=FOLDER, "
                 "separated by commas")
      ->expected(0, 1)
      ->default_str("default")  // what CLI11 gives a bare flag
      ->group(kLoadGroup);
  app.add_option("--trust-remote-code", options.load.trusted_kernels,
                 "ORG/NAME of the hub whose kernels are run though its publisher is not on the list; may be repeated")
      ->allow_extra_args(false)
      ->group(kLoadGroup);
  add_placement_options(app, options);
  app.add_option(
         "--arranged-cache", options.load.arranged_cache,
         "keep weights that a CPU's loading has to make (bf16 experts, --dequantize) in files, for the next time; "
         "alone: in ~/.cache/tessera/arranged")
      ->type_name("[DIR]")
      ->expected(0, 1)
      ->transform([](const std::string& text) { return text == "true" ? arranged_folder() : text; })  // of a bare flag
      ->group(kLoadGroup);
  app.add_option("--threads", options.load.threads, "CPU threads; 0: every core this process may use")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str()
      ->group(kLoadGroup);
  app.add_option("--max-context", options.load.max_context, "tokens a sequence may have; 0: the model's limit")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31))
      ->capture_default_str()
      ->group(kLoadGroup);
  app.add_flag("--ignore-window", options.load.ignore_window,
               "keep the whole past of sliding-window layers in the cache (same answers, more memory)")
      ->group(kLoadGroup);
}

void add_rank_options(CLI::App& app, ModelOptions& options) {
  constexpr const char* kGroup = "Many ranks (GPUs, or threads that share a CPU)";
  auto read_tp = [&options](const std::string& text) {
    int ranks = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ranks);
    const bool number = error == std::errc() && end == text.data() + text.size() && ranks >= 1;
    if (!number && text != "auto") throw CLI::ValidationError("--tp", "expected a number of ranks, or auto");
    options.load.tp = number ? ranks : -1;
  };
  app.add_option_function<std::string>("--tp", read_tp,
                                       "split every layer over N ranks; auto: all GPUs, or all ranks of the launcher")
      ->type_name("N|auto")
      ->group(kGroup);
  app.add_option("--ep", options.load.ep,
                 "give each of N ranks (or groups of ranks, with a larger --tp) its own experts")
      ->check(CLI::Range(1, 1024))
      ->group(kGroup);
  app.add_option("--attention", options.load.attention,
                 "with --ep: attention split over the ranks (tp), or sequences, with their cache, shared out (dp)")
      ->check(CLI::IsMember({"tp", "dp"}))
      ->capture_default_str()
      ->group(kGroup);
  app.add_option("--experts", options.load.experts,
                 "how tokens reach experts on other ranks: dispatch (sent there and back) or all-reduce")
      ->check(CLI::IsMember({"auto", "dispatch", "all-reduce"}))
      ->capture_default_str()
      ->group(kGroup);
}

void add_cache_option(CLI::App& app, ModelOptions& options) {
  app.add_option("--cache-memory", options.load.cache_memory,
                 "bytes for the cache, such as 2GiB; default: what the context needs, if so much is left")
      ->transform(CLI::AsSizeValue(false))
      ->group(kLoadGroup);
}

std::string find_model(const std::string& model) {
  namespace fs = std::filesystem;
  constexpr const char* kWanted =
      "give a Hugging Face folder (config.json, tokenizer.json, *.safetensors), or a hub id as openai/gpt-oss-20b";
  std::string folder = model_folder(model);
  std::error_code ignored;
  fs::file_status status = fs::status(folder, ignored);
  if (fs::is_directory(status)) return folder;
  if (fs::exists(status)) {
    bool gguf = fs::path(folder).extension() == ".gguf";
    fail(ErrorCode::kUnsupported, "{}: {}; {}", folder,
         gguf ? "GGUF files cannot be read by this version" : "is a file, not a model folder", kWanted);
  }
  fail(ErrorCode::kNotFound, "{}: no such folder; {}", folder, kWanted);
}

void serve_other_rank(const ModelOptions& options) {
  if (serve_as_rank(options.model, options.load)) throw EndOfRank{};
}

Llm load_llm(const ModelOptions& options) {
  serve_other_rank(options);
  const std::string folder = find_model(options.model);
  ByteProgress bar("loading", std::chrono::milliseconds(500));
  LoadOptions load = options.load;
  load.on_plan = [](const std::string& text) { fmt::print(stderr, "{}", text); };
  load.on_load = [&bar](int64_t done, int64_t total) { bar.update(done, total, done); };
  return Llm::load(folder, load);
}

SamplingParams SamplingOptions::over(SamplingParams base) const {
  auto set = [](auto& to, const auto& from) {
    if (from) to = *from;
  };
  set(base.temperature, temperature);
  if (greedy) base.temperature = 0;
  set(base.top_k, top_k);
  set(base.top_p, top_p);
  set(base.min_p, min_p);
  set(base.repetition_penalty, repetition_penalty);
  set(base.frequency_penalty, frequency_penalty);
  set(base.presence_penalty, presence_penalty);
  set(base.max_tokens, max_tokens);
  if (seed) base.seed = seed;
  if (ignore_eos) base.ignore_eos = true;
  base.stop.insert(base.stop.end(), stop.begin(), stop.end());
  base.stop_token_ids.insert(base.stop_token_ids.end(), stop_token_ids.begin(), stop_token_ids.end());
  for (const std::string& text : logit_bias) {
    auto [id, bias] = parse_logit_bias(text);
    base.logit_bias[id] = bias;
  }
  return base;
}

void SamplingOptions::validate() const {
  over({}).validate(std::numeric_limits<int32_t>::max());
}

void add_sampling_options(CLI::App& app, SamplingOptions& options) {
  auto add = [&](const char* name, auto& target, const char* help) {
    return app.add_option(name, target, help)->group(kSamplingGroup);
  };
  CLI::Option* temperature = add("--temperature", options.temperature, "0: always the likeliest token; 1: as trained");
  app.add_flag("--greedy", options.greedy, "the same as --temperature 0")->group(kSamplingGroup)->excludes(temperature);
  add("--top-k", options.top_k, "keep the k likeliest tokens; 0: off");
  add("--top-p", options.top_p, "keep the likeliest tokens that hold this share of the probability, in (0, 1]");
  add("--min-p", options.min_p, "drop tokens under this share of the likeliest one's probability, in [0, 1]");
  add("--repetition-penalty", options.repetition_penalty, "over 1: make tokens of prompt and answer less likely");
  add("--frequency-penalty", options.frequency_penalty, "subtracted for each time a token was generated");
  add("--presence-penalty", options.presence_penalty, "subtracted once a token was generated");
  add("--seed", options.seed, "the same seed gives the same text")->check([](const std::string& text) {
    return text.starts_with('-') ? "expected a whole number from 0 on" : "";  // CLI11 would wrap it around
  });
  add("--max-tokens", options.max_tokens, "tokens to generate at most; 0: until the context is full");
  add("--stop", options.stop, "text that ends the answer and is not part of it; may be repeated")
      ->allow_extra_args(false);
  add("--stop-id", options.stop_token_ids, "token id that ends the answer; may be repeated")->allow_extra_args(false);
  add("--logit-bias", options.logit_bias, "ID=NUMBER added to a token's logit; may be repeated")
      ->allow_extra_args(false);
  app.add_flag("--ignore-eos", options.ignore_eos, "go on after the model's end tokens")->group(kSamplingGroup);
}

std::string read_input(const std::string& path) {
  if (path != "-") return read_text_file(path);
  constexpr size_t kMaxBytes = size_t{256} << 20;  // as read_text_file
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    ssize_t n = read(STDIN_FILENO, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorCode::kIo, "standard input: {}", std::strerror(errno));
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMaxBytes) fail(ErrorCode::kInvalidArgument, "standard input: more than {} bytes", kMaxBytes);
  }
}

OrderedJson read_json_input(const std::string& path) {
  constexpr int kMaxDepth = 256;
  try {
    return OrderedJson::parse(read_input(path), [&](int depth, OrderedJson::parse_event_t, OrderedJson&) {
      if (depth > kMaxDepth) fail(ErrorCode::kInvalidArgument, "{}: nested deeper than {} levels", path, kMaxDepth);
      return true;
    });
  } catch (const OrderedJson::exception& e) {
    fail(ErrorCode::kInvalidArgument, "{}: not valid JSON ({})", path, e.what());
  }
}

void check_utf8(std::string_view text, std::string_view what) {
  auto* data = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto size = static_cast<utf8proc_ssize_t>(text.size());
  for (utf8proc_ssize_t at = 0; at < size;) {
    utf8proc_int32_t code = 0;
    utf8proc_ssize_t n = utf8proc_iterate(data + at, size - at, &code);
    if (n <= 0) {
      fail(ErrorCode::kInvalidArgument, "{}: byte {} (0x{:02x}) is not UTF-8; convert it first, for example with iconv",
           what, at, data[at]);
    }
    at += n;
  }
}

}  // namespace tessera::cli

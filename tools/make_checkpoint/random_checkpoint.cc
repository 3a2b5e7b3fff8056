#include "random_checkpoint.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>

#include "loading/checkpoint_tensors.h"
#include "loading/output_folder.h"
#include "loading/parallel_tasks.h"
#include "loading/strict_json.h"
#include "models/registry.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kPiece = int64_t{2} << 20;  // bytes a task makes; a multiple of every element and word size
constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr const char* kTokenizerFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json",
    "merges.txt",     "added_tokens.json"};
// Distributions. Weights and biases are N(0, 0.02), as transformers initialises; so are attention sinks.
enum Fill : int { kNormal, kNorm, kCodes, kScales };

constexpr float kDeviation = 0.02f;
constexpr int kLowScale = 118;  // with uniform codes (root mean square 2.9), scales 2^-9 .. 2^-6 give 0.026
constexpr int kScaleChoices = 4;

// SplitMix64 (Steele, Lea, Flood 2014) as a counter-based generator: word i of the stream `key`.
uint64_t random_word(uint64_t key, uint64_t i) {
  uint64_t z = key + (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t stream_key(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return random_word(hash, seed);
}

// The normal distribution's values at 65,536 equally likely places, so that 16 random bits make one value.
std::vector<float> normal_quantiles() {
  constexpr int kHalf = 32768;
  std::vector<float> table(2 * kHalf);
  double x = 0;
  for (int i = 0; i < kHalf; ++i) {
    double p = 0.5 + (i + 0.5) / (2 * kHalf);
    for (int step = 0; step < 6; ++step) {  // Newton from the neighbour's value
      double cdf = 0.5 * std::erfc(-x / std::sqrt(2.0)), density = std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
      x += (p - cdf) / density;
    }
    table[static_cast<size_t>(kHalf + i)] = static_cast<float>(x);
    table[static_cast<size_t>(kHalf - 1 - i)] = static_cast<float>(-x);
  }
  return table;
}

// Element bits of mean + deviation * quantile, in each type.
struct ValueTable {
  std::vector<uint32_t> f32;
  std::vector<uint16_t> bf16, f16;

  ValueTable(const std::vector<float>& quantiles, float mean, float deviation) {
    for (float q : quantiles) {
      float value = mean + deviation * q;
      f32.push_back(std::bit_cast<uint32_t>(value));
      bf16.push_back(float_to_bf16(value));
      f16.push_back(float_to_f16(value));
    }
  }
};

// Elements [first, first + count) of the stream; first is a multiple of 4.
template <class T>
void fill_values(const std::vector<T>& table, uint64_t key, int64_t first, int64_t count, char* out) {
  for (int64_t i = 0; i < count; i += 4) {
    uint64_t word = random_word(key, static_cast<uint64_t>((first + i) / 4));
    T values[4];
    for (int j = 0; j < 4; ++j) values[j] = table[(word >> (16 * j)) & 0xffff];
    std::memcpy(out + i * static_cast<int64_t>(sizeof(T)), values,
                sizeof(T) * static_cast<size_t>(std::min<int64_t>(4, count - i)));
  }
}

void fill_bytes(uint64_t key, int64_t first, int64_t count, bool scales, char* out) {
  for (int64_t i = 0; i < count; i += 8) {
    uint64_t word = random_word(key, static_cast<uint64_t>((first + i) / 8));
    if (scales) {
      static_assert(kScaleChoices == 4 && kLowScale % 2 == 0);
      word = (word & 0x0303030303030303u) + 0x0101010101010101u * kLowScale;
    }
    std::memcpy(out + i, &word, static_cast<size_t>(std::min<int64_t>(8, count - i)));
  }
}

struct Tables {
  std::vector<float> quantiles = normal_quantiles();
  ValueTable normal{quantiles, 0.0f, kDeviation};
  ValueTable norm{quantiles, 1.0f, kDeviation};
};

// Bytes [begin, begin + bytes) of the tensor.
void fill_piece(const Tables& tables, const TensorSpec& spec, int fill, uint64_t key, int64_t begin, int64_t bytes,
                char* out) {
  if (fill == kCodes || fill == kScales) return fill_bytes(key, begin, bytes, fill == kScales, out);
  const ValueTable& table = fill == kNorm ? tables.norm : tables.normal;
  int64_t size = dtype_size(spec.dtype), first = begin / size, count = bytes / size;
  if (spec.dtype == DType::kF32) return fill_values(table.f32, key, first, count, out);
  fill_values(spec.dtype == DType::kBF16 ? table.bf16 : table.f16, key, first, count, out);
}

std::optional<DType> config_dtype(const Json& config) {
  for (const char* key : {"dtype", "torch_dtype"})
    if (config.contains(key) && config[key].is_string()) return dtype_from_config(config[key].get<std::string>());
  return std::nullopt;
}

void set_layers(Json& config, int64_t layers) {
  if (layers < 1) fail(ErrorCode::kInvalidArgument, "--layers {}: expected 1 or more", layers);
  config["num_hidden_layers"] = layers;
  auto types = config.find("layer_types");
  if (types == config.end() || !types->is_array() || types->empty()) return;
  Json repeated = Json::array();
  for (size_t i = 0; i < static_cast<size_t>(layers); ++i) repeated.push_back((*types)[i % types->size()]);
  *types = std::move(repeated);
}

void apply(const RandomCheckpointOptions& options, Json& config) {
  if (!config.is_object()) fail(ErrorCode::kCorrupt, "{}: expected a JSON object", options.config);
  if (options.layers != 0) set_layers(config, options.layers);
  if (options.dtype) {
    const char* name = *options.dtype == DType::kF32   ? "float32"
                       : *options.dtype == DType::kF16 ? "float16"
                                                       : "bfloat16";
    config[config.contains("dtype") ? "dtype" : "torch_dtype"] = name;
  }
  if (options.experts == ExpertStorage::kPlain) config.erase("quantization_config");
  if (options.experts == ExpertStorage::kMxfp4) config["quantization_config"] = to_json(mxfp4_quantization());
}

// The published index beside the config decides, where it lists exactly these tensors.
void take_published_shards(RandomCheckpointPlan& plan, const std::string& config_path) {
  fs::path path = fs::path(config_path).parent_path() / kIndexName;
  std::error_code error;
  if (!fs::exists(path, error)) return;
  SafetensorsIndex index = parse_safetensors_index(read_text_file(path.string()), path.string());
  bool same = index.weight_map.size() == plan.tensors.size();
  for (const TensorSpec& t : plan.tensors) same = same && index.weight_map.contains(t.name);
  if (same) plan.settings.shard_of = std::move(index.weight_map);
}

void copy_side_files(const RandomCheckpointOptions& options, OutputFolder& out) {
  std::error_code error;
  fs::path generation = fs::path(options.config).parent_path() / "generation_config.json";
  if (fs::exists(generation, error)) out.copy(generation);
  for (const char* file : kTokenizerFiles) {
    for (const std::string& folder : options.tokenizer_folders) {
      if (!fs::exists(fs::path(folder) / file, error)) continue;
      out.copy(fs::path(folder) / file);
      break;
    }
  }
}

}  // namespace

int64_t RandomCheckpointPlan::total_bytes() const {
  int64_t bytes = 0;
  for (const TensorSpec& t : tensors) bytes += t.bytes();
  return bytes;
}

RandomCheckpointPlan plan_random_checkpoint(const RandomCheckpointOptions& options) {
  RandomCheckpointPlan out;
  out.config = read_strict_json_file(options.config, kMaxConfigBytes);
  apply(options, out.config);
  DType dtype = config_dtype(out.config).value_or(DType::kBF16);
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16)
    fail(ErrorCode::kUnsupported, "{}: dtype {} is no type of weights", options.config, dtype_name(dtype));

  std::unique_ptr<Model> model = make_model(out.config);
  WeightPlan plan;
  model->declare(plan);
  for (CheckpointTensor& t : checkpoint_tensors(plan, parse_quantization_config(out.config, options.config))) {
    bool norm = plan.rows()[t.row].kind == RowKind::kVector && t.name.ends_with("norm.weight");
    int plain = norm ? kNorm : kNormal;
    out.fills.push_back(t.role == TensorRole::kBlocks ? kCodes : t.role == TensorRole::kScales ? kScales : plain);
    out.tensors.push_back({std::move(t.name), t.role == TensorRole::kPlain ? dtype : DType::kU8, t.shape});
  }
  out.settings.durable = false;  // it can be made again
  if (options.max_shard_bytes > 0) {
    out.settings.max_shard_bytes = options.max_shard_bytes;
  } else {
    take_published_shards(out, options.config);
  }
  return out;
}

void write_random_checkpoint(const RandomCheckpointPlan& plan, const RandomCheckpointOptions& options,
                             ThreadPool& pool) {
  OutputFolder folder(options.out);
  CheckpointWriter writer(options.out, plan.tensors, plan.settings);
  const Tables tables;
  struct Piece {
    size_t tensor;
    int64_t begin;
  };
  std::vector<Piece> pieces;
  std::vector<uint64_t> keys;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    keys.push_back(stream_key(options.seed, plan.tensors[i].name));
    for (int64_t begin = 0; begin < plan.tensors[i].bytes(); begin += kPiece) pieces.push_back({i, begin});
  }
  parallel_tasks(pool, static_cast<int64_t>(pieces.size()), [&](int64_t p) {
    auto [i, begin] = pieces[static_cast<size_t>(p)];
    int64_t bytes = std::min(kPiece, plan.tensors[i].bytes() - begin);
    auto buffer = std::make_unique_for_overwrite<char[]>(static_cast<size_t>(bytes));
    fill_piece(tables, plan.tensors[i], plan.fills[i], keys[i], begin, bytes, buffer.get());
    writer.write(i, begin, buffer.get(), bytes);
  });
  copy_side_files(options, folder);
  write_text_file((fs::path(options.out) / "config.json").string(), plan.config.dump(2) + "\n");
  writer.finish();
  folder.keep();
}

}  // namespace tessera

#include "loading/convert.h"

#include <filesystem>
#include <map>
#include <memory>

#include "loading/checkpoint_tensors.h"
#include "loading/output_folder.h"
#include "loading/safetensors_writer.h"
#include "loading/strict_json.h"
#include "quant/mxfp4.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

// Tokenizer, templates, generation_config.json, licence: every plain file but weights and config.json.
void copy_other_files(const std::string& in, OutputFolder& out) {
  for (const auto& entry : fs::directory_iterator(in)) {
    std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || name[0] == '.' || name == "config.json" || name == kIndexName ||
        name.ends_with(".safetensors"))
      continue;
    out.copy(entry.path());
  }
}

// One weight to convert: its tensors in the input and in the output.
struct Conversion {
  std::vector<Tensor> from;
  std::vector<size_t> to;  // indices of the writer's tensors
  std::string name;
};

class Converter {
 public:
  Converter(const Checkpoint& in, const WeightPlan& plan, bool quantize) : in_(in), quantize_(quantize) {
    const auto& was = in.quantization();
    if (quantize && was) fail(ErrorCode::kInvalidArgument, "{}: is MXFP4 already", in.folder());
    if (!quantize && !was)
      fail(ErrorCode::kInvalidArgument, "{}: is not quantised; there is nothing to expand", in.folder());
    std::vector<CheckpointTensor> expected = checkpoint_tensors(plan, was);
    check_tensors(plan, expected, in.tensors(), in.folder());
    plan_conversions(plan, expected,
                     checkpoint_tensors(plan, quantize ? std::optional(mxfp4_quantization()) : std::nullopt));
  }

  const std::vector<TensorSpec>& specs() const { return specs_; }

  ConvertResult run(const std::string& out, const ConvertSettings& settings, ThreadPool& pool) {
    OutputFolder folder(out);
    CheckpointWriter writer(out, specs_, {.max_shard_bytes = settings.max_shard_bytes});
    int64_t done = 0, total = in_.tensors().total_bytes();
    auto advance = [&](int64_t bytes) {
      done += bytes;
      if (settings.progress) settings.progress(done, total);
    };
    for (const auto& [index, tensor] : copies_) {
      write_tensor(writer, index, tensor, pool);
      advance(tensor.bytes());
    }
    for (const Conversion& c : conversions_) {
      convert(c, writer, pool);
      for (const Tensor& t : c.from) advance(t.bytes());
    }
    in_.tensors().check_unchanged();
    copy_other_files(in_.folder(), folder);
    write_text_file((fs::path(out) / "config.json").string(), config());
    writer.finish();
    folder.keep();
    return {static_cast<int64_t>(conversions_.size()), total, writer.total_bytes()};
  }

 private:
  // Output tensors in the order of the input's bytes, a converted one in the place of what it replaces.
  void plan_conversions(const WeightPlan& plan, const std::vector<CheckpointTensor>& before,
                        const std::vector<CheckpointTensor>& after) {
    std::map<size_t, std::vector<const CheckpointTensor*>> sources, results;  // by row
    for (const CheckpointTensor& t : before)
      if (plan.rows()[t.row].quantizable) sources[t.row].push_back(&t);
    for (const CheckpointTensor& t : after)
      if (plan.rows()[t.row].quantizable) results[t.row].push_back(&t);
    std::map<std::string_view, size_t> row_of;  // a source's last tensor stands for its row
    for (const auto& [row, tensors] : sources)
      if (tensors.size() != results[row].size())  // else the row keeps its form
        for (const CheckpointTensor* t : tensors) row_of[t->name] = row;
    for (const SafetensorsFile& file : in_.tensors().files()) {
      for (const TensorInfo& info : file.tensors()) {
        auto it = row_of.find(info.name);
        if (it == row_of.end()) {
          copies_.emplace_back(specs_.size(), file.view(info));
          specs_.push_back({info.name, info.dtype, info.shape});
        } else if (info.name == sources[it->second].back()->name) {
          add_conversion(plan.rows()[it->second].name, sources[it->second], results[it->second]);
        }
      }
    }
    if (conversions_.empty()) {
      fail(ErrorCode::kInvalidArgument, "{}: has no weights that can be {}", in_.folder(),
           quantize_ ? "stored as MXFP4" : "expanded");
    }
  }

  void add_conversion(const std::string& name, const std::vector<const CheckpointTensor*>& from,
                      const std::vector<const CheckpointTensor*>& to) {
    Conversion c{.name = name};
    for (const CheckpointTensor* t : from) c.from.push_back(*in_.tensors().find(t->name));
    for (const CheckpointTensor* t : to) {
      c.to.push_back(specs_.size());
      specs_.push_back({t->name, t->role == TensorRole::kPlain ? DType::kBF16 : DType::kU8, t->shape});
    }
    conversions_.push_back(std::move(c));
  }

  void convert(const Conversion& c, CheckpointWriter& writer, ThreadPool& pool) {
    std::vector<std::unique_ptr<char[]>> buffers;
    std::vector<Tensor> to;
    for (size_t index : c.to) {
      const TensorSpec& spec = specs_[index];
      buffers.push_back(std::make_unique_for_overwrite<char[]>(static_cast<size_t>(spec.bytes())));
      to.push_back({buffers.back().get(), spec.shape, spec.dtype});
    }
    if (quantize_) {
      if (!mxfp4_quantize_experts(c.from[0], to[0], to[1], pool))
        fail(ErrorCode::kInvalidArgument, "{}: {} has an infinite or NaN weight, which MXFP4 cannot hold", in_.folder(),
             c.name);
    } else {
      int64_t nan = mxfp4_find_nan_scale({c.from[1].as<uint8_t>(), static_cast<size_t>(c.from[1].numel())});
      if (nan >= 0)
        fail(ErrorCode::kCorrupt, "{}: scale {} of {} is 255, which is NaN; the file is damaged", in_.folder(), nan,
             c.name);
      mxfp4_dequantize_experts(c.from[0], c.from[1], to[0], pool);
    }
    for (size_t i = 0; i < to.size(); ++i) write_tensor(writer, c.to[i], to[i], pool);
  }

  std::string config() const {
    Json config = in_.config();
    config.erase("quantization_config");
    if (quantize_) config["quantization_config"] = to_json(mxfp4_quantization());
    return config.dump(2) + "\n";
  }

  const Checkpoint& in_;
  bool quantize_;
  std::vector<TensorSpec> specs_;                  // of the output
  std::vector<std::pair<size_t, Tensor>> copies_;  // index of specs_, input
  std::vector<Conversion> conversions_;
};

}  // namespace

ConvertResult quantize_checkpoint(const Checkpoint& in, const WeightPlan& plan, const std::string& out,
                                  const ConvertSettings& settings, ThreadPool& pool) {
  return Converter(in, plan, true).run(out, settings, pool);
}

ConvertResult dequantize_checkpoint(const Checkpoint& in, const WeightPlan& plan, const std::string& out,
                                    const ConvertSettings& settings, ThreadPool& pool) {
  return Converter(in, plan, false).run(out, settings, pool);
}

}  // namespace tessera

#include "loading/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "loading/safetensors_writer.h"
#include "loading/test_files.h"
#include "loading/test_plan.h"
#include "quant/mxfp4.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string shared(const std::string& name) {
  return TESSERA_SOURCE_DIR "/../shared/" + name;
}

// Every tensor of `expected` is in `found` with the same bytes, and no other.
void expect_same_tensors(const SafetensorsSet& found, const SafetensorsSet& expected) {
  size_t count = 0, found_count = 0;
  for (const SafetensorsFile& file : expected.files()) {
    for (const TensorInfo& info : file.tensors()) {
      std::optional<Tensor> t = found.find(info.name);
      ASSERT_TRUE(t) << info.name;
      ASSERT_EQ(t->shape, info.shape) << info.name;
      ASSERT_EQ(t->dtype, info.dtype) << info.name;
      ASSERT_EQ(std::memcmp(t->data, file.view(info).data, static_cast<size_t>(t->bytes())), 0) << info.name;
      ++count;
    }
  }
  for (const SafetensorsFile& file : found.files()) found_count += file.tensors().size();
  EXPECT_EQ(found_count, count);
}

class Convert : public testing::Test {
 protected:
  // A folder with one expert weight [1, 32, 1] next to another tensor.
  std::string write_small(const std::vector<uint16_t>& expert) {
    std::string in = folder_.file("in");
    std::vector<uint16_t> other = {1, 2};
    save_checkpoint(in,
                    {{"e", {const_cast<uint16_t*>(expert.data()), {1, 32, 1}, DType::kBF16}},
                     {"o", {other.data(), {2}, DType::kBF16}}},
                    {}, pool_);
    folder_.write("in/config.json", R"({"hidden_size": 32, "rms_norm_eps": 1e-05})");
    folder_.write("in/tokenizer.json", "tokens");
    folder_.write("in/.hidden", "x");
    return in;
  }
  std::string out() { return folder_.file("out"); }

  TempFolder folder_;
  ThreadPool pool_{2};
};

// The acceptance of the format: transformers' bytes, from every expert weight of a trained model.
TEST_F(Convert, QuantizesToTheBytesOfTransformers) {
  if (!fs::exists(shared("models"))) GTEST_SKIP() << shared("models") << " is absent";
  Checkpoint in = Checkpoint::open(shared("models/glossary-bf16"));
  GptOssPlan model(in.config());
  std::vector<int64_t> progress;
  ConvertSettings settings{.max_shard_bytes = 10'000'000,
                           .progress = [&](int64_t done, int64_t) { progress.push_back(done); }};
  ConvertResult result = quantize_checkpoint(in, model.plan, out(), settings, pool_);
  EXPECT_EQ(result.converted, 16);
  EXPECT_EQ(result.bytes_out, 17'910'656);
  EXPECT_TRUE(std::is_sorted(progress.begin(), progress.end()));
  EXPECT_EQ(progress.back(), result.bytes_in);

  Checkpoint made = Checkpoint::open(out()), wanted = Checkpoint::open(shared("models/glossary-mxfp4"));
  expect_same_tensors(made.tensors(), wanted.tensors());
  EXPECT_GT(made.tensors().files().size(), 1u);
  EXPECT_EQ(made.config(), wanted.config());
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"})
    EXPECT_EQ(file_bytes(out() + "/" + name), file_bytes(shared("models/glossary-bf16/") + name)) << name;
}

TEST_F(Convert, DequantizesExactlyAndBackToTheSameValues) {
  std::string source = TESSERA_SOURCE_DIR "/models/glossary";
  if (!fs::exists(source)) source = shared("models/glossary-mxfp4");
  if (!fs::exists(source)) GTEST_SKIP() << source << " is absent";
  Checkpoint in = Checkpoint::open(source);
  GptOssPlan model(in.config());
  ConvertResult result = dequantize_checkpoint(in, model.plan, out(), {}, pool_);
  EXPECT_EQ(result.converted, 16);
  Checkpoint plain = Checkpoint::open(out());
  EXPECT_FALSE(plain.quantization());
  EXPECT_FALSE(plain.config().contains("quantization_config"));

  Tensor blocks = *in.tensors().find("model.layers.3.mlp.experts.gate_up_proj_blocks");
  Tensor scales = *in.tensors().find("model.layers.3.mlp.experts.gate_up_proj_scales");
  Tensor values = *plain.tensors().find("model.layers.3.mlp.experts.gate_up_proj");
  int64_t experts = values.dim(0), k = values.dim(1), n = values.dim(2);
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t c = 0; c < n; ++c) {
      for (int64_t i = 0; i < k; ++i) {
        int64_t index = (e * n + c) * k + i;
        uint8_t byte = blocks.as<uint8_t>()[index / 2], code = index % 2 ? byte >> 4 : byte & 15;
        float wanted = std::ldexp(kMxfp4Values[code], scales.as<uint8_t>()[index / 32] - 127);
        ASSERT_EQ(bf16_to_float(values.as<uint16_t>()[(e * k + i) * n + c]), wanted) << e << " " << c << " " << i;
      }
    }
  }
  GptOssPlan again(plain.config());
  quantize_checkpoint(plain, again.plan, folder_.file("again"), {}, pool_);
  Checkpoint requantized = Checkpoint::open(folder_.file("again"));
  GptOssPlan third(requantized.config());
  dequantize_checkpoint(requantized, third.plan, folder_.file("third"), {}, pool_);
  expect_same_tensors(Checkpoint::open(folder_.file("third")).tensors(), plain.tensors());
}

TEST_F(Convert, SmallFolderAndItsFiles) {
  Weight w;
  Tensor o;
  WeightPlan plan;
  plan.experts(w, "e", 1, 1, 32);
  plan.vector(o, "o", 2);
  Checkpoint in = Checkpoint::open(write_small(std::vector<uint16_t>(32, 0x3f80)));
  quantize_checkpoint(in, plan, out(), {}, pool_);
  EXPECT_EQ(file_bytes(out() + "/tokenizer.json"), "tokens");
  EXPECT_FALSE(fs::exists(out() + "/.hidden"));
  Checkpoint made = Checkpoint::open(out());
  EXPECT_EQ(made.config()["quantization_config"]["quant_method"], "mxfp4");
  EXPECT_EQ(made.tensors().find("e_blocks")->as<uint8_t>()[0], 0x66);  // 1 = 4 * 2^-2
  EXPECT_EQ(made.tensors().find("e_scales")->as<uint8_t>()[0], 125);
  EXPECT_ERROR(quantize_checkpoint(made, plan, folder_.file("x"), {}, pool_), ErrorCode::kInvalidArgument,
               "is MXFP4 already");
  EXPECT_ERROR(dequantize_checkpoint(in, plan, folder_.file("x"), {}, pool_), ErrorCode::kInvalidArgument,
               "not quantised");
  EXPECT_ERROR(quantize_checkpoint(in, plan, out(), {}, pool_), ErrorCode::kInvalidArgument, "no empty folder");
  EXPECT_FALSE(fs::exists(folder_.file("x")));
}

TEST_F(Convert, NothingIsLeftAfterAnError) {
  Weight w;
  Tensor o;
  WeightPlan plan;
  plan.experts(w, "e", 1, 1, 32);
  plan.vector(o, "o", 2);
  std::vector<uint16_t> values(32, 0x3f80);
  values[31] = 0x7fc0;
  Checkpoint in = Checkpoint::open(write_small(values));
  EXPECT_ERROR(quantize_checkpoint(in, plan, out(), {}, pool_), ErrorCode::kInvalidArgument,
               "e has an infinite or NaN weight");
  EXPECT_FALSE(fs::exists(out()));
  WeightPlan other;
  other.vector(o, "o", 2);
  EXPECT_ERROR(quantize_checkpoint(in, other, out(), {}, pool_), ErrorCode::kCorrupt, "unexpected: e");
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(Convert, ModelsWithoutExpertsAreRefused) {
  Tensor o;
  Weight e;
  WeightPlan plan;
  plan.expert_list(e, "x", {"up"}, 1, 1, 1);
  std::vector<uint16_t> value = {1};
  save_checkpoint(folder_.file("in"), {{"x.0.up.weight", {value.data(), {1, 1}, DType::kBF16}}}, {}, pool_);
  folder_.write("in/config.json", "{}");
  EXPECT_ERROR(quantize_checkpoint(Checkpoint::open(folder_.file("in")), plan, out(), {}, pool_),
               ErrorCode::kInvalidArgument, "no weights that can be stored as MXFP4");
}

}  // namespace
}  // namespace tessera

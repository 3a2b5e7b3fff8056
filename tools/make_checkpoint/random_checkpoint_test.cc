#include "random_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "loading/checkpoint.h"
#include "loading/checkpoint_tensors.h"
#include "loading/test_files.h"
#include "models/registry.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string fixture(const std::string& name) {
  return TESSERA_SOURCE_DIR "/../shared/fixtures/" + name;
}

class RandomCheckpoint : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(fixture("gpt-oss-20b"))) GTEST_SKIP() << fixture("") << " is absent";
  }
  std::string make(RandomCheckpointOptions options, int threads = 2) {
    options.out = folder_.file("out" + std::to_string(++made_));
    ThreadPool pool(threads);
    write_random_checkpoint(plan_random_checkpoint(options), options, pool);
    return options.out;
  }

  TempFolder folder_;
  int made_ = 0;
};

// Mean and standard deviation of a plain tensor's values.
std::pair<double, double> moments(const Tensor& t) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < t.numel(); ++i) {
    double v = t.dtype == DType::kF32 ? t.f32()[i] : bf16_to_float(t.as<uint16_t>()[i]);
    sum += v;
    squares += v * v;
  }
  auto n = static_cast<double>(t.numel());
  return {sum / n, std::sqrt(squares / n - sum / n * sum / n)};
}

// The published index is an independent statement of names, files and total size.
TEST_F(RandomCheckpoint, GptOss20bIsAsPublished) {
  RandomCheckpointPlan plan = plan_random_checkpoint({.config = fixture("gpt-oss-20b/config.json")});
  EXPECT_EQ(plan.total_bytes(), 13'761'264'768);
  std::string path = fixture("gpt-oss-20b/model.safetensors.index.json");
  SafetensorsIndex index = parse_safetensors_index(file_bytes(path), path);
  ASSERT_EQ(plan.tensors.size(), index.weight_map.size());
  for (const TensorSpec& t : plan.tensors) EXPECT_TRUE(index.weight_map.contains(t.name)) << t.name;
  EXPECT_EQ(plan.settings.shard_of, index.weight_map);
  // Another layer count is another checkpoint: the published files no longer apply.
  RandomCheckpointPlan one = plan_random_checkpoint({.config = fixture("gpt-oss-20b/config.json"), .layers = 1});
  EXPECT_EQ(one.tensors.size(), 22u);
  EXPECT_TRUE(one.settings.shard_of.empty());
  EXPECT_EQ(one.config["layer_types"].size(), 1u);
  EXPECT_EQ(
      plan_random_checkpoint({.config = fixture("gpt-oss-20b/config.json"), .layers = 27}).config["layer_types"][26],
      "sliding_attention");
}

// Each architecture's tensors are those that its real checkpoint has, and the folder loads.
TEST_F(RandomCheckpoint, EveryArchitectureHasTheTensorsOfItsFixture) {
  for (const char* name : {"gpt_oss", "gpt_oss_mxfp4", "llama", "mistral", "qwen3", "qwen3_moe"}) {
    std::string out = make({.config = fixture(name) + "/config.json"});
    SafetensorsSet made = SafetensorsSet::open(out), real = SafetensorsSet::open(fixture(name));
    EXPECT_EQ(made.files()[0].tensors().size(), real.files()[0].tensors().size()) << name;
    for (const TensorInfo& info : real.files()[0].tensors()) {
      auto t = made.find(info.name);
      ASSERT_TRUE(t) << info.name;
      EXPECT_EQ(t->shape, info.shape) << info.name;
      EXPECT_EQ(t->dtype, info.dtype) << info.name;
    }
    Checkpoint checkpoint = Checkpoint::open(out);
    auto model = make_model(checkpoint.config());
    WeightPlan plan;
    model->declare(plan);
    ThreadPool pool(2);
    EXPECT_NO_THROW(checkpoint.load(plan, {}, pool)) << name;
  }
}

TEST_F(RandomCheckpoint, ValuesAreSane) {
  SafetensorsSet set = SafetensorsSet::open(make({.config = fixture("gpt_oss_mxfp4/config.json"), .seed = 5}));
  auto [mean, deviation] = moments(*set.find("model.embed_tokens.weight"));
  EXPECT_NEAR(mean, 0, 1e-3);
  EXPECT_NEAR(deviation, 0.02, 1e-3);
  auto [norm_mean, norm_deviation] = moments(*set.find("model.layers.0.input_layernorm.weight"));
  EXPECT_NEAR(norm_mean, 1, 0.02);
  EXPECT_LT(norm_deviation, 0.05);
  Tensor scales = *set.find("model.layers.2.mlp.experts.gate_up_proj_scales");
  for (int64_t i = 0; i < scales.numel(); ++i) {
    EXPECT_GE(scales.as<uint8_t>()[i], 118);
    EXPECT_LE(scales.as<uint8_t>()[i], 121);
  }
  Tensor blocks = *set.find("model.layers.2.mlp.experts.gate_up_proj_blocks");
  std::vector<int64_t> counts(256);
  for (int64_t i = 0; i < blocks.numel(); ++i) ++counts[blocks.as<uint8_t>()[i]];
  for (int64_t count : counts)
    EXPECT_NEAR(static_cast<double>(count) * 256 / static_cast<double>(blocks.numel()), 1, 0.5);
}

TEST_F(RandomCheckpoint, BytesDependOnTheSeedOnly) {
  RandomCheckpointOptions options{.config = fixture("gpt_oss_mxfp4/config.json"), .seed = 3};
  SafetensorsSet one = SafetensorsSet::open(make(options, 1));
  options.max_shard_bytes = 100'000;
  std::string sharded = make(options, 4);
  SafetensorsSet many = SafetensorsSet::open(sharded);
  EXPECT_GT(many.files().size(), 3u);
  options.seed = 4;
  SafetensorsSet other = SafetensorsSet::open(make(options, 4));
  for (const TensorInfo& info : one.files()[0].tensors()) {
    auto bytes = static_cast<size_t>(info.end - info.begin);
    EXPECT_EQ(std::memcmp(one.find(info.name)->data, many.find(info.name)->data, bytes), 0) << info.name;
    EXPECT_NE(std::memcmp(one.find(info.name)->data, other.find(info.name)->data, bytes), 0) << info.name;
  }
}

TEST_F(RandomCheckpoint, OtherTypesAndExperts) {
  SafetensorsSet plain = SafetensorsSet::open(
      make({.config = fixture("gpt_oss_mxfp4/config.json"), .dtype = DType::kF32, .experts = ExpertStorage::kPlain}));
  EXPECT_EQ(plain.find("model.layers.0.mlp.experts.down_proj")->dtype, DType::kF32);
  SafetensorsSet brain = SafetensorsSet::open(make({.config = fixture("gpt_oss/config.json")}));
  // The same seed gives the same values in another type.
  Tensor a = *plain.find("lm_head.weight"), b = *brain.find("lm_head.weight");
  for (int64_t i = 0; i < a.numel(); ++i) ASSERT_EQ(b.as<uint16_t>()[i], float_to_bf16(a.f32()[i]));
  SafetensorsSet quantized =
      SafetensorsSet::open(make({.config = fixture("gpt_oss/config.json"), .experts = ExpertStorage::kMxfp4}));
  EXPECT_TRUE(quantized.find("model.layers.0.mlp.experts.down_proj_blocks"));
}

TEST_F(RandomCheckpoint, CopiesTokenizersAndLeavesNothingAfterAnError) {
  std::string glossary = TESSERA_SOURCE_DIR "/../shared/models/glossary-mxfp4";
  std::string out =
      make({.config = glossary + "/config.json", .layers = 1, .tokenizer_folders = {fixture("gpt-oss-20b"), glossary}});
  EXPECT_EQ(file_bytes(out + "/tokenizer.json"), file_bytes(glossary + "/tokenizer.json"));
  EXPECT_EQ(file_bytes(out + "/chat_template.jinja"), file_bytes(fixture("gpt-oss-20b/chat_template.jinja")));
  EXPECT_TRUE(fs::exists(out + "/generation_config.json"));
  ThreadPool pool(2);
  EXPECT_ERROR(write_random_checkpoint({}, {.out = out}, pool), ErrorCode::kInvalidArgument, "no empty folder");
  folder_.write("config.json", R"({"architectures":["Unheard"]})");
  EXPECT_ERROR(make({.config = folder_.file("config.json")}), ErrorCode::kUnsupported, "Unheard");
  // 4096 layers of the 20b: 2.2 TB.
  EXPECT_ERROR(make({.config = fixture("gpt-oss-20b/config.json"), .layers = 4096}), ErrorCode::kIo, "GB are needed");
  EXPECT_FALSE(fs::exists(folder_.file("out" + std::to_string(made_))));
}

}  // namespace
}  // namespace tessera

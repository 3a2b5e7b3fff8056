// Whole models over several ranks (threads) against the tensors that transformers computed: the same greedy tokens,
// logits within 5e-5 of their largest value, and every byte of the checkpoint on some rank.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>

#include "api/llm_impl.h"
#include "core/error.h"
#include "core/json.h"
#include "models/registry.h"
#include "support/fixtures.h"
#include "support/golden_run.h"
#include "support/rank_plans.h"
#include "tessera/batch.h"

namespace tessera {
namespace {

constexpr const char* kModels[] = {"gpt_oss", "gpt_oss_mxfp4", "llama", "mistral", "qwen3", "qwen3_moe"};

using Plan = RankPlan;

std::vector<Plan> plans() {
  std::vector<Plan> all;
  for (int tp : {1, 2, 3, 4, 5}) all.push_back({.tp = tp});
  for (int ep : {2, 3, 4, 9}) all.push_back({.ep = ep});
  for (auto [tp, ep] : {std::pair{2, 2}, {4, 2}, {2, 4}, {1, 4}, {3, 2}}) all.push_back({.tp = tp, .ep = ep});
  all.push_back({.ep = 4, .attention = "dp"});
  all.push_back({.tp = 2, .ep = 4, .attention = "dp"});
  all.push_back({.ep = 2, .experts = "all-reduce"});
  all.push_back({.tp = 4, .ep = 2, .experts = "all-reduce"});
  return all;
}

class Ranks : public testing::TestWithParam<std::tuple<const char*, Plan>> {};

// What each model allows: 4 query heads, 8 experts or none.
bool allowed(const std::string& model, const Plan& p) {
  const bool experts = model.starts_with("gpt_oss") || model == "qwen3_moe";
  const int tp = std::max(p.tp > 0 || p.attention == std::string("dp") ? p.tp : p.ep, 1), ep = std::max(p.ep, 1);
  return tp <= 4 && ep <= (experts ? 8 : 1) && std::max(tp, ep) % std::min(tp, ep) == 0;
}

TEST_P(Ranks, SameTokensAndLogitsOrARefusal) {
  const auto& [model, plan] = GetParam();
  TS_NEED_FIXTURE(folder, model);
  const LoadOptions options{.device = "cpu",
                            .dtype = "float32",
                            .threads = 1,
                            .max_context = 512,
                            .tp = plan.tp,
                            .ep = plan.ep,
                            .attention = plan.attention,
                            .experts = plan.experts};
  if (!allowed(model, plan)) {
    try {
      Llm::load(folder, options);
      FAIL() << "an impossible plan was accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(e.what()).find("the nearest possible: --tp"), std::string::npos) << e.what();
    }
    return;
  }
  Llm llm = Llm::load(folder, options);
  expect_golden(llm, SafetensorsFile::open(folder + "/golden.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Models, Ranks, testing::Combine(testing::ValuesIn(kModels), testing::ValuesIn(plans())),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" + name_of(std::get<1>(info.param));
                         });

TEST(RanksTable, IsPrinted) {
  for (const char* model : kModels) {
    std::string line = std::string(model) + ":";
    for (const Plan& p : plans()) line += " " + name_of(p) + (allowed(model, p) ? "=yes" : "=no");
    std::printf("%s\n", line.c_str());
  }
}

// Every rank's bytes, from the account of what was loaded.
TEST(RanksBytes, AddUpToTheCheckpoint) {
  for (const char* name : kModels) {
    TS_NEED_FIXTURE(folder, name);
    ThreadPool pool(1);
    for (int tp = 1; tp <= 4; ++tp) {
      for (int ep : {1, 2, 4}) {
        std::map<std::string, int64_t> once, whole;
        std::map<std::string, Split> splits;
        Mesh mesh{.tensor = tp, .expert = ep};
        bool possible = true;
        for (int rank = 0; possible && rank < mesh.ranks(); ++rank) {
          Checkpoint checkpoint = Checkpoint::open(folder);
          mesh.least_unit = mesh.unit = checkpoint.quantization() ? 32 : 1;
          const std::unique_ptr<Model> model = make_model(checkpoint.config());
          WeightPlan plan;
          model->declare(plan);
          possible = why_impossible(mesh, mesh_demand(plan)).empty();
          if (!possible) break;
          for (const WeightRow& row : plan.rows()) splits[row.name + row.shape.str()] = row.split;
          size_t i = 0;
          for (const LoadedRow& row : checkpoint.forecast(plan, {.dtype = DType::kF32}))
            whole[row.name + plan.rows()[i++].shape.str()] = row.file_bytes;
          i = 0;
          for (const LoadedRow& row : checkpoint.load(plan, {.dtype = DType::kF32, .mesh = &mesh, .rank = rank}, pool))
            once[row.name + plan.rows()[i++].shape.str()] += row.file_bytes;
        }
        if (!possible) continue;
        for (const auto& [row, bytes] : whole) {
          const Split split = splits[row];
          if (split == Split::kKvHeads && tp > 1) {
            EXPECT_GE(once[row], bytes * mesh.replicas()) << row;
          } else {
            const bool once_only = split == Split::kExperts || split == Split::kVocabulary;
            const int copies = split == Split::kReplicated ? mesh.ranks() : once_only ? 1 : mesh.replicas();
            EXPECT_EQ(once[row], bytes * copies) << name << " " << row << " tp " << tp << " ep " << ep;
          }
        }
      }
    }
  }
}

// A rank's weights do not change when every byte that is not its own does.
TEST(RanksBytes, OthersAreNotRead) {
  TS_NEED_FIXTURE(folder, "gpt_oss_mxfp4");
  const std::string copy = testing::TempDir() + "/ranks_own_bytes";
  std::filesystem::remove_all(copy);
  std::filesystem::copy(folder, copy);
  const Mesh mesh{.tensor = 2, .expert = 2, .unit = 32, .least_unit = 32};
  ThreadPool pool(1);
  auto load = [&](const std::string& from, const std::function<void(const WeightPlan&)>& look) {
    Checkpoint checkpoint = Checkpoint::open(from);
    const std::unique_ptr<Model> model = make_model(checkpoint.config());
    WeightPlan plan;
    model->declare(plan);
    checkpoint.load(plan, {.dtype = DType::kF32, .mesh = &mesh, .rank = 1}, pool);
    look(plan);
  };
  auto bytes_of = [](const Tensor& t) { return std::string(t.as<char>(), static_cast<size_t>(t.bytes())); };
  std::map<std::string, std::string> before;
  load(folder, [&](const WeightPlan& plan) {
    for (const WeightRow& row : plan.rows()) {
      if (row.weight) before[row.name] = bytes_of(row.weight->values);
      if (row.tensor && row.tensor->defined()) before[row.name] = bytes_of(*row.tensor);
    }
  });
  // Rank 1 holds experts 4 to 7: the others' scales become NaN, which loading refuses wherever it looks.
  const std::string path = copy + "/model.safetensors";
  int64_t spoilt = 0;
  {
    const SafetensorsFile file = SafetensorsFile::open(path);
    std::FILE* out = std::fopen(path.c_str(), "r+b");
    ASSERT_NE(out, nullptr);
    const auto header = static_cast<long>(std::filesystem::file_size(path)) - static_cast<long>(file.data_bytes());
    for (const TensorInfo& info : file.tensors()) {
      if (!info.name.ends_with("_scales")) continue;
      const std::string nan(static_cast<size_t>((info.end - info.begin) / 2), '\xff');
      std::fseek(out, header + static_cast<long>(info.begin), SEEK_SET);
      spoilt += static_cast<int64_t>(std::fwrite(nan.data(), 1, nan.size(), out));
    }
    std::fclose(out);
  }
  EXPECT_GT(spoilt, 0);
  load(copy, [&](const WeightPlan& plan) {
    for (const WeightRow& row : plan.rows())
      if (row.weight) EXPECT_EQ(before[row.name], bytes_of(row.weight->values)) << row.name;
  });
  Checkpoint whole = Checkpoint::open(copy);
  const std::unique_ptr<Model> model = make_model(whole.config());
  WeightPlan plan;
  model->declare(plan);
  EXPECT_THROW(whole.load(plan, {.dtype = DType::kF32}, pool), Error);
}

// What a GPU is sent, piece by piece, is what a CPU copies.
TEST(RanksBytes, DeferredPartsReadTheSame) {
  for (const char* name : kModels) {
    TS_NEED_FIXTURE(folder, name);
    ThreadPool pool(1);
    for (auto [tp, ep] : {std::pair{2, 1}, {3, 1}, {2, 2}, {4, 2}}) {
      Mesh mesh{.tensor = tp, .expert = ep};
      std::vector<std::string> bytes[2];
      for (int deferred : {0, 1}) {
        Checkpoint checkpoint = Checkpoint::open(folder);
        mesh.least_unit = mesh.unit = checkpoint.quantization() ? 32 : 1;
        const std::unique_ptr<Model> model = make_model(checkpoint.config());
        WeightPlan plan;
        model->declare(plan);
        if (!why_impossible(mesh, mesh_demand(plan)).empty()) break;
        checkpoint.load(plan, {.dtype = DType::kF32, .mesh = &mesh, .rank = 1, .deferred = deferred == 1}, pool);
        for (const WeightRow& row : plan.rows()) {
          if (!row.weight) continue;
          for (const Tensor& t : {row.weight->values, row.weight->scales}) {
            if (!t.defined()) continue;
            std::string& read = bytes[deferred].emplace_back(static_cast<size_t>(t.bytes()), '\0');
            for (int64_t at = 0; at < t.bytes(); at += 1000)  // across the borders of pieces
              checkpoint.read(t.as<char>() + at, std::min<int64_t>(1000, t.bytes() - at), read.data() + at);
          }
        }
      }
      EXPECT_EQ(bytes[0], bytes[1]) << name << " tp " << tp << " ep " << ep;
    }
  }
}

// Sampling, batches with shared prefixes, swapping and drafts, against one rank.
TEST(RanksBatch, SameAnswersAsOneRank) {
  TS_NEED_FIXTURE(folder, "gpt_oss_mxfp4");
  auto answers = [&](int tp, int ep, const char* attention = "tp") {
    Llm llm = Llm::load(folder, {.device = "cpu",
                                 .dtype = "float32",
                                 .threads = 1,
                                 .max_context = 256,
                                 .page_size = 16,
                                 .tp = tp,
                                 .ep = ep,
                                 .attention = attention});
    std::vector<BatchRequest> requests;
    for (int i = 0; i < 12; ++i) {
      BatchRequest r{.id = std::to_string(i),
                     .params = {.temperature = 0, .seed = 11, .ignore_eos = true, .max_tokens = 30}};
      for (int t = 0; t < 40 + i; ++t) r.prompt.push_back((t < 32 ? 5 * t : 3 * t + i) % 320);
      if (i % 3 == 1) r.params.temperature = 0.8, r.params.top_k = 5;
      if (i % 4 == 2) r.params.repetition_penalty = 1.3;
      if (i % 4 == 3) r.samples = 2, r.params.temperature = 0.7;
      requests.push_back(std::move(r));
    }
    std::vector<std::vector<int32_t>> ids;
    const BatchOptions options{.max_requests_per_batch = 6,
                               .max_batch_tokens = 64,
                               .max_context = 128,
                               .num_blocks = 40,
                               .swap_memory = 1 << 20,
                               .prompt_lookup = 4};
    for (const BatchOutput& out : generate_batch(llm, requests, options)) {
      EXPECT_EQ(out.status, BatchStatus::kFinished) << out.error;
      ids.push_back(out.generation.ids);
    }
    return ids;
  };
  const auto one = answers(0, 0);
  EXPECT_EQ(answers(2, 0), one);
  EXPECT_EQ(answers(3, 0), one);
  EXPECT_EQ(answers(0, 4), one);
  EXPECT_EQ(answers(0, 4, "dp"), one);
  EXPECT_EQ(answers(2, 4, "dp"), one);
}

// --deterministic: which other requests run changes no bit, however many ranks compute.
TEST(RanksBatch, DeterministicUnderRanks) {
  TS_NEED_FIXTURE(folder, "gpt_oss_mxfp4");
  for (const Plan& plan : {Plan{.tp = 3}, Plan{.ep = 2}, Plan{.ep = 2, .attention = "dp"}}) {
    SCOPED_TRACE(name_of(plan));
    Llm llm = Llm::load(folder, {.device = "cpu",
                                 .dtype = "float32",
                                 .threads = 1,
                                 .max_context = 256,
                                 .tp = plan.tp,
                                 .ep = plan.ep,
                                 .attention = plan.attention});
    auto answer = [&](int others) {
      std::vector<BatchRequest> requests;
      for (int i = 0; i <= others; ++i) {
        BatchRequest r{.id = std::to_string(i), .params = {.seed = 5, .ignore_eos = true, .max_tokens = 20}};
        for (int t = 0; t < 20 + i; ++t) r.prompt.push_back((7 * t + i) % 320);
        requests.push_back(std::move(r));
      }
      return generate_batch(llm, requests, {.deterministic = true})[0].generation.ids;
    };
    EXPECT_EQ(answer(0), answer(9));
  }
}

// The trained model: windows, sinks, several windows' worth of tokens, prompts that share their beginning.
TEST(RanksGlossary, TheSameTokensUnderEveryPlan) {
  const std::string folder = std::string(TESSERA_SOURCE_DIR) + "/models/glossary";
  auto answers = [&](const Plan& plan) {
    Llm llm = Llm::load(folder, {.device = "cpu",
                                 .dtype = "float32",
                                 .threads = 1,
                                 .max_context = 512,
                                 .tp = plan.tp,
                                 .ep = plan.ep,
                                 .attention = plan.attention,
                                 .experts = plan.experts});
    std::vector<BatchRequest> requests;
    for (const char* text : {"Courage means", "Courage means to", "The word river", "Define a clock:"})
      requests.push_back(
          {.id = text, .prompt = llm.encode(text), .params = {.temperature = 0, .ignore_eos = true, .max_tokens = 40}});
    requests[2].params.max_tokens = 200;  // beyond its window
    std::vector<std::vector<int32_t>> ids;
    for (const BatchOutput& out : generate_batch(llm, requests)) ids.push_back(out.generation.ids);
    return ids;
  };
  const auto one = answers({});
  for (const Plan& plan : {Plan{.tp = 2}, Plan{.tp = 3}, Plan{.tp = 4}, Plan{.ep = 2}, Plan{.ep = 4},
                           Plan{.tp = 4, .ep = 2}, Plan{.ep = 2, .experts = "all-reduce"},
                           Plan{.ep = 4, .attention = "dp"}, Plan{.tp = 2, .ep = 4, .attention = "dp"}})
    EXPECT_EQ(answers(plan), one) << name_of(plan);
}

// `--tp auto` takes the ranks that a launcher started; without one, all GPUs, or one CPU.
TEST(RanksMesh, AutoTakesWhatThereIs) {
  TS_NEED_FIXTURE(folder, "gpt_oss_mxfp4");
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const std::unique_ptr<Model> model = make_model(checkpoint.config());
  WeightPlan plan;
  model->declare(plan);
  EXPECT_EQ(resolve_mesh({.tp = -1}, checkpoint, plan, false).ranks(), 1);
  const size_t gpus = cuda_devices(nullptr).size();
  if (gpus > 0 && gpus <= 4) {
    EXPECT_EQ(resolve_mesh({.tp = -1}, checkpoint, plan, true).ranks(), static_cast<int>(gpus));
  }
  for (auto [name, value] : {std::pair{"RANK", "1"}, {"WORLD_SIZE", "3"}, {"MASTER_ADDR", "127.0.0.1"}})
    setenv(name, value, 1);
  EXPECT_EQ(resolve_mesh({.tp = -1}, checkpoint, plan, false).tensor, 3);
  for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR"}) unsetenv(name);
}

// With attention data-parallel every group of ranks keeps sequences of its own: caches add up.
TEST(RanksCache, AddsUp) {
  TS_NEED_FIXTURE(folder, "gpt_oss_mxfp4");
  Llm llm = Llm::load(folder, {.device = "cpu",
                               .dtype = "float32",
                               .threads = 1,
                               .max_context = 256,
                               .page_size = 16,
                               .ep = 4,
                               .attention = "dp"});
  Runner& runner = llm.impl().runner();
  ASSERT_EQ(runner.caches().size(), 4u);
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int i = 0; i < 4; ++i) {
    sequences.push_back(runner.open());
    EXPECT_EQ(sequences.back()->cache().options().shard, i);
    while (sequences.back()->cache().reserve(*sequences.back(), 16 * (sequences.back()->held(0) + 1))) {
    }
    EXPECT_LT(sequences.back()->cache().available(), 2);
  }
}

TEST(RanksRefusals, AttentionOfOwnTokensNeedsDispatch) {
  TS_NEED_FIXTURE(folder, "gpt_oss_mxfp4");
  try {
    Llm::load(folder, {.device = "cpu", .dtype = "float32", .ep = 2, .attention = "dp", .experts = "all-reduce"});
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(e.what()).find("give dispatch or auto"), std::string::npos) << e.what();
  }
}

TEST(RanksLoss, EndsEveryRequestWithOneLine) {
  TS_NEED_FIXTURE(folder, "gpt_oss_mxfp4");
  Llm llm = Llm::load(folder, {.device = "cpu", .dtype = "float32", .threads = 1, .max_context = 256, .tp = 2});
  EXPECT_EQ(llm.impl().team->lost(), "");
  llm.impl().team->links.channel->abort("the power went");
  EXPECT_NE(llm.impl().team->lost().find("the power went"), std::string::npos);
  try {
    llm.generate(std::vector<int32_t>{1, 2, 3}, {.max_tokens = 4});
    FAIL() << "a lost rank answered";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(e.what()).find("rank 0 of 2: the power went"), std::string::npos) << e.what();
  }
}

// Two GPUs, sums through peer memory or NCCL, decode steps as graphs.
TEST(RanksGpu, GoldenTokensAndLogits) {
  if (cuda_devices(nullptr).size() < 2) GTEST_SKIP() << "needs two GPUs";
  for (const char* model : kModels) {
    TS_NEED_FIXTURE(folder, model);
    for (const Plan& plan : {Plan{.tp = 2}, Plan{.ep = 2}, Plan{.tp = 1, .ep = 2}, Plan{.ep = 2, .attention = "dp"}}) {
      if (!allowed(model, plan)) continue;
      SCOPED_TRACE(std::string(model) + " " + name_of(plan));
      Llm llm = Llm::load(folder, {.device = "cuda",
                                   .dtype = "float32",
                                   .max_context = 512,
                                   .tp = plan.tp,
                                   .ep = plan.ep,
                                   .attention = plan.attention});
      expect_golden(llm, SafetensorsFile::open(folder + "/golden.safetensors"));
    }
  }
}

TEST(RanksGpu, TheGlossarySaysTheSameAsOnOne) {
  if (cuda_devices(nullptr).size() < 2) GTEST_SKIP() << "needs two GPUs";
  const std::string folder = std::string(TESSERA_SOURCE_DIR) + "/models/glossary";
  auto answers = [&](int tp, int ep, const char* attention = "tp", const char* experts = "auto") {
    Llm llm = Llm::load(folder, {.device = "cuda",
                                 .dtype = "float32",
                                 .max_context = 512,
                                 .tp = tp,
                                 .ep = ep,
                                 .attention = attention,
                                 .experts = experts});
    std::vector<BatchRequest> requests;
    for (const char* text : {"Courage means", "A bridge is", "The word river", "Serendipity", "Define a clock:"})
      requests.push_back(
          {.id = text, .prompt = llm.encode(text), .params = {.temperature = 0, .ignore_eos = true, .max_tokens = 60}});
    std::vector<std::vector<int32_t>> ids;
    for (const BatchOutput& out : generate_batch(llm, requests)) ids.push_back(out.generation.ids);
    return ids;
  };
  const auto one = answers(0, 0);
  EXPECT_EQ(answers(2, 0), one);
  EXPECT_EQ(answers(0, 2), one);
  EXPECT_EQ(answers(0, 2, "tp", "dispatch"), one);
  EXPECT_EQ(answers(0, 2, "dp"), one);
}

}  // namespace
}  // namespace tessera

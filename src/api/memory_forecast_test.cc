#include "api/memory_forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "api/describe.h"
#include "engine/device_forecast.h"
#include "models/registry.h"
#include "tessera/llm.h"

namespace tessera {
namespace {

const std::string kFolder = std::string(TESSERA_SOURCE_DIR) + "/models/glossary";

Json forecast_of(Checkpoint checkpoint, bool dequantize, int64_t context) {
  std::unique_ptr<Model> model = make_model(checkpoint.config());
  return forecast_memory(checkpoint, *model,
                         {.dtype = config_dtype(checkpoint.config()),
                          .dequantize = dequantize,
                          .threads = 2,
                          .context = context,
                          .card_gigabytes = {0.76}});
}

TEST(MemoryForecast, IsWhatLoadingTakes) {
  for (bool dequantize : {false, true}) {
    Json from_config = forecast_of(Checkpoint::from_config(kFolder + "/config.json"), dequantize, 1000);
    Json from_folder = forecast_of(Checkpoint::open(kFolder), dequantize, 1000);
    for (Json* forecast : {&from_config, &from_folder}) (*forecast)["devices"][0].erase("bytes");  // free just now
    EXPECT_EQ(from_config, from_folder);
    Llm llm = Llm::load(kFolder, {.device = "cpu", .dequantize = dequantize, .threads = 2, .max_context = 1000});
    const Json loaded = Json::parse(llm.describe());
    EXPECT_EQ(from_config["weight_bytes"], loaded["memory"]["weight_bytes"]);
    EXPECT_EQ(from_config["workspace_bytes"], loaded["memory"]["scratch_bytes"]);
    // Pages are whole, and a window layer keeps one step's tokens more.
    const double cache = from_config["cache_bytes"].get<double>(),
                 taken = loaded["memory"]["cache_bytes"].get<double>();
    EXPECT_LE(cache, taken);
    EXPECT_GT(from_config["total_bytes"].get<double>() + 2e6, loaded["memory"]["weight_bytes"].get<double>() + taken);
  }
}

TEST(MemoryForecast, KindsOfWeightsNeedNoFiles) {
  Checkpoint files = Checkpoint::open(kFolder), config = Checkpoint::from_config(kFolder);
  EXPECT_TRUE(files.has_tensors());
  EXPECT_FALSE(config.has_tensors());
  std::unique_ptr<Model> model = make_model(config.config());
  WeightPlan plan;
  model->declare(plan);
  auto kinds = [&](const Checkpoint& c) {
    return describe_model(c, *model, c.forecast(plan, {}), DType::kBF16, false)["memory"]["by_kind"];
  };
  EXPECT_EQ(kinds(files), kinds(config));
}

TEST(MemoryForecast, SaysWhereItFitsAndHowFar) {
  Json f = forecast_of(Checkpoint::from_config(kFolder), false, 4096);
  EXPECT_EQ(f["total_bytes"].get<int64_t>(),
            f["weight_bytes"].get<int64_t>() + f["cache_bytes"].get<int64_t>() + f["workspace_bytes"].get<int64_t>());
  Json small, big;
  for (const Json& device : f["devices"]) {
    if (device["device"] == "a card of 0.76 GB") small = device;
    if (device["device"] == "a card of 80 GB") big = device;
  }
  EXPECT_EQ(big["fits"], true);
  EXPECT_EQ(big["max_context"], 4096);
  EXPECT_EQ(small["fits"], false) << "0.01 GB are left beside the driver";
  EXPECT_EQ(small["max_context"], 0);
}

Json forecast_on_gpu(const std::string& config, const ForecastOptions& options) {
  Checkpoint checkpoint = Checkpoint::from_config(config);
  std::unique_ptr<Model> model = make_model(checkpoint.config());
  ForecastOptions o = options;
  o.dtype = config_dtype(checkpoint.config());
  o.threads = 2;
  o.gpu = true;
  return forecast_memory(checkpoint, *model, o);
}

TEST(MemoryForecast, CountsForAGpuThatIsNotThere) {
  const Json one = forecast_on_gpu(kFolder, {.context = 2048});
  const Json three = forecast_on_gpu(kFolder, {.context = 2048, .max_requests = 3});
  const Json fp8 = forecast_on_gpu(kFolder, {.cache_dtype = DType::kF8E4M3, .context = 2048});
  EXPECT_EQ(one["total_bytes"].get<int64_t>(), one["weight_bytes"].get<int64_t>() + one["cache_bytes"].get<int64_t>() +
                                                   one["workspace_bytes"].get<int64_t>() +
                                                   one["graph_bytes"].get<int64_t>() +
                                                   one["driver_bytes"].get<int64_t>());
  EXPECT_EQ(one["measured"], has_cuda_kernels(Kernels::builtin()));
  EXPECT_EQ(three["weight_bytes"], one["weight_bytes"]);
  EXPECT_EQ(three["cache_bytes"].get<int64_t>(), 3 * one["cache_bytes"].get<int64_t>());
  EXPECT_EQ(2 * fp8["cache_bytes"].get<int64_t>(), one["cache_bytes"].get<int64_t>());
  EXPECT_GT(one["driver_bytes"].get<int64_t>(), int64_t{256} << 20);
}

// 120 billion parameters with three whole contexts on a card of 80 GB, and 20 billion with 32k in 16 GB.
TEST(MemoryForecast, GptOssFitsTheCardsItIsMeantFor) {
  const std::string small = TESSERA_SOURCE_DIR "/../shared/fixtures/gpt-oss-20b/config.json";
  if (!std::filesystem::exists(small)) GTEST_SKIP() << small << " is not there";
  auto fits = [](const std::string& config, const ForecastOptions& options, const char* card) {
    const Json f = forecast_on_gpu(config, options);
    for (const Json& device : f["devices"])
      if (device["device"] == card) EXPECT_EQ(device["fits"], true) << f.dump();
  };
  fits(small, {.context = 32768}, "a card of 16 GB");
  Json big = read_json_file(small);
  big["num_hidden_layers"] = 36;
  big["num_local_experts"] = 128;
  for (Json& types = big["layer_types"]; types.size() < 36;)
    types.push_back(types.size() % 2 == 0 ? "sliding_attention" : "full_attention");
  const std::string path = ::testing::TempDir() + "tessera_120b.json";
  std::ofstream(path) << big.dump();
  fits(path, {.context = 131072, .max_requests = 3}, "a card of 80 GB");
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tessera

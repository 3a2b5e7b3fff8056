#include "api/memory_forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/describe.h"
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

}  // namespace
}  // namespace tessera

#include "engine/device_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "core/error.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr Place G = Place::kDevice, C = Place::kHost, D = Place::kDisk;

template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(DeviceMap, FillsTheDeviceThenTheHostThenTheDisk) {
  const MapDemand demand{
      .experts = {10, 10, 10, 10, 10}, .device_fixed = 5, .staging = 2, .device_bytes = 27, .host_bytes = 20};
  EXPECT_THAT(map_automatically(demand), ElementsAre(G, G, C, C, D));
}

TEST(DeviceMap, NeedsNoStagingWhereEverythingFits) {
  const MapDemand demand{.experts = {10, 10}, .device_fixed = 5, .staging = 9, .device_bytes = 25};
  EXPECT_THAT(map_automatically(demand), ElementsAre(G, G));
}

// For any sizes: what is planned fits, layers go to no better place than those before them, the next one would not have
// fitted, and more memory never moves a layer away from the device.
TEST(DeviceMap, PropertiesOfAutomaticMaps) {
  std::mt19937_64 random(7);
  auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  for (int round = 0; round < 5000; ++round) {
    MapDemand d{.device_fixed = below(50), .staging = below(20)};
    for (int64_t i = 0, n = 1 + below(40); i < n; ++i) d.experts.push_back(below(5) == 0 ? 0 : 1 + below(30));
    d.device_bytes = d.device_fixed + below(600), d.host_bytes = below(400);
    const DeviceMap map = map_automatically(d);
    ASSERT_EQ(map.size(), d.experts.size());
    if (bytes_in(map, d, G) > 0) {
      EXPECT_LE(device_bytes_of(map, d), d.device_bytes);
    }
    EXPECT_LE(bytes_in(map, d, C), d.host_bytes);
    Place worst = G;
    for (size_t i = 0; i < map.size(); ++i) {
      if (d.experts[i] == 0) {
        EXPECT_EQ(map[i], G) << "a layer without experts has nothing to move";
        continue;
      }
      EXPECT_GE(map[i], worst);
      if (map[i] == C && worst == G) {
        EXPECT_GT(device_bytes_of(map, d) + d.experts[i], d.device_bytes) << "layer " << i << " had room";
      }
      if (map[i] == D && worst != D) {
        EXPECT_GT(bytes_in(map, d, C) + d.experts[i], d.host_bytes) << "layer " << i << " had room";
      }
      worst = map[i];
    }
    MapDemand more = d;
    more.device_bytes += below(100);
    EXPECT_GE(bytes_in(map_automatically(more), d, G), bytes_in(map, d, G));
    EXPECT_EQ(parse_device_map(map_text(map), static_cast<int64_t>(map.size())), map) << "what is printed is read back";
  }
}

TEST(DeviceMap, CpuMoeTakesTheFirstLayersThatHaveExperts) {
  const MapDemand demand{.experts = {0, 3, 3, 3}};
  EXPECT_THAT(map_cpu_moe(demand, 2), ElementsAre(G, C, C, G));
  EXPECT_THAT(map_cpu_moe(demand, 99), ElementsAre(G, C, C, C));
}

TEST(DeviceMap, ShortSyntax) {
  EXPECT_THAT(parse_device_map("0-1=gpu,2=cpu,3-4=disk", 5), ElementsAre(G, G, C, D, D));
  EXPECT_THAT(parse_device_map("*=cpu,1=cuda:0", 3), ElementsAre(C, G, C));
  EXPECT_THAT(parse_device_map("2=host", 3), ElementsAre(G, G, C));
  for (const char* bad : {"0", "0=tpu", "a=cpu", "1-=cpu", "-1=cpu", "2-1=cpu", "0=cpu,0=gpu", "=", ",", "3=cpu",
                          "0-3=cpu", "99999999999999999999=cpu"})
    EXPECT_THAT(refusal([&] { parse_device_map(bad, 3); }), HasSubstr("--device-map")) << bad;
}

TEST(DeviceMap, MapsOfAccelerate) {
  const Json json = Json::parse(R"({"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "cpu",
      "model.layers.2.self_attn": 0, "model.layers.2.mlp.experts": "disk", "model.norm": 0, "lm_head": "cuda"})");
  EXPECT_THAT(read_device_map(json, 3, "map.json"), ElementsAre(G, C, D));
  EXPECT_THAT(read_device_map(Json::parse(R"({"": "cpu", "model.layers.1": 0})"), 3, "m"), ElementsAre(C, G, C));
  EXPECT_THAT(refusal([] { read_device_map(Json::parse(R"({"lm_head": "cpu"})"), 3, "m"); }), HasSubstr("lm_head"));
  EXPECT_THAT(refusal([] { read_device_map(Json::parse(R"({"model.layers.1.self_attn": "disk"})"), 3, "m"); }),
              HasSubstr("only experts"));
  EXPECT_THAT(refusal([] { read_device_map(Json::parse(R"({"model.layers.3": "cpu"})"), 3, "m"); }),
              HasSubstr("no layer 3"));
  EXPECT_THAT(refusal([] { read_device_map(Json::parse(R"({"model.layers.1": 1})"), 3, "m"); }), HasSubstr("--tp"));
  EXPECT_THAT(refusal([] { read_device_map(Json::parse("[1]"), 3, "m"); }), HasSubstr("object"));
}

TEST(DeviceMap, ATokensTimeIsThatOfItsBytes) {
  const TokenSeconds s = predict_token({.device_bytes = 3000, .host_bytes = 400, .layers = 10, .hosted_layers = 4},
                                       {.device = 1000, .host = 100, .layer_seconds = 0.5, .handover_seconds = 0.25});
  EXPECT_DOUBLE_EQ(s.device, 8);
  EXPECT_DOUBLE_EQ(s.host, 4);
  EXPECT_DOUBLE_EQ(s.handover, 1);
  EXPECT_DOUBLE_EQ(s.total(), 13);
}

TEST(DeviceMap, LayersOfWeights) {
  EXPECT_EQ(layer_of_weight("model.layers.17.mlp.experts.down_proj"), 17);
  EXPECT_EQ(layer_of_weight("lm_head.weight"), -1);
}

}  // namespace
}  // namespace tessera

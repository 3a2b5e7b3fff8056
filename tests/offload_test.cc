// Models whose experts stay off the device: the same greedy tokens as with everything on it, layer by layer; on a GPU
// where there is one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/llm_impl.h"
#include "core/error.h"
#include "core/json.h"
#include "support/fixtures.h"
#include "tessera/batch.h"
#include "tessera/llm.h"

namespace tessera {
namespace {

constexpr const char* kModels[] = {"gpt_oss", "gpt_oss_mxfp4", "qwen3_moe"};
const char* const kGlossary = TESSERA_SOURCE_DIR "/models/glossary";

std::vector<int32_t> ids_of(const SafetensorsFile& golden, const std::string& name) {
  const Tensor t = golden.view(*golden.find(name));
  std::vector<int32_t> out;
  for (int64_t i = 0; i < t.numel(); ++i)
    out.push_back(t.dtype == DType::kI64 ? static_cast<int32_t>(t.as<int64_t>()[i]) : t.as<int32_t>()[i]);
  return out;
}

void expect_golden(const std::string& folder, const LoadOptions& options) {
  const SafetensorsFile golden = SafetensorsFile::open(folder + "/golden.safetensors");
  Llm llm = Llm::load(folder, options);
  if (options.device_map != "auto") {
    EXPECT_NE(llm.explain_kernels(1, 1).find("\"moe_host\""), std::string::npos) << "nothing is off the device";
  }
  for (const std::string k : {"0", "1"}) {
    const std::vector<int32_t> want = ids_of(golden, "greedy." + k);
    const Generation made =
        llm.generate(ids_of(golden, "input_ids." + k),
                     {.temperature = 0, .ignore_eos = true, .max_tokens = static_cast<int64_t>(want.size())});
    EXPECT_EQ(made.ids, want) << "device_map \"" << options.device_map << "\", cpu_moe " << options.cpu_moe;
  }
}

bool has_gpu() {
  return !cuda_devices(nullptr).empty();
}

class Offload : public testing::TestWithParam<const char*> {};

TEST_P(Offload, GoldenTokensWithExpertsInFilesOnTheCpu) {
  TS_NEED_FIXTURE(folder, std::string(GetParam()));
  for (const char* map : {"*=disk", "0=disk", "0=gpu,1=disk", "*=cpu"})
    expect_golden(folder, {.device = "cpu", .dtype = "float32", .threads = 2, .device_map = map});
  for (int64_t n : {1, 99}) expect_golden(folder, {.device = "cpu", .dtype = "float32", .threads = 2, .cpu_moe = n});
}

TEST_P(Offload, GoldenTokensWithExpertsOffTheGpu) {
  if (!has_gpu()) GTEST_SKIP() << "no GPU here";
  TS_NEED_FIXTURE(folder, std::string(GetParam()));
  for (const char* map : {"*=disk", "0=gpu,1=disk", "auto"})
    expect_golden(folder, {.device = "cuda", .dtype = "float32", .device_map = map});
  for (int64_t n : {1, 2, 99}) expect_golden(folder, {.device = "cuda", .dtype = "float32", .cpu_moe = n});
}

INSTANTIATE_TEST_SUITE_P(Models, Offload, testing::ValuesIn(kModels), [](const auto& p) { return p.param; });

// Prompts and answers as they are without offload, one request and several at once. In F32: the CPU's bf16 products are
// not those of the GPU in every last bit, and some of these answers hang by that.
TEST(OffloadGpu, TheGlossarySaysTheSameWithAnyNumberOfLayersOnTheHost) {
  if (!has_gpu()) GTEST_SKIP() << "no GPU here";
  std::vector<BatchRequest> requests;
  const LoadOptions all{.device = "cuda", .dtype = "float32", .max_context = 1024};
  std::vector<std::vector<int32_t>> want;
  {
    Llm llm = Llm::load(kGlossary, all);
    for (const char* text : {"What does serendipity mean?", "The word abacus means", "A glossary is", "Define: zeal"})
      requests.push_back({.id = text, .prompt = llm.encode(text), .params = {.temperature = 0, .max_tokens = 60}});
    for (const BatchOutput& out : generate_batch(llm, requests)) want.push_back(out.generation.ids);
  }
  const auto layers =
      static_cast<int64_t>(read_json_file(std::string(kGlossary) + "/config.json")["num_hidden_layers"]);
  for (int64_t n = 1; n <= layers; ++n) {
    LoadOptions some = all;
    some.cpu_moe = n;
    Llm llm = Llm::load(kGlossary, some);
    size_t i = 0;
    for (const BatchOutput& out : generate_batch(llm, requests))
      EXPECT_EQ(out.generation.ids, want[i++]) << n << " of " << layers << " layers on the host: " << out.id;
    for (size_t k = 0; k < requests.size(); ++k)
      EXPECT_EQ(llm.generate(requests[k].prompt, requests[k].params).ids, want[k]) << "alone, " << n << " layers";
  }
}

TEST(OffloadGpu, AllocationsStopAtTheLimit) {
  if (!has_gpu()) GTEST_SKIP() << "no GPU here";
  try {
    Llm::load(kGlossary, {.device = "cuda", .device_memory = int64_t{530} << 20});
    FAIL() << "the limit was not kept";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kOutOfMemory) << e.what();
  }
}

TEST(OffloadOptions, RefusesWhatMakesNoSense) {
  auto why = [](LoadOptions options) -> std::string {
    options.device = options.device == "auto" ? "cpu" : options.device;
    try {
      Llm::load(kGlossary, options);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  using testing::HasSubstr;
  EXPECT_THAT(why({.device_map = "0=cpu", .cpu_moe = 1}), HasSubstr("twice"));
  EXPECT_THAT(why({.device_map = "999=cpu"}), HasSubstr("no layer 999"));
  EXPECT_THAT(why({.device_map = "nowhere.json"}), HasSubstr("nowhere.json"));
  EXPECT_THAT(why({.cpu_moe = 1, .tp = 2}), HasSubstr("one device"));
  EXPECT_THAT(why({.device_memory = int64_t{1} << 30}), HasSubstr("limits a GPU"));
}

}  // namespace
}  // namespace tessera

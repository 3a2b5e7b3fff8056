// A GPU that faults in the middle of a batch: every request is answered with an error, and nothing hangs. The process
// cannot use the GPU afterwards, so this test is a program of its own.
#include <gtest/gtest.h>

#include "core/device_context.h"
#include "support/device_fault.h"
#include "tessera/batch.h"
#include "tessera/error.h"

namespace tessera {
namespace {

TEST(DeviceFault, EveryRequestIsAnsweredWithAnError) {
  if (cuda_devices(nullptr).empty()) GTEST_SKIP() << "needs a GPU";
  Llm llm = Llm::load(TESSERA_SOURCE_DIR "/models/glossary", {.device = "cuda", .max_context = 512});
  const std::vector<int32_t> prompt = llm.encode("A word means");
  int asked = 0, answered = 0, finished = 0;
  std::vector<std::string> errors;
  const auto next = [&]() -> std::optional<BatchRequest> {
    if (!errors.empty() || asked == 100000) return std::nullopt;
    return BatchRequest{
        .id = std::to_string(asked++), .prompt = prompt, .params = {.ignore_eos = true, .max_tokens = 50}};
  };
  const auto on_output = [&](const BatchOutput& out) {
    ++answered;
    if (out.status == BatchStatus::kFinished && ++finished == 40) fault_device();
    if (out.status == BatchStatus::kFailed) errors.push_back(out.error);
    return true;
  };
  std::string thrown;
  try {
    generate_batch(llm, next, on_output, {.max_requests_per_batch = 16});
  } catch (const Error& e) {
    thrown = e.what();
  }
  EXPECT_GE(finished, 40);
  EXPECT_EQ(answered, asked);
  ASSERT_FALSE(errors.empty());
  for (const std::string& e : errors) EXPECT_NE(e.find("CUDA"), std::string::npos) << e;
  RecordProperty("error", errors.front());
  RecordProperty("thrown", thrown);
  // And what comes later is refused, at once.
  const auto late = [&] { return generate_batch(llm, {{.id = "late", .prompt = prompt}}); };
  try {
    const std::vector<BatchOutput> out = late();
    ASSERT_EQ(out.size(), 1u);
    EXPECT_EQ(out[0].status, BatchStatus::kFailed);
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("CUDA"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace tessera

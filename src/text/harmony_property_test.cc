// Random streams of tokens; fuzz/harmony_fuzz.cc runs the same check on inputs that a fuzzer finds.
#include "text/harmony_property.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace tessera {
namespace {

void run_streams(int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (int i = 0; i < count; ++i) {
    std::string data(2 + random() % (random() % 16 == 0 ? 200 : 40), '\0');
    for (char& c : data) c = static_cast<char>(random());
    const std::string problem = check_harmony_stream(data);
    ASSERT_EQ(problem, "") << "stream " << i << " of seed " << seed << ": " << testing::PrintToString(data);
  }
}

TEST(HarmonyProperty, RandomStreams) {
  run_streams(20000, 1);
}

// build/release/text_test --gtest_also_run_disabled_tests --gtest_filter=HarmonyProperty.DISABLED_MillionStreams
TEST(HarmonyProperty, DISABLED_MillionStreams) {
  run_streams(1000000, 2);
}

}  // namespace
}  // namespace tessera

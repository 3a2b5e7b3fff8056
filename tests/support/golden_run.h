// A loaded model against what transformers computed for it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "api/llm_impl.h"
#include "loading/safetensors.h"

namespace tessera {

inline std::vector<int32_t> ids_of(const SafetensorsFile& golden, const std::string& name) {
  const Tensor t = golden.view(*golden.find(name));
  std::vector<int32_t> out;
  for (int64_t i = 0; i < t.numel(); ++i)
    out.push_back(t.dtype == DType::kI64 ? static_cast<int32_t>(t.as<int64_t>()[i]) : t.as<int32_t>()[i]);
  return out;
}

// The same greedy tokens, and logits within 5e-5 of their largest value, in chunks of a prompt.
inline void expect_golden(Llm& llm, const SafetensorsFile& golden) {
  for (const std::string k : {"0", "1"}) {
    const std::vector<int32_t> input = ids_of(golden, "input_ids." + k), want = ids_of(golden, "greedy." + k);
    const Generation made =
        llm.generate(input, {.temperature = 0, .ignore_eos = true, .max_tokens = static_cast<int64_t>(want.size())});
    EXPECT_EQ(made.ids, want);

    Runner& runner = llm.impl().runner();
    const Tensor logits = golden.view(*golden.find("logits." + k));
    float largest = 0, worst = 0;
    for (int64_t i = 0; i < logits.numel(); ++i) largest = std::max(largest, std::abs(logits.f32()[i]));
    std::unique_ptr<Sequence> sequence = runner.open();
    for (size_t done = 0; done < input.size();) {
      const size_t count = std::min<size_t>(37, input.size() - done);
      const RunItem item{sequence.get(), std::span(input).subspan(done, count), WantLogits::kAll};
      const std::optional<Tensor> got = runner.run({&item, 1});
      ASSERT_TRUE(got.has_value());
      const float* wanted = logits.f32() + static_cast<int64_t>(done) * logits.dim(1);
      for (int64_t i = 0; i < got->numel(); ++i) worst = std::max(worst, std::abs(got->f32()[i] - wanted[i]));
      done += count;
    }
    EXPECT_LE(worst, 5e-5f * largest);
  }
}

}  // namespace tessera

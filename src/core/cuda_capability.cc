#include "core/cuda_capability.h"

#include <algorithm>
#include <cstdlib>

#include "core/env.h"
#include "core/error.h"

namespace tessera {

namespace {

int read_forced() {
  const std::string text = env_string(Env::kCudaCapability);
  if (text.empty()) return 0;
  std::string digits = text;
  std::erase(digits, '.');
  const bool numeric = std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!numeric || digits.size() < 2 || digits.size() > 3)
    fail(ErrorCode::kInvalidArgument, "TESSERA_CUDA_CAPABILITY={}: expected a compute capability such as 7.5", text);
  setenv("CUDA_FORCE_PTX_JIT", "1", /*overwrite=*/0);
  return std::stoi(digits);
}

}  // namespace

int forced_capability() {
  static const int forced = read_forced();
  return forced;
}

int acting_capability(int found) {
  const int forced = forced_capability();
  return forced > 0 ? std::min(forced, found) : found;
}

}  // namespace tessera

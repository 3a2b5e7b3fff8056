#include "kernels/hub/call_speed.h"

#include <algorithm>
#include <chrono>

#include "kernels/hub/layer_abi.h"

namespace tessera::hub_kernels {

namespace {

int nothing(void*, const ffi::Any*, int32_t, ffi::Any*) {
  return 0;
}

}  // namespace

double call_nanoseconds(const Runtime& runtime, Device device, void* native_stream) {
  using Clock = std::chrono::steady_clock;
  constexpr int kTogether = 1000, kRounds = 200;
  const ffi::Function volatile function = nothing;  // so that the compiler does not see what is called
  float values[4] = {};
  const Tensor t{values, {1, 4}, DType::kF32, device};
  const RmsNormArgs args{.residual = t, .weight = t, .out = t};
  Stream stream{nullptr, native_stream, nullptr};
  double best = 1e18;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = Clock::now();
    for (int i = 0; i < kTogether; ++i) {
      Call call;
      Abi<RmsNormArgs>::pack(call, args);
      call.run(runtime, function, "nothing", device, stream, 0);
    }
    best = std::min(best, std::chrono::duration<double, std::nano>(Clock::now() - start).count() / kTogether);
  }
  return best;
}

}  // namespace tessera::hub_kernels

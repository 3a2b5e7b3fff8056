// Weights on their way to the GPU: MXFP4 experts become atoms where every scale fits, all else is copied as it is.
#include "kernels/arrange.h"

#include <algorithm>

#include "kernels/cuda/mxfp4_atoms.h"

namespace tessera {

namespace {

bool has_small_scales(const Weight& w) {
  const uint8_t* scales = w.scales.as<uint8_t>();
  return std::all_of(scales, scales + w.scales.numel(), [](uint8_t e) { return e <= cuda::kAtomMaxScale; });
}

bool becomes_atoms(const Weight& w, DType activations) {
  return activations == DType::kBF16 && w.format == WeightFormat::kMxfp4 && cuda::fits_atoms(w.n, w.k) &&
         has_small_scales(w);
}

Tensor copy(const Tensor& host, DeviceContext& context, void* to) {
  context.to_device(to, host.data, host.bytes());
  Tensor out = host;
  out.data = to;
  out.device = context.device();
  return out;
}

}  // namespace

ArrangeSizes cuda_arrange_sizes(const Weight& host, DType activations) {
  if (!becomes_atoms(host, activations)) return {.bytes = host.bytes() + 512};  // each tensor is aligned to 256
  return {.bytes = cuda::atoms_bytes(host.experts, host.n, host.k) + 256, .temporary_bytes = host.bytes() + 1024};
}

Weight cuda_arrange(const Weight& host, DType activations, DeviceContext& context, Arena& arena, void* temporary) {
  Weight out = host;
  if (!becomes_atoms(host, activations)) {
    out.values = copy(host.values, context, arena.allocate(host.values.bytes()));
    if (host.scales.defined()) out.scales = copy(host.scales, context, arena.allocate(host.scales.bytes()));
    return out;
  }
  char* place = static_cast<char*>(temporary);
  Weight staged = host;
  staged.values = copy(host.values, context, place + 256);  // the first word takes the largest scale, known to fit
  staged.scales = copy(host.scales, context, place + 256 + (host.values.bytes() + 255) / 256 * 256);
  out.format = WeightFormat::kMxfp4Atoms;
  out.scales = {};
  out.values =
      arena.tensor(DType::kU8, {host.experts, host.n / cuda::kAtomRows, host.k / cuda::kAtomColumns, cuda::kAtomBytes});
  cuda::to_atoms_device(staged, out.values.as<uint8_t>(), reinterpret_cast<int*>(place), context.native_stream());
  return out;
}

}  // namespace tessera

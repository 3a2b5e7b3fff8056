// A build without CUDA has no CUDA rows, and no GPU to move weights to.
#include "core/error.h"
#include "kernels/arrange.h"
#include "kernels/table.h"

namespace tessera {

void add_cuda_kernels(Kernels&) {}

namespace {
constexpr const char* kWhy = "no CUDA in this build";
}

ArrangedBytes cuda_arranged_bytes(const Weight&, const ArrangeOptions&) {
  TS_CHECK(false, "{}", kWhy);
}

Weight cuda_arrange(const Weight&, const ArrangeOptions&, Arena&, float*&, std::vector<UploadPiece>&) {
  TS_CHECK(false, "{}", kWhy);
}

Tensor cuda_place(const Tensor&, Arena&, std::vector<UploadPiece>&) {
  TS_CHECK(false, "{}", kWhy);
}

void cuda_send(const UploadPiece&, const UploadLane::Block&, UploadLane&) {
  TS_CHECK(false, "{}", kWhy);
}

}  // namespace tessera

// A build without CUDA has no CUDA rows, and no GPU to move weights to.
#include "core/error.h"
#include "kernels/arrange.h"
#include "kernels/table.h"

namespace tessera {

void add_cuda_kernels(Kernels&) {}

ArrangeSizes cuda_arrange_sizes(const Weight&, DType) {
  TS_CHECK(false, "no CUDA in this build");
}

Weight cuda_arrange(const Weight&, DType, DeviceContext&, Arena&, void*) {
  TS_CHECK(false, "no CUDA in this build");
}

}  // namespace tessera

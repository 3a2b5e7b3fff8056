// A build without CUDA has no CUDA rows.
#include "kernels/table.h"

namespace tessera {

void add_cuda_kernels(Kernels&) {}

}  // namespace tessera

// Puts the vector rows of the best permitted instruction set into each op's table.
#include "kernels/table.h"

namespace tessera {

void add_cpu_kernels(Kernels&, CpuIsa) {}

}  // namespace tessera

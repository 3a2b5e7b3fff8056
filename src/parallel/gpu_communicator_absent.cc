// A build without CUDA.
#include "core/error.h"
#include "parallel/gpu_communicator.h"

namespace tessera {

std::unique_ptr<Communicator> make_gpu_communicator(Channel&, int, const GpuCommunicatorOptions&) {
  fail(ErrorCode::kUnsupported, "this build has no GPU code; build with the preset \"cuda\"");
}

}  // namespace tessera

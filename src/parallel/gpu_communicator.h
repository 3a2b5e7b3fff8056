// The communicator of ranks that have a GPU each. Between GPUs of one host that reach each other's memory, messages are
// pushed straight into it ("peer"); NCCL, opened at run time, takes large ones and everything between hosts ("nccl").
// Builds without CUDA link gpu_communicator_absent.cc.
#pragma once

#include <memory>

#include "parallel/channel.h"
#include "parallel/communicator.h"

namespace tessera {

struct GpuCommunicatorOptions {
  bool peer = true;           // off: NCCL for everything
  bool nccl = true;           // off: never opened
  double wait_seconds = 120;  // a kernel that waited so long for another rank gives up
};

// Every rank calls it, with the device that its thread has made current. The channel must live longer, and its loss
// ends what waits on the GPU: it listens to the channel's on_loss. Throws kUnsupported, on every rank and with what
// each of them lacks, when there is no way.
std::unique_ptr<Communicator> make_gpu_communicator(Channel& channel, int device,
                                                    const GpuCommunicatorOptions& options = {});

}  // namespace tessera

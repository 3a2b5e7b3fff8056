// One thread's way of feeding a GPU: two pinned blocks, one of which is filled while the other travels, each, where
// bytes are re-arranged on arrival, with as much device memory beside it. Used by one thread.
#pragma once

#include <cstdint>
#include <memory>

#include "core/device_context.h"

namespace tessera {

class UploadLane {
 public:
  // Every address of a block is 256-byte aligned.
  struct Block {
    char* host = nullptr;
    char* device = nullptr;  // null without device blocks
  };
  virtual ~UploadLane() = default;  // waits for what was sent

  // The block to fill next; waits until what was sent from it before has arrived.
  virtual Block begin() = 0;
  // From the block to anywhere on the device.
  virtual void send(void* to, const char* from, int64_t bytes) = 0;
  // Nothing more will be read from the block, by send() or by kernels on the lane's stream.
  virtual void end() = 0;
  virtual void finish() = 0;                // waits for everything; throws kIo on a fault of the device
  virtual void* native_stream() const = 0;  // cudaStream_t
};

// Both are of the context's device; throws kOutOfMemory, kIo. Thread-safe. REQUIRES: a GPU.
std::unique_ptr<UploadLane> make_upload_lane(DeviceContext& context, int64_t block_bytes, bool device_blocks);

}  // namespace tessera

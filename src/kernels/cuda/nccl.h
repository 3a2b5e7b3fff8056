// NCCL, opened at run time: one communicator of some ranks. Used by one thread, but for abort().
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/tensor.h"
#include "parallel/channel.h"

namespace tessera::cuda {

class Nccl {
 public:
  // Every rank of the channel calls it; members share. Null on every rank when one cannot open the library, with `why`.
  static std::unique_ptr<Nccl> make(Channel& channel, std::span<const int> members, std::string* why);
  ~Nccl();
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;

  void all_reduce(const Tensor& x, void* stream);
  void all_gather(const Tensor& mine, void* all, void* stream);
  void broadcast(const Tensor& x, int root, void* stream);
  // Bytes at `from + send_at[r]` go to rank r, and what comes from it to `to + receive_at[r]`.
  struct Part {
    int64_t at = 0;
    int64_t bytes = 0;
  };
  void exchange(const char* from, std::span<const Part> send, char* to, std::span<const Part> receive, void* stream);

  // Ends what waits in it. Any thread, once or more.
  void abort() noexcept;
  // Throws kIo when NCCL itself reports a failure.
  void check();

 private:
  Nccl() = default;
  void* comm() const;  // throws kIo after an abort, which frees it
  void* comm_ = nullptr;
  std::atomic<bool> aborted_{false};
};

}  // namespace tessera::cuda

// Communicator: what the ranks along one axis of the mesh say to each other about tensors. Every rank makes the same
// calls in the same order. A sum has the same bits on all ranks, and the same bits in every run.
//
// Used by one thread a rank. On a GPU the calls put work on the stream and return, and may be recorded in a graph; on a
// CPU they return when the tensor is there. Throws kIo naming the rank when one is lost.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "core/tensor.h"

namespace tessera {

// Bytes this rank sent to others, by what they were for.
struct Traffic {
  int64_t all_reduce = 0;
  int64_t all_gather = 0;
  int64_t all_to_all = 0;
  int64_t broadcast = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual std::string_view name() const = 0;  // "threads", "mpi", "peer", "nccl"
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // x becomes the sum over ranks. F32 or BF16 (summed in F32, rounded once); contiguous; `stream` as Stream::native.
  virtual void all_reduce(const Tensor& x, void* stream) = 0;
  // all [size, ...] gets every rank's mine, in rank order. Any dtype.
  virtual void all_gather(const Tensor& mine, const Tensor& all, void* stream) = 0;
  // Row i of the list goes to rank r by send_rows[r] rows after another, rank order; receive likewise. Rows of any
  // dtype; the counts are known on the host.
  virtual void all_to_all(const Tensor& send, std::span<const int64_t> send_rows, const Tensor& receive,
                          std::span<const int64_t> receive_rows, void* stream) = 0;
  virtual void broadcast(const Tensor& x, int root, void* stream) = 0;
  virtual void barrier() = 0;

  // A communicator of the ranks that gave the same colour, in the order of their ranks here. Every rank calls it.
  virtual std::unique_ptr<Communicator> split(int colour) = 0;

  // This rank cannot go on: every call of the others, here and in what was split off, throws kIo with this cause. The
  // only call that any thread may make.
  virtual void abort(std::string_view cause) noexcept = 0;
  // Throws kIo when a rank was lost. On a GPU for when the stream was waited for: after a loss collectives end early,
  // and their results mean nothing.
  virtual void check() = 0;

  virtual const Traffic& traffic() const = 0;
};

}  // namespace tessera

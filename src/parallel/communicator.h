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

// Tokens on their way to the ranks that hold their experts, and back. Groups of ranks (as many in each) hold the same
// tokens; rank r of R holds experts share(experts, R, r).
struct TokenRoutes {
  Tensor indices;                         // I32 [T, A]: this group's
  Tensor weights;                         // F32 [T, A]
  Tensor live;                            // I32 [1]: the first so many of T are tokens, the others go nowhere
  std::span<const int64_t> group_tokens;  // T of every group
  int64_t experts = 0;
};

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

  // Where routing is known on the device alone: without it, callers exchange ids and use all_to_all.
  virtual bool dispatches() const { return false; }
  // x [T, H] to inbox [N, H], N tokens of all groups one after another: each is sent once to every rank that holds one
  // of its experts. Of tokens that do not come here, ids [N, A] are -1 and rows may be left as they were.
  virtual void dispatch(const TokenRoutes& routes, const Tensor& x, const Tensor& inbox, const Tensor& ids,
                        const Tensor& weights, void* stream);
  // The way back, with the ids that came: answers [N, H] become out [T, H], the sum in rank order of what those ranks
  // computed; zeros for what is no token. On all ranks of the group.
  virtual void combine(const TokenRoutes& routes, const Tensor& answers, const Tensor& ids, const Tensor& out,
                       void* stream);
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

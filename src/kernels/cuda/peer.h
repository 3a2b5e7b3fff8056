// Memory of a rank that the other ranks' GPUs write into, and the collectives over it.
//
// A region holds, for each of two turns, what each rank sends: packets (8 bytes of data, each half with the call's
// number beside it, so that data is its own signal) for small messages, and plain halves with flags for large ones.
// Turns alternate from call to call. In every call each rank hears from every other one, so a rank that is two calls
// ahead knows that all have read what it is about to overwrite. The call's number lives in device memory: a recorded
// graph may be launched any number of times, if all ranks launch the same.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "kernels/cuda/shared_memory.h"
#include "parallel/channel.h"
#include "parallel/communicator.h"

namespace tessera::cuda {

constexpr int kMaxPeers = 8;
constexpr int kMaxPeerBlocks = 128;

// What kernels get. Offsets are bytes from a region's start and alike on all ranks.
struct PeerView {
  int rank = 0;
  int size = 1;
  char* region[kMaxPeers] = {};
  char* own = nullptr;         // region[rank]
  int64_t packet_bytes = 0;    // data of one message in packets; it takes twice that
  int64_t one_step_bytes = 0;  // sums up to here are done in packets
  int64_t bulk_bytes = 0;      // data of one message in halves
  int64_t packets_at = 0, presence_at = 0, scatter_at = 0, gather_at = 0, flags_at = 0;
  uint64_t* call = nullptr;         // number of the last call << 32 | blocks of this one that know it; own memory
  uint32_t* gave_up = nullptr;      // own memory
  int64_t* sent = nullptr;          // own memory: bytes of rows that were dispatched and answered
  const uint32_t* abort = nullptr;  // host memory, set by the host: a rank is lost
  uint32_t* timed_out = nullptr;    // host memory, read by the host
  uint64_t wait_nanoseconds = 0;
};

// Which bytes of a message go to whom, and where what arrives goes.
struct PeerExchange {
  const char* from = nullptr;
  char* to = nullptr;
  int64_t send_at[kMaxPeers] = {}, send_bytes[kMaxPeers] = {};
  int64_t receive_at[kMaxPeers] = {}, receive_bytes[kMaxPeers] = {};
};

// TokenRoutes as kernels get them. Experts are shared out as share(experts, size, r) does.
struct PeerTokens {
  const int32_t* ids = nullptr;    // [T, active]: this group's
  const float* weights = nullptr;  // [T, active]
  const int32_t* live = nullptr;   // [1]
  int active = 0;
  int groups = 1, group_ranks = 1, group = 0;         // rank r is of group r / group_ranks; this rank's
  int tokens[kMaxPeers] = {}, start[kMaxPeers] = {};  // of each group, and how many lie before them
  int each = 0, more = 0;                             // experts of a rank; so many ranks have one more
};

// Words of host memory that a kernel which waits looks at.
struct PeerSignals {
  uint32_t* abort = nullptr;
  uint32_t* timed_out = nullptr;
};

// The regions of some ranks of a channel, mapped into this process.
class PeerMemory {
 public:
  // members: the channel's ranks that share. Every rank of the channel calls it. When a rank cannot reach another's
  // memory, `why` gets the same text everywhere and the result is null.
  static std::unique_ptr<PeerMemory> make(Channel& channel, std::span<const int> members, int device,
                                          PeerSignals signals, double wait_seconds, std::string* why);
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;
  const PeerView& view() const { return view_; }

 private:
  PeerMemory() = default;
  struct Offer;
  void share(std::span<const Offer> offers, int device, FdPost& post);

  PeerView view_;
  SharedMemory own_;
  std::vector<SharedMemory> theirs_;  // kept by what is mapped here: a rank that is lost takes nothing away
};

// A sum that is part of a norm's launch is of so many tokens at most: more are as fast apart, and keep the collective
// out of long rows of blocks.
constexpr int64_t kMaxNormedTokens = 256;

// Puts x's sum over ranks in its place; F32 or BF16. At most bulk_bytes (peer_all_reduce splits larger ones).
void peer_all_reduce(const PeerView& view, const Tensor& x, void* stream);
// Messages of at most packet_bytes each.
void peer_exchange(const PeerView& view, const PeerExchange& exchange, void* stream);

// Communicator::dispatch and combine, in one launch each while the tokens of a group fit into packets (84 rows of 2880
// BF16), else in rounds of some MiB.
void peer_dispatch(const PeerView& view, const PeerTokens& tokens, const Tensor& x, const Tensor& inbox,
                   const Tensor& ids, const Tensor& weights, void* stream);
void peer_combine(const PeerView& view, const PeerTokens& tokens, const Tensor& answers, const Tensor& ids,
                  const Tensor& out, void* stream);

class PeerCommunicator : public Communicator {
 public:
  virtual const PeerView* view() const = 0;  // null: the ranks do not reach each other's memory
};

// The view of a communicator that works through peer memory, else null. (Kernels ask here, not the communicator's own
// file, so that the library of exported kernels takes nothing of it.)
inline const PeerView* peer_view(const Communicator* communicator) {
  const auto* peer = dynamic_cast<const PeerCommunicator*>(communicator);
  return peer == nullptr ? nullptr : peer->view();
}

}  // namespace tessera::cuda

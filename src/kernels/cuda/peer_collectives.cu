// Sums and exchanges through peer memory: one step in packets for small messages, two with flags for large ones.
#include <algorithm>

#include "kernels/cuda/device/peer.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/launch.h"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 512;

// Every rank sends everything to everyone, and sums for itself in rank order.
template <class T, int kPeers>
__global__ void __launch_bounds__(kThreads) sum_packets(PeerView v, T* x, int64_t n) {
  wait_for_previous_grid();
  allow_next_grid();
  const uint32_t call = begin_call(v);
  const int64_t vectors = (n * static_cast<int64_t>(sizeof(T)) + 15) / 16;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = first; i < vectors; i += stride) push_vector<kPeers>(v, call, i, load_part(x, i, n));
  for (int64_t i = first; i < vectors; i += stride) {
    uint4 all[kPeers];
    pull_vectors<kPeers>(v, call, i, load_part(x, i, n), all);
    float sum[16 / sizeof(T)];
    sum_vectors<T, kPeers>(all, v.size, sum);
    store_part(x, i, n, to_vector<T>(sum));
  }
}

// Rank r sums slice r of all ranks, then sends it to all. A block does the same part of every slice on every rank.
template <class T, int kPeers>
__global__ void __launch_bounds__(kThreads) sum_slices(PeerView v, T* x, int64_t n) {
  wait_for_previous_grid();
  allow_next_grid();
  const uint32_t call = begin_call(v);
  const int64_t vectors = (n * static_cast<int64_t>(sizeof(T)) + 15) / 16, room = v.bulk_bytes / 16;
  const int64_t half = (call & 1) * room;
  auto slice = [&](int r) { return vectors * r / v.size; };
  auto part = [&](int r, int64_t block) { return slice(r) + (slice(r + 1) - slice(r)) * block / gridDim.x; };
  // A rank's slice comes from every other rank: they lie one behind another.
  const int64_t widest = (vectors + v.size - 1) / v.size;
  auto scatter = [&](char* region, int owner, int from, int64_t i) {
    return reinterpret_cast<uint4*>(region + v.scatter_at) + half + from * widest + (i - slice(owner));
  };
  auto gather = [&](char* region, int64_t i) { return reinterpret_cast<uint4*>(region + v.gather_at) + half + i; };
  for (int step = 1; step < v.size; ++step) {
    const int p = (v.rank + step) % v.size;
    for (int64_t i = part(p, blockIdx.x) + threadIdx.x; i < part(p, blockIdx.x + 1); i += kThreads)
      *scatter(v.region[p], p, v.rank, i) = load_part(x, i, n);
  }
  meet(v, call, 0);
  for (int64_t i = part(v.rank, blockIdx.x) + threadIdx.x; i < part(v.rank, blockIdx.x + 1); i += kThreads) {
    uint4 all[kPeers];
#pragma unroll
    for (int p = 0; p < kPeers; ++p) {
      if (p >= v.size) continue;
      all[p] = p == v.rank ? load_part(x, i, n) : __ldcv(scatter(v.own, v.rank, p, i));
    }
    float sum[16 / sizeof(T)];
    sum_vectors<T, kPeers>(all, v.size, sum);
    const uint4 total = to_vector<T>(sum);
    store_part(x, i, n, total);
#pragma unroll
    for (int p = 0; p < kPeers; ++p)
      if (p < v.size && p != v.rank) *gather(v.region[p], i) = total;
  }
  meet(v, call, 1);
  for (int p = 0; p < v.size; ++p) {
    if (p == v.rank) continue;
    for (int64_t i = part(p, blockIdx.x) + threadIdx.x; i < part(p, blockIdx.x + 1); i += kThreads)
      store_part(x, i, n, __ldcv(gather(v.own, i)));
  }
}

// Ranks send each other what they have for each other. A rank with nothing to say still says that it is there.
__global__ void __launch_bounds__(kThreads) exchange_packets(PeerView v, PeerExchange e) {
  wait_for_previous_grid();
  allow_next_grid();
  const uint32_t call = begin_call(v);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  auto presence = [&](char* region, int from) { return region + v.presence_at + ((call & 1) * v.size + from) * 16; };
  if (first < v.size && first != v.rank) store_packet(presence(v.region[first], v.rank), 0, 0, call);
  using Byte = uint8_t;
  for (int p = 0; p < v.size; ++p) {
    const Byte* from = reinterpret_cast<const Byte*>(e.from) + e.send_at[p];
    for (int64_t i = first; i * 16 < e.send_bytes[p]; i += stride) {
      const uint4 data = load_part(from, i, e.send_bytes[p]);
      if (p == v.rank) {
        store_part(reinterpret_cast<Byte*>(e.to) + e.receive_at[p], i, e.receive_bytes[p], data);
      } else {
        push_packets(packets(v, v.region[p], v.rank, call) + packet_at(i, 0), data, call);
      }
    }
  }
  Patience patience(v);
  for (int p = 0; p < v.size; ++p) {
    if (p == v.rank) continue;
    Byte* to = reinterpret_cast<Byte*>(e.to) + e.receive_at[p];
    for (int64_t i = first; i * 16 < e.receive_bytes[p]; i += stride) {
      store_part(to, i, e.receive_bytes[p], pull_packets(packets(v, v.own, p, call) + packet_at(i, 0), call, patience));
    }
  }
  if (first < v.size && first != v.rank) {
    uint4 there;
    do there = load_packet(presence(v.own, static_cast<int>(first)));
    while ((there.y != call || there.w != call) && !patience.exhausted());
  }
}

dim3 blocks_for(int64_t vectors, int64_t most) {
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(ceil_div(vectors, kThreads), 1, most)));
}

template <class T>
void sum(const PeerView& view, T* x, int64_t n, const Stream& stream) {
  const int64_t bytes = n * static_cast<int64_t>(sizeof(T)), vectors = ceil_div(bytes, 16);
  dispatch_peers(view.size, [&](auto peers) {
    constexpr int kPeers = decltype(peers)::value;
    if (bytes <= view.one_step_bytes) {
      launch("all_reduce", sum_packets<T, kPeers>, blocks_for(vectors, kMaxPeerBlocks), dim3(kThreads), 0, stream, view,
             x, n);
      return;
    }
    const int64_t most = view.bulk_bytes / static_cast<int64_t>(sizeof(T)) - 16 * kMaxPeers;
    for (int64_t done = 0; done < n; done += most) {
      const int64_t now = std::min(most, n - done);
      launch("all_reduce", sum_slices<T, kPeers>,
             blocks_for(ceil_div(now * static_cast<int64_t>(sizeof(T)), 16 * view.size), kMaxPeerBlocks),
             dim3(kThreads), 0, stream, view, x + done, now);
    }
  });
}

}  // namespace

void peer_all_reduce(const PeerView& view, const Tensor& x, void* native) {
  Stream stream;
  stream.native = native;
  if (x.numel() == 0) return;
  if (x.dtype == DType::kF32) return sum(view, x.as<float>(), x.numel(), stream);
  TS_CHECK(x.dtype == DType::kBF16, "a sum over ranks is F32 or BF16, not {}", dtype_name(x.dtype));
  sum(view, x.as<__nv_bfloat16>(), x.numel(), stream);
}

void peer_exchange(const PeerView& view, const PeerExchange& exchange, void* native) {
  Stream stream;
  stream.native = native;
  int64_t largest = 0;
  for (int p = 0; p < view.size; ++p) largest = std::max({largest, exchange.send_bytes[p], exchange.receive_bytes[p]});
  launch("exchange", exchange_packets, blocks_for(ceil_div(largest, 16), 32), dim3(kThreads), 0, stream, view, exchange);
}

}  // namespace tessera::cuda

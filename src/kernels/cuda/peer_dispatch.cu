// Tokens to the ranks that hold their experts, and the answers back, through peer memory: rows and ids straight into the
// receivers' memory, in packets for few tokens and in halves with flags for many. Who needs what is read on the device,
// every place is fixed by a token's number, and the host waits for nothing.
#include <algorithm>

#include "kernels/cuda/device/peer.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/launch.h"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kFewBytes = 512 << 10;  // of rows that travel in packets

// One round of a call: tokens [begin, end) of every group, as far as it has so many.
struct Round {
  PeerTokens t;
  int begin, end;
  int vectors;           // 16 bytes each, of a row
  int64_t room;          // of one sender, of many tokens
  int64_t* sent;         // bytes of rows, own memory
};

__device__ __forceinline__ int owner_of(const PeerTokens& t, int expert) {
  const int wide = t.more * (t.each + 1);
  return expert < wide ? expert / (t.each + 1) : t.more + (expert - wide) / t.each;
}
// A bit for each rank that holds an expert of this group's token.
__device__ __forceinline__ uint32_t owners_of(const PeerTokens& t, int token) {
  uint32_t owners = 0;
  if (token >= *t.live) return 0;
  for (int a = 0; a < t.active; ++a) owners |= 1u << owner_of(t, t.ids[token * t.active + a]);
  return owners;
}
__device__ __forceinline__ int end_of(const Round& r, int group) {
  return min(r.end, r.t.tokens[group]);
}

// A rank with nothing to say still says that it is there: in every call each hears from each.
__device__ __forceinline__ char* presence(const PeerView& v, char* region, int from, uint32_t call) {
  return region + v.presence_at + ((call & 1) * v.size + from) * 16;
}
__device__ __forceinline__ void say_present(const PeerView& v, uint32_t call) {
  const int p = static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0 && p < v.size && p != v.rank) store_packet(presence(v, v.region[p], v.rank, call), 0, 0, call);
}
__device__ __forceinline__ void hear_all(const PeerView& v, uint32_t call) {
  const int p = static_cast<int>(threadIdx.x);
  if (blockIdx.x != 0 || p >= v.size || p == v.rank) return;
  Patience patience(v);
  uint4 there;
  do there = load_packet(presence(v, v.own, p, call));
  while ((there.y != call || there.w != call) && !patience.exhausted());
}
// The packets of a row.
__host__ __device__ constexpr int64_t packets_bytes(int vectors) {
  return (vectors + 31) / 32 * 1024;
}


// Where rank `from`'s rows, or ids and weights, of many tokens lie in a region.
__device__ __forceinline__ uint4* many_rows(const PeerView& v, const Round& r, char* region, int from, int token,
                                            uint32_t call) {
  char* at = region + v.scatter_at + (call & 1) * v.bulk_bytes + from * r.room;
  return reinterpret_cast<uint4*>(at) + static_cast<int64_t>(token - r.begin) * r.vectors;
}
__device__ __forceinline__ int2* many_ids(const PeerView& v, const Round& r, char* region, int from, int token,
                                          uint32_t call) {
  char* at = region + v.gather_at + (call & 1) * v.bulk_bytes + from * r.room;
  return reinterpret_cast<int2*>(at) + static_cast<int64_t>(token - r.begin) * r.t.active;
}
__device__ __forceinline__ char* few_slot(const PeerView& v, const Round& r, char* region, int from, int token,
                                          uint32_t call, int ids) {
  return packets(v, region, from, call) + static_cast<int64_t>(token - r.begin) * (packets_bytes(r.vectors) + ids * 16);
}

struct DispatchTo {
  const uint4* x;
  uint4* inbox;
  int32_t* ids;
  float* weights;
};

// A group's own tokens need no sending within it.
__device__ __forceinline__ void keep_own(const PeerView& v, const Round& r, const DispatchTo& d, int token,
                                         uint32_t owners) {
  const PeerTokens& t = r.t;
  const int64_t row = t.start[t.group] + token;
  for (int a = static_cast<int>(threadIdx.x); a < t.active; a += blockDim.x) {
    const int id = owners != 0 ? t.ids[token * t.active + a] : -1;
    d.ids[row * t.active + a] = id >= 0 && owner_of(t, id) == v.rank ? id : -1;
    d.weights[row * t.active + a] = t.weights[token * t.active + a];
  }
  if ((owners >> v.rank & 1) == 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < r.vectors; i += blockDim.x)
    d.inbox[row * r.vectors + i] = d.x[static_cast<int64_t>(token) * r.vectors + i];
}

template <bool kMany>
__global__ void __launch_bounds__(kThreads) dispatch_tokens(PeerView v, Round r, DispatchTo d) {
  wait_for_previous_grid();
  allow_next_grid();
  const uint32_t call = begin_call(v);
  if (!kMany) say_present(v, call);
  const PeerTokens& t = r.t;
  const int first = r.begin + static_cast<int>(blockIdx.x), me = static_cast<int>(threadIdx.x);
  int64_t sent = 0;
  for (int token = first; token < end_of(r, t.group); token += gridDim.x) {
    const uint32_t owners = owners_of(t, token);
    keep_own(v, r, d, token, owners);
    if (token % t.group_ranks != v.rank % t.group_ranks) continue;  // another of the group sends it
    for (int p = 0; p < v.size; ++p) {
      if (p / t.group_ranks == t.group) continue;
      const bool needs = (owners >> p & 1) != 0;
      char* slot = few_slot(v, r, v.region[p], v.rank, token, call, t.active);
      for (int a = me; a < t.active; a += blockDim.x) {
        int id = needs ? t.ids[token * t.active + a] : -1;
        if (id >= 0 && owner_of(t, id) != p) id = -1;
        const int weight = __float_as_int(t.weights[token * t.active + a]);
        if (kMany) {
          many_ids(v, r, v.region[p], v.rank, token, call)[a] = make_int2(id, weight);
        } else {
          store_packet(slot + a * 16, static_cast<uint32_t>(id), static_cast<uint32_t>(weight), call);
        }
      }
      if (!needs) continue;
      for (int i = me; i < r.vectors; i += blockDim.x) {
        const uint4 data = d.x[static_cast<int64_t>(token) * r.vectors + i];
        if (kMany) {
          many_rows(v, r, v.region[p], v.rank, token, call)[i] = data;
        } else {
          push_packets(slot + t.active * 16 + packet_at(i, 0), data, call);
        }
      }
      sent += r.vectors * 16;
    }
  }
  if (me == 0 && sent > 0) atomicAdd(reinterpret_cast<unsigned long long*>(r.sent), static_cast<unsigned long long>(sent));
  if (kMany) meet(v, call, 0);
  Patience patience(v);
  for (int g = 0; g < t.groups; ++g) {
    if (g == t.group) continue;
    for (int token = first; token < end_of(r, g); token += gridDim.x) {
      const int home = g * t.group_ranks + token % t.group_ranks;
      const int64_t row = t.start[g] + token;
      const char* slot = few_slot(v, r, v.own, home, token, call, t.active);
      bool needed = false;
      for (int a = me; a < t.active; a += blockDim.x) {
        int2 said;
        if (kMany) {
          const int2* at = many_ids(v, r, v.own, home, token, call) + a;
          said = make_int2(__ldcv(&at->x), __ldcv(&at->y));
        } else {
          uint4 packet;
          do packet = load_packet(slot + a * 16);
          while ((packet.y != call || packet.w != call) && !patience.exhausted());
          said = make_int2(static_cast<int>(packet.x), static_cast<int>(packet.z));
          if (packet.y != call) said.x = -1;  // gave up
        }
        d.ids[row * t.active + a] = said.x;
        d.weights[row * t.active + a] = __int_as_float(said.y);
        needed = needed || said.x >= 0;
      }
      if (!__syncthreads_or(needed)) continue;
      for (int i = me; i < r.vectors; i += blockDim.x)
        d.inbox[row * r.vectors + i] = kMany ? __ldcv(many_rows(v, r, v.own, home, token, call) + i)
                                             : pull_packets(slot + t.active * 16 + packet_at(i, 0), call, patience);
    }
  }
  if (!kMany) hear_all(v, call);
}

struct CombineFrom {
  const uint4* answers;
  const int32_t* ids;  // those that dispatch wrote
  uint4* out;
};

template <class T, int kPeers, bool kMany>
__global__ void __launch_bounds__(kThreads) combine_answers(PeerView v, Round r, CombineFrom c) {
  wait_for_previous_grid();
  allow_next_grid();
  const uint32_t call = begin_call(v);
  if (!kMany) say_present(v, call);
  const PeerTokens& t = r.t;
  const int first = r.begin + static_cast<int>(blockIdx.x), me = static_cast<int>(threadIdx.x);
  int64_t sent = 0;
  for (int g = 0; g < t.groups; ++g) {
    for (int token = first; token < end_of(r, g); token += gridDim.x) {
      const int64_t row = t.start[g] + token;
      bool here = false;
      for (int a = 0; a < t.active; ++a) here = here || c.ids[row * t.active + a] >= 0;
      if (!here) continue;
      for (int p = g * t.group_ranks; p < (g + 1) * t.group_ranks; ++p) {
        if (p == v.rank) continue;
        char* slot = few_slot(v, r, v.region[p], v.rank, token, call, 0);
        for (int i = me; i < r.vectors; i += blockDim.x) {
          const uint4 data = c.answers[row * r.vectors + i];
          if (kMany) {
            many_rows(v, r, v.region[p], v.rank, token, call)[i] = data;
          } else {
            push_packets(slot + packet_at(i, 0), data, call);
          }
        }
        sent += r.vectors * 16;
      }
    }
  }
  if (me == 0 && sent > 0) atomicAdd(reinterpret_cast<unsigned long long*>(r.sent), static_cast<unsigned long long>(sent));
  if (kMany) meet(v, call, 0);
  Patience patience(v);
  for (int token = first; token < end_of(r, t.group); token += gridDim.x) {
    const uint32_t owners = owners_of(t, token);
    const int64_t row = t.start[t.group] + token;
    for (int i = me; i < r.vectors; i += blockDim.x) {
      float sum[16 / sizeof(T)] = {};
#pragma unroll
      for (int p = 0; p < kPeers; ++p) {
        if ((owners >> p & 1) == 0) continue;
        const uint4 part = p == v.rank ? c.answers[row * r.vectors + i]
                           : kMany     ? __ldcv(many_rows(v, r, v.own, p, token, call) + i)
                                   : pull_packets(few_slot(v, r, v.own, p, token, call, 0) + packet_at(i, 0), call, patience);
        const T* x = reinterpret_cast<const T*>(&part);
#pragma unroll
        for (int j = 0; j < static_cast<int>(16 / sizeof(T)); ++j) sum[j] += to_float(x[j]);
      }
      c.out[static_cast<int64_t>(token) * r.vectors + i] = to_vector<T>(sum);
    }
  }
  if (!kMany) hear_all(v, call);
}

// Calls f(round, few) for each round: all ranks make the same ones.
template <class F>
void in_rounds(const PeerView& v, const PeerTokens& t, int64_t row_bytes, F&& f) {
  int most = 0;
  for (int g = 0; g < t.groups; ++g) most = std::max(most, t.tokens[g]);
  const bool few = most <= 2 * std::min(v.packet_bytes, kFewBytes) / (packets_bytes(static_cast<int>(row_bytes / 16)) + t.active * 16);
  Round r{.t = t, .begin = 0, .end = most, .vectors = static_cast<int>(row_bytes / 16), .sent = v.sent};
  r.room = v.bulk_bytes / v.size / 256 * 256;
  const int64_t at_once = few ? most : std::min(r.room / row_bytes, r.room / (8 * t.active));
  TS_CHECK(at_once > 0, "rows of {} bytes do not fit into peer memory", row_bytes);
  for (int begin = 0; begin < most; begin += static_cast<int>(at_once)) {
    r.begin = begin, r.end = static_cast<int>(std::min<int64_t>(most, begin + at_once));
    f(r, few);
  }
}

dim3 blocks_of(const Round& r) {
  return dim3(static_cast<unsigned>(std::min(r.end - r.begin, kMaxPeerBlocks)));
}
dim3 threads_of(const Round& r) {
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(ceil_div(r.vectors, 32) * 32, 32, kThreads)));
}

int64_t row_bytes(const Tensor& x) {
  const int64_t bytes = x.dim(1) * dtype_size(x.dtype);
  if (bytes % 16 != 0) fail(ErrorCode::kUnsupported, "a token of {} bytes cannot be dispatched in parts of 16", bytes);
  return bytes;
}

}  // namespace

void peer_dispatch(const PeerView& view, const PeerTokens& tokens, const Tensor& x, const Tensor& inbox,
                   const Tensor& ids, const Tensor& weights, void* native) {
  Stream stream;
  stream.native = native;
  const DispatchTo to{x.as<uint4>(), inbox.as<uint4>(), ids.i32(), weights.f32()};
  in_rounds(view, tokens, row_bytes(x), [&](const Round& r, bool few) {
    auto* kernel = few ? dispatch_tokens<false> : dispatch_tokens<true>;
    launch("dispatch", kernel, blocks_of(r), threads_of(r), 0, stream, view, r, to);
  });
}

void peer_combine(const PeerView& view, const PeerTokens& tokens, const Tensor& answers, const Tensor& ids,
                  const Tensor& out, void* native) {
  Stream stream;
  stream.native = native;
  const CombineFrom from{answers.as<uint4>(), ids.i32(), out.as<uint4>()};
  auto go = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    dispatch_peers(view.size, [&](auto peers) {
      constexpr int kPeers = decltype(peers)::value;
      in_rounds(view, tokens, row_bytes(out), [&](const Round& r, bool few) {
        auto* kernel = few ? combine_answers<T, kPeers, false> : combine_answers<T, kPeers, true>;
        launch("combine", kernel, blocks_of(r), threads_of(r), 0, stream, view, r, from);
      });
    });
  };
  if (out.dtype == DType::kF32) return go(static_cast<float*>(nullptr));
  TS_CHECK(out.dtype == DType::kBF16, "answers are F32 or BF16, not {}", dtype_name(out.dtype));
  go(static_cast<__nv_bfloat16*>(nullptr));
}

}  // namespace tessera::cuda

// How a kernel talks to the other ranks' memory (kernels/cuda/peer.h).
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/peer.h"

namespace tessera::cuda {

__device__ __forceinline__ void store_packet(void* to, uint32_t a, uint32_t b, uint32_t call) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(a), "r"(call), "r"(b), "r"(call)
               : "memory");
}
__device__ __forceinline__ uint4 load_packet(const void* from) {
  uint4 v;
  asm volatile("ld.volatile.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}
// Everything this block wrote before its last barrier is visible to whoever acquires the flag.
__device__ __forceinline__ void store_release(uint32_t* to, uint32_t v) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(v) : "memory");
}
__device__ __forceinline__ uint32_t load_acquire(const uint32_t* from) {
  uint32_t v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}
__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}

// The number of the call after `last`. Never 0, which is what fresh memory holds; a call's turn is its lowest bit.
__device__ __forceinline__ uint32_t call_after(uint32_t last) {
  return last == 0xffffffffu ? 2u : last + 1;
}
__device__ __forceinline__ uint32_t this_call(const PeerView& v) {
  return call_after(static_cast<uint32_t>(*reinterpret_cast<const volatile uint64_t*>(v.call) >> 32));
}
// Said by one thread a block, once its block knows the number: the last one counts it up for the next call.
__device__ __forceinline__ void leave_call(const PeerView& v, uint32_t call) {
  const uint32_t blocks = gridDim.x * gridDim.y;
  if (blocks > 1) {
    const uint64_t before = atomicAdd(reinterpret_cast<unsigned long long*>(v.call), 1ull);
    if (static_cast<uint32_t>(before) != blocks - 1) return;
  }
  *reinterpret_cast<volatile uint64_t*>(v.call) = static_cast<uint64_t>(call) << 32;
}
// Both, at a kernel's start: all threads call it.
__device__ __forceinline__ uint32_t begin_call(const PeerView& v) {
  const uint32_t call = this_call(v);
  __syncthreads();
  if (threadIdx.x == 0) leave_call(v, call);
  return call;
}

// Polling with an end: a rank that is lost, or silent for too long, must not hold this GPU.
class Patience {
 public:
  __device__ __forceinline__ explicit Patience(const PeerView& v) : v_(v) {}
  // Called after every poll that was in vain; true: give up.
  __device__ __forceinline__ bool exhausted() {
    if ((++polls_ & 1023u) != 0) return gave_up_;
    if (since_ == 0) since_ = nanoseconds();
    const bool late = nanoseconds() - since_ > v_.wait_nanoseconds;
    gave_up_ = late || *reinterpret_cast<volatile uint32_t*>(v_.gave_up) != 0 ||
               *reinterpret_cast<const volatile uint32_t*>(v_.abort) != 0;
    if (gave_up_) *reinterpret_cast<volatile uint32_t*>(v_.gave_up) = 1;
    if (late) *reinterpret_cast<volatile uint32_t*>(v_.timed_out) = 1;
    return gave_up_;
  }

 private:
  const PeerView& v_;
  uint32_t polls_ = 0;
  uint64_t since_ = 0;
  bool gave_up_ = false;
};

// Flag of block blockIdx.x of rank `from` in a region; step 0 or 1.
__device__ __forceinline__ uint32_t* flag(const PeerView& v, char* region, int from, int step) {
  return reinterpret_cast<uint32_t*>(region + v.flags_at) + (step * v.size + from) * kMaxPeerBlocks + blockIdx.x;
}
// Tells every rank that this block is through with a step, and waits until theirs are. All threads call.
__device__ __forceinline__ void meet(const PeerView& v, uint32_t call, int step) {
  __syncthreads();
  const int p = static_cast<int>(threadIdx.x);
  if (p < v.size && p != v.rank) {
    store_release(flag(v, v.region[p], v.rank, step), call);
    Patience patience(v);
    auto met = [&] {  // who is quick may be in the next call already, but no further: it waits for this rank there
      const uint32_t said = load_acquire(flag(v, v.own, p, step));
      return said == call || said == call_after(call);
    };
    while (!met())
      if (patience.exhausted()) break;
  }
  __syncthreads();
}

// Where rank `from`'s packets of this call lie in a region.
__device__ __forceinline__ char* packets(const PeerView& v, char* region, int from, uint32_t call) {
  return region + v.packets_at + ((call & 1) * v.size + from) * 2 * v.packet_bytes;
}
// Where among them the packet with half 0 or 1 of vector `i` lies: the first halves of 32 vectors, then the second ones, so
// that a warp's store is 512 bytes in a row and not every other 16.
constexpr int kSecondHalf = 512;
__device__ __forceinline__ int64_t packet_at(int64_t i, int half) {
  return i / 32 * 1024 + half * kSecondHalf + i % 32 * 16;
}

// 16 bytes, at packet_at(i, 0) of a message.
__device__ __forceinline__ void push_packets(char* to, uint4 data, uint32_t call) {
  store_packet(to, data.x, data.y, call);
  store_packet(to + kSecondHalf, data.z, data.w, call);
}
__device__ __forceinline__ uint4 pull_packets(const char* from, uint32_t call, Patience& patience) {
  uint4 a, b;
  do a = load_packet(from), b = load_packet(from + kSecondHalf);
  while ((a.y != call || a.w != call || b.y != call || b.w != call) && !patience.exhausted());
  return make_uint4(a.x, a.z, b.x, b.z);
}

// Sends 16 bytes as vector `i` of this rank's message to every other rank.
template <int kPeers>
__device__ __forceinline__ void push_vector(const PeerView& v, uint32_t call, int64_t i, uint4 data) {
#pragma unroll
  for (int p = 0; p < kPeers; ++p) {
    if (p == v.rank || p >= v.size) continue;
    push_packets(packets(v, v.region[p], v.rank, call) + packet_at(i, 0), data, call);
  }
}

// The same for 4 BF16 values in two words: elements [at, at + 4) of the message, at a multiple of 4.
__device__ __forceinline__ void push_quad(const PeerView& v, uint32_t call, int64_t at, uint32_t a, uint32_t b) {
  for (int p = 0; p < v.size; ++p)
    if (p != v.rank) store_packet(packets(v, v.region[p], v.rank, call) + packet_at(at / 8, at / 4 % 2), a, b, call);
}

// Vector `i` of every rank's message, this one's own given. All are asked for at once.
template <int kPeers>
__device__ __forceinline__ void pull_vectors(const PeerView& v, uint32_t call, int64_t i, uint4 own,
                                             uint4 (&all)[kPeers]) {
  Patience patience(v);
  bool whole;
  do {
    whole = true;
#pragma unroll
    for (int p = 0; p < kPeers; ++p) {
      all[p] = own;
      if (p == v.rank || p >= v.size) continue;
      const char* from = packets(v, v.own, p, call) + packet_at(i, 0);
      uint4 a = load_packet(from), b = load_packet(from + kSecondHalf);
      whole &= a.y == call && a.w == call && b.y == call && b.w == call;
      all[p] = make_uint4(a.x, a.z, b.x, b.z);
    }
  } while (!whole && !patience.exhausted());
}

// Sums in rank order.
template <class T, int kPeers>
__device__ __forceinline__ void sum_vectors(const uint4 (&all)[kPeers], int size, float (&sum)[16 / sizeof(T)]) {
  constexpr int kCount = 16 / sizeof(T);
#pragma unroll
  for (int p = 0; p < kPeers; ++p) {
    if (p >= size) continue;
    const T* x = reinterpret_cast<const T*>(&all[p]);
#pragma unroll
    for (int j = 0; j < kCount; ++j) sum[j] = p == 0 ? to_float(x[j]) : sum[j] + to_float(x[j]);
  }
}
template <class T>
__device__ __forceinline__ uint4 to_vector(const float (&x)[16 / sizeof(T)]) {
  uint4 out;
  T* o = reinterpret_cast<T*>(&out);
#pragma unroll
  for (int j = 0; j < static_cast<int>(16 / sizeof(T)); ++j) o[j] = from_float<T>(x[j]);
  return out;
}

// Vector `i` of n elements at p, zeros past the end; p need not be aligned.
template <class T>
__device__ __forceinline__ uint4 load_part(const T* p, int64_t i, int64_t n) {
  constexpr int kCount = 16 / sizeof(T);
  if (reinterpret_cast<uintptr_t>(p) % 16 == 0 && (i + 1) * kCount <= n) return reinterpret_cast<const uint4*>(p)[i];
  uint4 out = make_uint4(0, 0, 0, 0);
  T* o = reinterpret_cast<T*>(&out);
#pragma unroll
  for (int j = 0; j < kCount; ++j)
    if (i * kCount + j < n) o[j] = p[i * kCount + j];
  return out;
}
template <class T>
__device__ __forceinline__ void store_part(T* p, int64_t i, int64_t n, uint4 value) {
  constexpr int kCount = 16 / sizeof(T);
  if (reinterpret_cast<uintptr_t>(p) % 16 == 0 && (i + 1) * kCount <= n) {
    reinterpret_cast<uint4*>(p)[i] = value;
    return;
  }
  const T* v = reinterpret_cast<const T*>(&value);
#pragma unroll
  for (int j = 0; j < kCount; ++j)
    if (i * kCount + j < n) p[i * kCount + j] = v[j];
}

// Calls f with the smallest of 2, 4 and 8 (as a type) that holds `size` ranks.
template <class F>
void dispatch_peers(int size, F&& f) {
  if (size <= 2) return f(std::integral_constant<int, 2>());
  if (size <= 4) return f(std::integral_constant<int, 4>());
  f(std::integral_constant<int, kMaxPeers>());
}

}  // namespace tessera::cuda

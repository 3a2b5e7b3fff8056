// What the CUDA check-and-time program needs besides the kernels: device buffers, random operands, comparison with an F64
// reference, graph timing, and the card's own read bandwidth.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/e4m3.h"
#include "core/tensor.h"
#include "kernels/cuda/launch.h"

namespace tessera::bench {

using cuda::check;

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes) : bytes_(bytes) { check(cudaMalloc(&data_, std::max<int64_t>(bytes, 256)), "cudaMalloc"); }
  ~Buffer() { cudaFree(data_); }
  Buffer(Buffer&& o) noexcept : data_(std::exchange(o.data_, nullptr)), bytes_(o.bytes_) {}
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// A stream of 64-bit seeds: every call to next() differs, and the first is printed so that a run can be repeated.
struct Seeds {
  uint64_t state;
  uint64_t next() { return state = state * 6364136223846793005ull + 1442695040888963407ull; }
  int64_t below(int64_t n) { return static_cast<int64_t>((next() >> 33) % static_cast<uint64_t>(n)); }
};

__device__ __forceinline__ uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

template <class T>
__global__ void fill_normal_kernel(T* out, int64_t n, float std, uint64_t seed) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    uint64_t h = mix(seed ^ mix(i));
    float u = (static_cast<float>(h >> 40) + 0.5f) * 0x1p-24f;
    float a = static_cast<float>((h >> 8) & 0xffffff) * 0x1p-24f * 6.2831853f;
    out[i] = static_cast<T>(sqrtf(-2.0f * __logf(u)) * __cosf(a) * std);
  }
}

static __global__ void fill_bytes_kernel(uint8_t* out, int64_t n, int low, int span, uint64_t seed) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    out[i] = static_cast<uint8_t>(low + mix(seed ^ mix(i)) % span);
}

inline void fill_normal(void* p, DType dtype, int64_t n, float std, uint64_t seed) {
  if (n == 0) return;
  cuda::dispatch_act(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    fill_normal_kernel<T><<<2048, 256>>>(static_cast<T*>(p), n, std, seed);
  });
  check(cudaGetLastError(), "fill_normal");
}

inline void fill_bytes(void* p, int64_t n, int low, int span, uint64_t seed) {
  fill_bytes_kernel<<<2048, 256>>>(static_cast<uint8_t*>(p), n, low, span, seed);
  check(cudaGetLastError(), "fill_bytes");
}

inline Tensor tensor(void* data, DType dtype, Shape shape) { return {data, shape, dtype, {DeviceType::kCuda, 0}}; }

// Owns the tensors of a case.
class Pool {
 public:
  explicit Pool(Seeds& seeds) : seeds_(seeds) {}
  Tensor raw(DType dtype, Shape shape) {
    buffers_.emplace_back(shape.numel() * dtype_size(dtype));
    return tensor(buffers_.back().data(), dtype, shape);
  }
  Tensor normal(DType dtype, Shape shape, float std) {
    Tensor t = raw(dtype, shape);
    fill_normal(t.data, dtype, t.numel(), std, seeds_.next());
    return t;
  }
  // Every byte 0xff: NaN in all float types.
  Tensor poisoned(DType dtype, Shape shape) {
    Tensor t = raw(dtype, shape);
    check(cudaMemset(t.data, 0xff, static_cast<size_t>(t.bytes())), "poison");
    return t;
  }
  Tensor ints(const std::vector<int32_t>& v, Shape shape) {
    Tensor t = raw(DType::kI32, shape);
    check(cudaMemcpy(t.data, v.data(), v.size() * 4, cudaMemcpyHostToDevice), "upload");
    return t;
  }
  Weight plain(DType dtype, int64_t n, int64_t k, float std) {
    Weight w;
    w.values = normal(dtype, {n, k}, std);
    w.n = n;
    w.k = k;
    return w;
  }
  Seeds& seeds() { return seeds_; }

 private:
  Seeds& seeds_;
  std::vector<Buffer> buffers_;
};

inline std::vector<double> download(const Tensor& t) {
  int64_t n = t.numel();
  std::vector<char> bytes(static_cast<size_t>(t.bytes()));
  check(cudaMemcpy(bytes.data(), t.data, bytes.size(), cudaMemcpyDeviceToHost), "download");
  std::vector<double> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    if (t.dtype == DType::kF64) {
      out[i] = reinterpret_cast<double*>(bytes.data())[i];
    } else if (t.dtype == DType::kF32) {
      out[i] = reinterpret_cast<float*>(bytes.data())[i];
    } else if (t.dtype == DType::kI32) {
      out[i] = reinterpret_cast<int32_t*>(bytes.data())[i];
    } else if (t.dtype == DType::kF8E4M3) {
      out[i] = e4m3_to_float(reinterpret_cast<uint8_t*>(bytes.data())[i]);
    } else {
      uint16_t v = reinterpret_cast<uint16_t*>(bytes.data())[i];
      out[i] = t.dtype == DType::kBF16 ? bf16_to_float(v) : f16_to_float(v);
    }
  }
  return out;
}

// ||out - ref|| / ||ref||; NaN or a missing element gives NaN.
inline double relative_error(const std::vector<double>& out, const std::vector<double>& ref) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < ref.size(); ++i) {
    difference += (out[i] - ref[i]) * (out[i] - ref[i]);
    norm += ref[i] * ref[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

// Median microseconds of one call, `count` calls captured into one graph, replayed `repeats` times after two warm-ups.
inline double time_in_graph(cudaStream_t stream, int count, int repeats, const std::function<void(int)>& call) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
  for (int i = 0; i < count; ++i) call(i);
  check(cudaStreamEndCapture(stream, &graph), "end capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start), "event");
  check(cudaEventCreate(&stop), "event");
  std::vector<double> times;
  for (int r = 0; r < repeats + 2; ++r) {
    check(cudaEventRecord(start, stream), "record");
    check(cudaGraphLaunch(exec, stream), "graph launch");
    check(cudaEventRecord(stop, stream), "record");
    check(cudaEventSynchronize(stop), "graph run");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop), "elapsed");
    if (r >= 2) times.push_back(ms * 1e3 / count);
  }
  check(cudaGraphExecDestroy(exec), "destroy");
  check(cudaGraphDestroy(graph), "destroy");
  check(cudaEventDestroy(start), "destroy");
  check(cudaEventDestroy(stop), "destroy");
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

static __global__ void read_kernel(const uint4* p, int64_t n, uint32_t* sink) {
  uint32_t x = 0;
  int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 7 * stride < n; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = __ldcs(p + i + j * stride);
#pragma unroll
    for (int j = 0; j < 8; ++j) x ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < n; i += stride) x ^= p[i].x;
  if (x == 0x12345678u) *sink = x;
}

// GB/s of reading 8 GiB, best of a few grids.
inline double read_bandwidth(cudaStream_t stream) {
  int64_t bytes = int64_t{8} << 30;
  Buffer data(bytes), sink(256);
  fill_bytes(data.data(), bytes, 0, 256, 7);
  double best = 0;
  for (int blocks : {132 * 4, 132 * 8, 132 * 16, 132 * 32}) {
    double us = time_in_graph(stream, 1, 7, [&](int) {
      read_kernel<<<blocks, 256, 0, stream>>>(static_cast<uint4*>(data.data()), bytes / 16, static_cast<uint32_t*>(sink.data()));
    });
    best = std::max(best, bytes / us / 1e3);
  }
  return best;
}

}  // namespace tessera::bench

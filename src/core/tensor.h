// Tensor: a trivially copyable view of dense row-major memory. Arenas, file maps and vectors own; a Tensor never does.
//
// Dimension letters used in every shape comment of the project:
//   T tokens in a step, B sequences, H hidden, Q query heads, K kv heads, D head dim, E experts, A active experts,
//   I expert inner size, V vocabulary, L layers, P tokens in a cache page, W window.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/dtype.h"
#include "core/error.h"

namespace tessera {

constexpr int kMaxRank = 4;

// Up to four dimensions, outermost first.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    TS_CHECK(dims.size() <= kMaxRank);
    for (int64_t d : dims) dims_[rank_++] = d;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t& operator[](int i) { return dims_[i]; }
  void push_back(int64_t d) {
    TS_CHECK(rank_ < kMaxRank);
    dims_[rank_++] = d;
  }
  // Product of the dimensions. Shapes from files are checked for overflow before they become a Shape.
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  bool operator==(const Shape&) const = default;
  std::string str() const;  // "[32, 5760, 90, 16]"

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

struct Tensor {
  void* data = nullptr;
  Shape shape;
  DType dtype = DType::kF32;
  Device device;

  bool defined() const { return data != nullptr; }
  int64_t dim(int i) const { return shape[i]; }
  int64_t numel() const { return shape.numel(); }
  int64_t bytes() const { return numel() * dtype_size(dtype); }

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  float* f32() const {
    TS_DCHECK(dtype == DType::kF32);
    return as<float>();
  }
  int32_t* i32() const {
    TS_DCHECK(dtype == DType::kI32);
    return as<int32_t>();
  }

  // Rows [begin, begin+count) of the outermost dimension.
  Tensor rows(int64_t begin, int64_t count) const {
    TS_DCHECK(begin >= 0 && begin + count <= shape[0]);
    Tensor t = *this;
    int64_t row = shape[0] == 0 ? 0 : bytes() / shape[0];
    t.data = static_cast<char*>(data) + begin * row;
    t.shape[0] = count;
    return t;
  }
  Tensor reshape(Shape s) const {
    TS_DCHECK(s.numel() == numel());
    Tensor t = *this;
    t.shape = s;
    return t;
  }
};

// How a weight matrix is stored.
enum class WeightFormat : uint8_t {
  kPlain,       // values: [N, K] or [E, N, K] of F32, BF16 or F16, row-major
  kMxfp4,       // values: U8 [.., N, K/32, 16], low nibble first; scales: U8 E8M0 [.., N, K/32]  (OCP MX; gpt-oss
                // checkpoints)
  kMxfp4Atoms,  // the same values re-arranged for GPU matrix units, scales inside: U8 [.., N/64, K/64, 2176]
                // (kernels/cuda/mxfp4_atoms.h)
  kFp8Rows,     // values: kF8E4M3 [N, K], row-major; scales: F32 [N]; element (n, k) is value * scales[n]
};

// One weight matrix [N, K], or E of them [E, N, K], N outputs and K inputs, in the checkpoint's own bytes where
// possible. A view like Tensor.
struct Weight {
  WeightFormat format = WeightFormat::kPlain;
  Tensor values;
  Tensor scales;            // kMxfp4 and kFp8Rows
  uint8_t max_scale = 255;  // kMxfp4: the largest of the scales, or 255 when that is not known
  bool hosted = false;      // stays in host memory and is read by the host, wherever the activations are
  int64_t experts = 1;
  int64_t n = 0;
  int64_t k = 0;

  bool defined() const { return values.defined(); }
  int64_t bytes() const { return values.bytes() + (scales.defined() ? scales.bytes() : 0); }
};

}  // namespace tessera

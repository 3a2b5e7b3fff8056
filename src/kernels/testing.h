// Test harness of the kernels: fresh random operands, every row that supports a case run on poisoned outputs between
// guard bytes, and compared with the reference row.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/e4m3.h"
#include "kernels/table.h"

namespace tessera::testing {

inline float value_at(const Tensor& t, int64_t i) {
  if (t.dtype == DType::kBF16) return bf16_to_float(t.as<uint16_t>()[i]);
  if (t.dtype == DType::kF16) return f16_to_float(t.as<uint16_t>()[i]);
  if (t.dtype == DType::kF8E4M3) return e4m3_to_float(t.as<uint8_t>()[i]);
  return t.f32()[i];
}
inline void set_value(const Tensor& t, int64_t i, float v) {
  if (t.dtype == DType::kBF16) {
    t.as<uint16_t>()[i] = float_to_bf16(v);
  } else if (t.dtype == DType::kF16) {
    t.as<uint16_t>()[i] = float_to_f16(v);
  } else if (t.dtype == DType::kF8E4M3) {
    t.as<uint8_t>()[i] = float_to_e4m3(v);
  } else {
    t.f32()[i] = v;
  }
}

// Half an ulp of the stored type, relative.
inline double rounding_of(DType t) {
  return t == DType::kBF16 ? 0x1p-8 : t == DType::kF16 ? 0x1p-11 : 0.0;
}

// Owns the operands of one case.
class Operands {
 public:
  explicit Operands(uint32_t seed) : random(seed) {}

  // Exactly the bytes of the tensor, `offset` elements into the allocation, so that ASan sees reads past either end and
  // nothing is better aligned than promised.
  Tensor uninitialised(DType type, Shape shape, int64_t offset = 1) {
    int64_t size = dtype_size(type);
    Tensor t{nullptr, shape, type, {}};
    blocks_.push_back(std::make_unique<char[]>(static_cast<size_t>(t.bytes() + offset * size)));
    t.data = blocks_.back().get() + offset * size;
    return t;
  }
  Tensor normal(DType type, Shape shape, float scale = 1.0f, float mean = 0.0f) {
    Tensor t = uninitialised(type, shape);
    std::normal_distribution<float> values(mean, scale);
    for (int64_t i = 0; i < t.numel(); ++i) set_value(t, i, values(random));
    return t;
  }
  Tensor ints(Shape shape, const std::vector<int32_t>& values) {
    Tensor t = uninitialised(DType::kI32, shape);
    std::memcpy(t.data, values.data(), values.size() * sizeof(int32_t));
    return t;
  }
  // Every byte 0xff: NaN as a float of any type, -1 as an integer.
  Tensor poison(DType type, Shape shape) {
    Tensor t = uninitialised(type, shape);
    std::memset(t.data, 0xff, static_cast<size_t>(t.bytes()));
    return t;
  }
  Tensor copy(const Tensor& from) {
    if (!from.defined()) return from;
    Tensor t = uninitialised(from.dtype, from.shape);
    std::memcpy(t.data, from.data, static_cast<size_t>(from.bytes()));
    return t;
  }
  // Output memory: poisoned, with guards on both sides that check_guards() verifies.
  Tensor guarded(DType type, Shape shape) {
    Tensor t = uninitialised(type, shape, 0);
    size_t size = static_cast<size_t>(t.bytes());
    blocks_.back() = std::make_unique<char[]>(size + 2 * kGuard);
    std::memset(blocks_.back().get(), kPattern, size + 2 * kGuard);
    t.data = blocks_.back().get() + kGuard;
    std::memset(t.data, 0xff, size);
    guarded_.push_back(t);
    return t;
  }
  Tensor guarded_copy(const Tensor& from) {
    if (!from.defined()) return from;
    Tensor t = guarded(from.dtype, from.shape);
    std::memcpy(t.data, from.data, static_cast<size_t>(from.bytes()));
    return t;
  }
  void check_guards() const {
    for (const Tensor& t : guarded_) {
      const char* begin = t.as<char>();
      for (size_t i = 0; i < kGuard; ++i) {
        ASSERT_EQ(begin[-1 - static_cast<int64_t>(i)], kPattern) << "wrote before the output";
        ASSERT_EQ(begin[static_cast<size_t>(t.bytes()) + i], kPattern) << "wrote past the output";
      }
    }
  }

  // Scale bytes are drawn from [low, high].
  Weight mxfp4(int64_t experts, int64_t n, int64_t k, int low = 118, int high = 124) {
    Weight w{.format = WeightFormat::kMxfp4, .experts = experts, .n = n, .k = k};
    Shape rows = experts > 1 ? Shape{experts, n} : Shape{n};
    Shape values = rows, scales = rows;
    values.push_back(k / 32 * 16), scales.push_back(k / 32);
    w.values = uninitialised(DType::kU8, values), w.scales = uninitialised(DType::kU8, scales);
    for (int64_t i = 0; i < w.values.numel(); ++i) w.values.as<uint8_t>()[i] = static_cast<uint8_t>(random());
    for (int64_t i = 0; i < w.scales.numel(); ++i) w.scales.as<uint8_t>()[i] = static_cast<uint8_t>(uniform(low, high));
    return w;
  }
  Weight plain(DType type, int64_t experts, int64_t n, int64_t k) {
    Weight w{.experts = experts, .n = n, .k = k};
    w.values = normal(type, {experts, n, k}, 1.0f / std::sqrt(static_cast<float>(k)));
    return w;
  }
  int64_t uniform(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); }

  std::mt19937 random;

 private:
  static constexpr size_t kGuard = 64;
  static constexpr char kPattern = 0x5a;
  std::vector<std::unique_ptr<char[]>> blocks_;
  std::vector<Tensor> guarded_;
};

// A seed that differs in every run; SCOPED_TRACE it, so that a failure can be repeated.
inline uint32_t fresh_seed() {
  return std::random_device()();
}

// Each row of an op that this machine can run, once, over all instruction sets; the reference comes last.
template <class Args>
std::vector<KernelRow<Args>> all_rows(OpTable<Args> Kernels::*op) {
  std::vector<KernelRow<Args>> rows;
  std::set<std::string> names;
  for (CpuIsa isa : {CpuIsa::kAvx512, CpuIsa::kAvx2, CpuIsa::kAuto, CpuIsa::kReference}) {
    try {
      const Kernels kernels = Kernels::builtin(isa);
      for (const KernelRow<Args>& row : (kernels.*op).rows)
        if (row.device == DeviceType::kCpu && std::string(row.name).find("_ref") == std::string::npos &&
            names.insert(row.name).second)
          rows.push_back(row);
    } catch (const std::exception&) {  // this machine lacks the instruction set
    }
  }
  const Kernels reference = Kernels::reference();
  rows.insert(rows.end(), (reference.*op).rows.begin(), (reference.*op).rows.end());
  return rows;
}

// The rows of an op that accept a case; the reference comes last. A case that only the reference accepts would test
// nothing, so where the machine has vector rows one of them must accept too.
template <class Args>
std::vector<KernelRow<Args>> accepting_rows(OpTable<Args> Kernels::*op, const Args& args) {
  std::vector<KernelRow<Args>> rows = all_rows(op);
  const size_t all = rows.size();
  std::erase_if(rows, [&](const KernelRow<Args>& row) { return !row.supports(args); });
  EXPECT_TRUE(rows.size() > 1 || all == 1) << "only the reference accepts this case";
  return rows;
}

// Runs a row with a workspace of exactly the bytes it asked for, poisoned and guarded.
template <class Args>
void launch(const KernelRow<Args>& row, const Args& args, ThreadPool& pool) {
  size_t need = row.workspace ? static_cast<size_t>(row.workspace(args)) : 0;
  std::vector<unsigned char> space(need + 128, 0xff);
  char* base = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(space.data()) + 63) / 64 * 64);
  std::memset(base + need, 0x5a, 32);
  Stream stream{&pool, nullptr, base};
  row.launch(args, stream);
  for (size_t i = 0; i < 32; ++i) ASSERT_EQ(base[need + i], 0x5a) << row.name << " wrote past its workspace";
}

inline double largest_of(const Tensor& t) {
  double largest = 0;
  for (int64_t i = 0; i < t.numel(); ++i)
    if (double v = std::fabs(value_at(t, i)); std::isfinite(v)) largest = std::max(largest, v);
  return largest;
}

// |got - expected| within tolerance x the largest expected value (or `at_least`, where that is larger), and one unit in
// the last place of the stored type (more for values that are rounded on the way too). NaN equals NaN.
inline void expect_close(const Tensor& got, const Tensor& expected, double tolerance, const std::string& what,
                         int units = 1, double at_least = 0) {
  const double largest = std::max(largest_of(expected), at_least);
  for (int64_t i = 0; i < expected.numel(); ++i) {
    double g = value_at(got, i), e = value_at(expected, i);
    if (g == e || (std::isnan(g) && std::isnan(e))) continue;
    double allowed = tolerance * largest + 2 * units * rounding_of(got.dtype) * std::fabs(e) + 1e-30;
    ASSERT_LE(std::fabs(g - e), allowed) << what << ": element " << i << " is " << g << ", expected " << e
                                         << " (largest " << largest << ")";
  }
}

inline void expect_same_bits(const Tensor& got, const Tensor& expected, const std::string& what) {
  ASSERT_EQ(got.bytes(), expected.bytes());
  int64_t size = dtype_size(got.dtype);
  for (int64_t i = 0; i < got.numel(); ++i) {
    ASSERT_EQ(std::memcmp(got.as<char>() + i * size, expected.as<char>() + i * size, static_cast<size_t>(size)), 0)
        << what << ": element " << i << " is " << value_at(got, i) << " and not " << value_at(expected, i);
  }
}

inline constexpr DType kFloats[] = {DType::kF32, DType::kBF16, DType::kF16};

}  // namespace tessera::testing

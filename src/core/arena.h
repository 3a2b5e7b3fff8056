// Arena: one anonymous mapping, handed out front to back. Owns the memory; Tensors made from it are views that die with
// it. Pages are touched on first use, so a generous capacity costs address space only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor.h"

namespace tessera {

class Arena {
 public:
  Arena() = default;
  // Throws kOutOfMemory when the system refuses `capacity` bytes.
  explicit Arena(int64_t capacity);
  // Hands out addresses that must not be touched, to learn a peak before allocating it.
  static Arena measuring();
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 64-byte aligned, uninitialised (first use: zero). TS_CHECKs capacity: sizes are computed before allocation.
  void* allocate(int64_t bytes);
  Tensor tensor(DType dtype, Shape shape);

  // Forgets everything handed out after used() was `mark`; memory stays mapped.
  void rewind(int64_t mark) { used_ = mark; }
  int64_t used() const { return used_; }
  int64_t peak() const { return peak_; }
  int64_t capacity() const { return capacity_; }

 private:
  char* base_ = nullptr;
  int64_t capacity_ = 0;
  int64_t used_ = 0;
  int64_t peak_ = 0;
  bool owns_ = false;
};

}  // namespace tessera

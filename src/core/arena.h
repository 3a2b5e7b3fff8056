// Arena: one block of a device's memory, handed out front to back (or, to compare, a block for everything handed out).
// Owns the memory; Tensors made from it are views that die with it. On a CPU pages are touched on first use, so a
// generous capacity costs address space only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/device_context.h"
#include "core/tensor.h"

namespace tessera {

class Arena {
 public:
  Arena() = default;
  // Throws kOutOfMemory when the device refuses `capacity` bytes. The context must outlive the arena.
  Arena(DeviceContext& context, int64_t capacity);
  // On the CPU.
  explicit Arena(int64_t capacity);
  // Takes memory from the device for each allocation; rewind() must not be called.
  static Arena scattered(DeviceContext& context);
  // Hands out addresses that must not be touched, to learn a peak before allocating it.
  static Arena measuring(Device device = {});
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 64-byte aligned (256 on a GPU), uninitialised. TS_CHECKs capacity: sizes are computed before allocation.
  void* allocate(int64_t bytes);
  Tensor tensor(DType dtype, Shape shape);

  // Forgets everything handed out after used() was `mark`; memory stays mapped.
  void rewind(int64_t mark) { used_ = mark; }
  int64_t used() const { return used_; }
  int64_t peak() const { return peak_; }
  int64_t capacity() const { return capacity_; }
  // What the device gave, and in how many blocks.
  int64_t bytes_taken() const { return scattered_ ? used_ : capacity_; }
  int64_t allocations() const { return scattered_ ? static_cast<int64_t>(blocks_.size()) : 1; }

 private:
  char* base_ = nullptr;
  int64_t capacity_ = 0;
  int64_t used_ = 0;
  int64_t peak_ = 0;
  std::shared_ptr<DeviceContext> own_context_;  // of an arena on the CPU
  DeviceContext* context_ = nullptr;            // null: owns nothing
  Device device_;
  bool scattered_ = false;
  std::vector<void*> blocks_;  // of a scattered arena
};

}  // namespace tessera

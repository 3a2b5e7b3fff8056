// Operands that catch what a kernel does to memory that is not its own. On a CPU each lies between pages that cannot be
// touched, inputs in pages that cannot be written; on a GPU between known bytes that are compared afterwards.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "core/device_context.h"

namespace tessera::hub_kernels {

enum class Role : uint8_t { kIn, kOut, kInOut };

class GuardedMemory {
 public:
  // `at_end`: operands end where the pages do, so that the first byte past one is caught; else they begin there.
  GuardedMemory(DeviceContext& context, bool at_end) : context_(context), at_end_(at_end) {}
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;

  // A copy of `host`; of an output, memory full of 0xff (NaN).
  Tensor place(const Tensor& host, const char* name, Role role);
  // Makes inputs unwritable. After the last place().
  void protect();
  // What was touched that should not be: one line, or empty. Reads back all guards.
  std::string damage() const;
  // Into host memory of the same shape.
  void read(const Tensor& placed, const Tensor& host) const;

  // The process's last words from a memory fault are written to `out`: which operand, which side.
  void report_faults_to(int out);

 private:
  struct Block {
    std::string name;
    Role role;
    char* map;  // all of it; GPU: the allocation
    int64_t map_bytes, guard;
    char* data;
    int64_t bytes;
    std::string before;  // an input's bytes on a GPU
  };
  friend void describe_fault(const GuardedMemory& memory, const void* address, char* text, size_t size);

  DeviceContext& context_;
  bool at_end_;
  std::deque<Block> blocks_;
};

}  // namespace tessera::hub_kernels

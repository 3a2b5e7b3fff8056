// libtvm_ffi.so, opened at run time: kernels from the hub need its symbols, this program needs it only to call them.
// It is searched at TESSERA_TVM_FFI (a file, or a folder: a Python environment, say), beside the program and in its
// ../lib, in the active virtual environment, and where the system's loader looks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/hub/abi.h"

namespace tessera::hub_kernels {

// One per process, never unloaded: kernels keep objects of it. Thread-safe.
struct Runtime {
  std::string path;  // where it was found
  ffi::Version version{};

  void (*error_move_from_raised)(void** error) = nullptr;
  int (*object_dec_ref)(void* object) = nullptr;
  int (*env_set_stream)(int32_t device, int32_t index, void* stream, void** old) = nullptr;
  int (*env_set_allocator)(ffi::Allocator allocator, int write_to_global, ffi::Allocator* old) = nullptr;

  // Throws kNotFound with the places searched and what to install; kUnsupported for a version whose ABI is not 0.1 or
  // a later 0.x or 1.x that still has these calls.
  static std::shared_ptr<const Runtime> open();
  // Null instead, and `why`.
  static std::shared_ptr<const Runtime> try_open(std::string* why);

  // The message of the error that this thread raised, "TypeError: expected ..."; takes it away.
  std::string take_error() const;
};

// Files that open() would try, in order.
std::vector<std::string> runtime_candidates();

}  // namespace tessera::hub_kernels

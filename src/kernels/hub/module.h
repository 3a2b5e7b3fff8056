// A kernel's shared library, and calls of its functions through the tvm-ffi ABI.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "kernels/hub/runtime.h"
#include "kernels/table.h"

namespace tessera::hub_kernels {

// Loaded for the life of the process (its threads and static objects may outlast every user). Immutable, thread-safe.
class Module {
 public:
  // Reads the file once, into memory that nobody else can write; what is hashed is what is loaded. Throws kCorrupt when
  // `sha256` (64 digits) is given and is another, kUnsupported when the loader refuses it, kNotFound, kIo.
  static std::shared_ptr<const Module> load(const std::string& path, const std::string& sha256 = "");

  const std::string& path() const { return path_; }
  const std::string& sha256() const { return sha256_; }
  const Runtime& runtime() const { return *runtime_; }
  // Null when the library has no such function.
  ffi::Function find(const std::string& name) const;
  // `name`_cpu or `name`_cuda, else `name`: what was found, or empty.
  std::string find_name(const std::string& name, DeviceType device) const;
  // The functions it exports, sorted.
  std::vector<std::string> functions() const { return functions_; }

 private:
  std::shared_ptr<const Runtime> runtime_;
  std::string path_, sha256_;
  std::vector<std::string> functions_;
  void* handle_ = nullptr;
};

// The arguments of one call, and the call. Lives on the stack; allocates nothing.
class Call {
 public:
  static constexpr int kMaxArguments = 16;

  // A view in place; None for an undefined one.
  Call& tensor(const Tensor& t);
  Call& integer(int64_t value);
  Call& real(double value);

  // Throws kUnsupported with the kernel's message. Temporary tensors that the kernel asks of the environment come from
  // [workspace, workspace + bytes); asking for more is an error that says so.
  ffi::Any run(const Runtime& runtime, ffi::Function function, std::string_view what, Device device, Stream& stream,
               int64_t workspace_bytes);

 private:
  ffi::Any& next(int32_t type);

  int count_ = 0;
  std::array<ffi::Any, kMaxArguments> args_;
  int tensors_ = 0;
  std::array<ffi::DlTensor, kMaxArguments> views_;
  std::array<std::array<int64_t, 2 * kMaxRank>, kMaxArguments> dims_;  // shape, strides
};

}  // namespace tessera::hub_kernels

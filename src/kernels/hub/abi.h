// The part of tvm-ffi's C ABI that is needed to call a kernel and to be one. The layout is that of the published
// headers tvm/ffi/c_api.h, tvm/ffi/extra/c_env_api.h and dlpack/dlpack.h of apache-tvm-ffi 0.1.15 (stable since 0.1).
#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera::ffi {

// DLPack.
enum : int32_t { kDlCpu = 1, kDlCuda = 2 };
enum : uint8_t {
  kDlInt = 0,
  kDlUInt = 1,
  kDlFloat = 2,
  kDlBfloat = 4,
  kDlBool = 6,
  kDlFloat8E4M3 = 10,
  kDlFloat8E5M2 = 12
};

struct DlDevice {
  int32_t type;
  int32_t index;
};
struct DlType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t rank;
  DlType type;
  int64_t* shape;
  int64_t* strides;  // in elements; always given
  uint64_t byte_offset;
};
struct DlManaged {  // DLManagedTensorVersioned
  uint32_t major, minor;
  void* context;
  void (*deleter)(DlManaged* self);
  uint64_t flags;
  DlTensor tensor;
};

// A value: an argument or a result.
enum : int32_t {
  kNone = 0,
  kInt = 1,
  kBool = 2,
  kFloat = 3,
  kTensorView = 7,
  kRawStr = 8,
  kObjects = 64,
  kTensor = 70
};
struct Any {
  int32_t type;
  uint32_t padding;  // zero
  union {
    int64_t i;
    double d;
    const void* p;
  };
};
static_assert(sizeof(Any) == 16 && sizeof(DlTensor) == 48);

struct Bytes {
  const char* data;
  size_t size;
};
struct ObjectHeader {
  uint64_t counts;
  int32_t type;
  uint32_t padding;
  void (*deleter)(void* self, int flags);
};
struct ErrorObject {
  ObjectHeader header;
  Bytes kind, message;  // more follows
};
struct TensorObject {
  ObjectHeader header;
  DlTensor tensor;
};
static_assert(sizeof(ObjectHeader) == 24);

// What a kernel's library exports as __tvm_ffi_<name>. `self` is null for a library's functions; 0, or -1 and an error
// that was raised in the calling thread.
using Function = int (*)(void* self, const Any* args, int32_t count, Any* result);
inline constexpr const char* kSymbolPrefix = "__tvm_ffi_";

using Allocator = int (*)(DlTensor* prototype, DlManaged** out, void* error_context,
                          void (*set_error)(void* error_context, const char* kind, const char* message));

struct Version {
  uint32_t major, minor, patch;
};

}  // namespace tessera::ffi

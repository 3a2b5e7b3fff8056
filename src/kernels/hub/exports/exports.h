// Our own kernels as a hub kernel: the functions of docs/kernel-abi.md, computed by the choice table's best built-in
// rows. Built into tessera_kernels.so, which needs nothing but the C library and libtvm_ffi.so.
//
// Thread-safe on a GPU; on a CPU one call runs at a time, on threads of this library's own (TESSERA_THREADS).
#pragma once

#include <mutex>
#include <vector>

#include "core/error.h"
#include "kernels/hub/abi.h"
#include "kernels/table.h"

#define TESSERA_EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message);
void* TVMFFIEnvGetStream(int32_t device_type, int32_t device_id);
int TVMFFIEnvTensorAlloc(tessera::ffi::DlTensor* prototype, void** out);
int TVMFFIObjectDecRef(void* object);
}

namespace tessera::exports {
namespace {

// A wrong argument: becomes a TypeError or ValueError of the caller.
struct BadArgument {
  const char* kind;
  std::string message;
};

template <class... T>
[[noreturn]] void bad(const char* kind, fmt::format_string<T...> format, T&&... args) {
  throw BadArgument{kind, fmt::format(format, std::forward<T>(args)...)};
}

DType dtype_of(ffi::DlType t, const char* name) {
  if (t.lanes == 1) {
    if (t.code == ffi::kDlFloat && t.bits == 32) return DType::kF32;
    if (t.code == ffi::kDlFloat && t.bits == 16) return DType::kF16;
    if (t.code == ffi::kDlBfloat && t.bits == 16) return DType::kBF16;
    if (t.code == ffi::kDlInt && t.bits == 32) return DType::kI32;
    if (t.code == ffi::kDlUInt && t.bits == 8) return DType::kU8;
  }
  bad("TypeError", "{}: expected float32, float16, bfloat16, int32 or uint8", name);
}

// The arguments of one call, taken in order.
class Arguments {
 public:
  Arguments(const ffi::Any* args, int32_t count, int32_t expected, DeviceType device)
      : args_(args), device_{device, -1} {
    if (count != expected) bad("TypeError", "expected {} arguments, got {}", expected, count);
  }

  Tensor tensor(const char* name, int rank, bool optional = false) {
    const ffi::Any& any = args_[next_++];
    if (any.type == ffi::kNone && optional) return {};
    const ffi::DlTensor* t = any.type == ffi::kTensorView ? static_cast<const ffi::DlTensor*>(any.p)
                             : any.type == ffi::kTensor   ? &static_cast<const ffi::TensorObject*>(any.p)->tensor
                                                          : nullptr;
    if (t == nullptr) bad("TypeError", "{}: expected a tensor", name);
    if (t->rank != rank) bad("ValueError", "{}: expected {} dimensions, got {}", name, rank, t->rank);
    const int32_t wanted = device_.type == DeviceType::kCuda ? ffi::kDlCuda : ffi::kDlCpu;
    if (t->device.type != wanted) bad("ValueError", "{}: it lies on another kind of device", name);
    if (device_.index >= 0 && t->device.index != device_.index)
      bad("ValueError", "{}: it lies on another device", name);
    device_.index = t->device.index;
    Tensor out{static_cast<char*>(t->data) + t->byte_offset, {}, dtype_of(t->type, name), device_};
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (t->strides && t->shape[i] > 1 && t->strides[i] != stride) bad("ValueError", "{}: it is not contiguous", name);
      stride *= t->shape[i];
    }
    for (int i = 0; i < rank; ++i) out.shape.push_back(t->shape[i]);
    return out;
  }
  int64_t integer(const char* name) {
    const ffi::Any& any = args_[next_++];
    if (any.type != ffi::kInt && any.type != ffi::kBool) bad("TypeError", "{}: expected a whole number", name);
    return any.i;
  }
  float real(const char* name) {
    const ffi::Any& any = args_[next_++];
    if (any.type == ffi::kInt) return static_cast<float>(any.i);
    if (any.type != ffi::kFloat) bad("TypeError", "{}: expected a number", name);
    return static_cast<float>(any.d);
  }
  Device device() const { return device_; }

 private:
  const ffi::Any* args_;
  Device device_;
  int next_ = 0;
};

void require(bool condition, const char* what) {
  if (!condition) bad("ValueError", "{}", what);
}

// With a delta: add_rms_norm.
RmsNormArgs rms_norm(Arguments& in, bool with_delta = false) {
  RmsNormArgs a{.out = in.tensor("out", 2)};
  a.residual = in.tensor("x", 2);
  if (with_delta) a.delta = in.tensor("delta", 2);
  a.weight = in.tensor("weight", 1);
  a.eps = in.real("eps");
  require(a.out.shape == a.residual.shape && a.out.dtype == a.residual.dtype, "out and x differ in shape or type");
  require(
      !with_delta || (a.delta.shape == a.out.shape && a.delta.dtype == a.out.dtype && a.out.data != a.residual.data),
      "delta differs from x in shape or type, or out is x");
  require(a.weight.dim(0) == a.out.dim(1), "weight is not [N]");
  return a;
}

RopeArgs rotary_pos_emb(Arguments& in) {
  RopeArgs a{.x = in.tensor("x", 3)};
  a.cos = in.tensor("cos", 2);
  a.sin = in.tensor("sin", 2);
  require(a.cos.shape == a.sin.shape && a.cos.dim(0) == a.x.dim(0) && 2 * a.cos.dim(1) == a.x.dim(2),
          "cos and sin are not [T, D/2]");
  return a;
}

AttentionArgs paged_attention(Arguments& in) {
  AttentionArgs a{.out = in.tensor("out", 3)};
  a.q = in.tensor("q", 3);
  a.cache.k = in.tensor("k_cache", 4);
  a.cache.v = in.tensor("v_cache", 4);
  a.page_table = in.tensor("page_table", 2);
  a.query_start = in.tensor("query_start", 1);
  a.context = in.tensor("context", 1);
  a.sinks = in.tensor("sinks", 1, true);
  a.window = in.integer("window");
  a.scale = in.real("scale");
  a.max_queries = in.integer("max_queries");
  a.max_context = in.integer("max_context");
  require(a.out.shape == a.q.shape && a.out.dtype == a.q.dtype, "out and q differ in shape or type");
  require(a.cache.k.shape == a.cache.v.shape && a.cache.k.dim(3) == a.q.dim(2), "the caches are not [pages, K, P, D]");
  require(a.cache.k.dim(1) > 0 && a.q.dim(1) % a.cache.k.dim(1) == 0,
          "the query heads are no multiple of the key heads");
  require(a.page_table.dim(0) == a.context.dim(0) && a.query_start.dim(0) == a.context.dim(0) + 1,
          "page_table, query_start and context speak of different numbers of sequences");
  require(!a.sinks.defined() || a.sinks.dim(0) == a.q.dim(1), "sinks is not [Q]");
  return a;
}

// Blocks [E, N, K/32, 16] with scales [E, N, K/32], atoms [E, N/64, K/64, 2176], or plain [E, N, K].
Weight weight(Arguments& in, const ffi::Any& any, const char* name, const char* scales_name) {
  const ffi::DlTensor* t = any.type == ffi::kTensor ? &static_cast<const ffi::TensorObject*>(any.p)->tensor
                                                    : static_cast<const ffi::DlTensor*>(any.p);
  const bool tensor = any.type == ffi::kTensor || any.type == ffi::kTensorView;
  Weight w{.values = in.tensor(name, tensor && t->rank == 3 ? 3 : 4)};
  w.scales = in.tensor(scales_name, 3, true);
  w.experts = w.values.dim(0);
  if (w.values.shape.rank() == 3) {
    require(!w.scales.defined(), "plain weights have no scales");
    w.n = w.values.dim(1), w.k = w.values.dim(2);
  } else if (w.scales.defined()) {
    w.format = WeightFormat::kMxfp4;
    w.n = w.values.dim(1), w.k = 32 * w.values.dim(2);
    require(w.values.dim(3) == 16 && w.values.dtype == DType::kU8 && w.scales.dtype == DType::kU8 &&
                w.scales.dim(0) == w.experts && w.scales.dim(1) == w.n && 32 * w.scales.dim(2) == w.k,
            "MXFP4 weights are uint8 [E, N, K/32, 16] with scales uint8 [E, N, K/32]");
  } else {
    w.format = WeightFormat::kMxfp4Atoms;
    w.n = 64 * w.values.dim(1), w.k = 64 * w.values.dim(2);
    require(w.values.dim(3) == 2176 && w.values.dtype == DType::kU8,
            "MXFP4 without scales is uint8 [E, N/64, K/64, 2176]");
  }
  return w;
}

// Of some of the model's experts: moe_mlp_part.
MoeArgs moe_mlp(Arguments& in, const ffi::Any* args, bool part = false) {
  MoeArgs a{.part = part};
  a.out = in.tensor("out", 2);
  a.x = in.tensor("x", 2);
  a.indices = in.tensor("indices", 2);
  a.weights = in.tensor("weights", 2);
  a.gate_up = weight(in, args[4], "gate_up", "gate_up_scales");
  a.gate_up_bias = in.tensor("gate_up_bias", 2, true);
  a.down = weight(in, args[7], "down", "down_scales");
  a.down_bias = in.tensor("down_bias", 2, true);
  const int64_t activation = in.integer("activation");
  require(activation == 0 || activation == 1, "activation is 0 (swiglu of gpt-oss) or 1 (silu)");
  a.activation = static_cast<MoeActivation>(activation);
  a.limit = in.real("limit");
  if (part) a.first_expert = in.integer("first_expert");
  require(a.out.shape == a.x.shape && a.out.dtype == a.x.dtype, "out and x differ in shape or type");
  require(a.indices.shape == a.weights.shape && a.indices.dim(0) == a.x.dim(0) && a.indices.dtype == DType::kI32 &&
              a.weights.dtype == DType::kF32,
          "indices is not int32 [T, A], or weights not float32 [T, A]");
  require(a.gate_up.k == a.x.dim(1) && a.down.n == a.x.dim(1) && a.gate_up.n == 2 * a.down.k &&
              a.gate_up.experts == a.down.experts,
          "gate_up is not [E, 2I, H], or down not [E, H, I]");
  return a;
}

const Kernels& kernels() {
  static const Kernels all = Kernels::builtin();
  return all;
}

template <class Args>
const KernelRow<Args>& choose(const OpTable<Args>& table, const Args& args) {
  if (const KernelRow<Args>* row = table.choose(args)) return *row;
  std::string why;
  for (const KernelRow<Args>& row : table.rows) why += fmt::format("; {}: {}", row.name, row.supports(args).refusal);
  bad("ValueError", "no kernel takes this{}", why);
}

template <class Args>
int64_t workspace_bytes(const OpTable<Args>& table, const Args& args) {
  const KernelRow<Args>& row = choose(table, args);
  return row.workspace ? row.workspace(args) + 64 : 64;
}

template <class Args>
void run_on_gpu(const KernelRow<Args>& row, const Args& args, int64_t bytes, Device device) {
  int64_t stride = 1;
  ffi::DlTensor prototype{nullptr, {ffi::kDlCuda, device.index}, 1, {ffi::kDlUInt, 8, 1}, &bytes, &stride, 0};
  void* space = nullptr;
  if (TVMFFIEnvTensorAlloc(&prototype, &space) != 0) throw 0;  // the error is raised already
  Stream stream{nullptr, TVMFFIEnvGetStream(ffi::kDlCuda, device.index),
                static_cast<ffi::TensorObject*>(space)->tensor.data};
  row.launch(args, stream);
  TVMFFIObjectDecRef(space);  // the allocator reuses memory in the stream's order
}

template <class Args>
void run(const OpTable<Args>& table, const Args& args, Device device) {
  const KernelRow<Args>& row = choose(table, args);
  const int64_t bytes = workspace_bytes(table, args);
  if (device.type == DeviceType::kCuda) return run_on_gpu(row, args, bytes, device);
  static std::mutex mutex;
  static ThreadPool pool;
  static std::vector<char> space;
  std::lock_guard lock(mutex);
  if (static_cast<int64_t>(space.size()) < bytes) space.resize(static_cast<size_t>(bytes));
  Stream stream{&pool, nullptr, reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(space.data()) + 63) / 64 * 64)};
  row.launch(args, stream);
}

// Nothing may be thrown through the C ABI.
template <class F>
int guarded(F&& f) {
  try {
    f();
    return 0;
  } catch (const BadArgument& e) {
    TVMFFIErrorSetRaisedFromCStr(e.kind, e.message.c_str());
  } catch (const std::exception& e) {
    TVMFFIErrorSetRaisedFromCStr("RuntimeError", e.what());
  } catch (int) {
  }
  return -1;
}

// On a CPU the memory is this library's own.
template <class Args>
void report_workspace(const OpTable<Args>& table, const Args& args, DeviceType device, ffi::Any* result) {
  *result = {.type = ffi::kInt, .padding = 0, .i = device == DeviceType::kCpu ? 0 : workspace_bytes(table, args) + 256};
}

}  // namespace
}  // namespace tessera::exports

// FUNCTION(NAME, SUFFIX, DEVICE, COUNT, TABLE, ARGS): __tvm_ffi_NAME_SUFFIX and __tvm_ffi_NAME_SUFFIX_workspace.
#define FUNCTION(name, suffix, kind, count, table, ...)                                                       \
  TESSERA_EXPORT int __tvm_ffi_##name##_##suffix(void*, const tessera::ffi::Any* args, int32_t n,             \
                                                 tessera::ffi::Any* result) {                                 \
    using namespace tessera::exports;                                                                         \
    return guarded([&] {                                                                                      \
      Arguments in(args, n, count, tessera::DeviceType::kind);                                                \
      const auto a = __VA_ARGS__;                                                                             \
      run(kernels().table, a, in.device());                                                                   \
      *result = {};                                                                                           \
    });                                                                                                       \
  }                                                                                                           \
  TESSERA_EXPORT int __tvm_ffi_##name##_##suffix##_workspace(void*, const tessera::ffi::Any* args, int32_t n, \
                                                             tessera::ffi::Any* result) {                     \
    using namespace tessera::exports;                                                                         \
    return guarded([&] {                                                                                      \
      Arguments in(args, n, count, tessera::DeviceType::kind);                                                \
      report_workspace(kernels().table, __VA_ARGS__, tessera::DeviceType::kind, result);                      \
    });                                                                                                       \
  }

// x * w^T + bias for many tokens through cuBLASLt, opened at run time: a machine without it uses the own rows.
// The library's entry points, and a handle a device, are made once, thread-safely, and never change.
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <array>
#include <mutex>

#include "core/cuda_capability.h"
#include "core/error.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int64_t kWorkspace = int64_t{32} << 20;  // what NVIDIA recommends for Hopper
constexpr int64_t kFewTokens = 64;

struct Library {
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  bool whole = false;

  Library() {
    void* file = nullptr;
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
      if ((file = dlopen(name, RTLD_NOW | RTLD_LOCAL)) != nullptr) break;
    if (file == nullptr) return;
    whole = load(file, "cublasLtCreate", create) && load(file, "cublasLtMatmulDescCreate", desc_create) &&
            load(file, "cublasLtMatmulDescDestroy", desc_destroy) &&
            load(file, "cublasLtMatmulDescSetAttribute", desc_set) &&
            load(file, "cublasLtMatrixLayoutCreate", layout_create) &&
            load(file, "cublasLtMatrixLayoutDestroy", layout_destroy) &&
            load(file, "cublasLtMatmulPreferenceCreate", preference_create) &&
            load(file, "cublasLtMatmulPreferenceDestroy", preference_destroy) &&
            load(file, "cublasLtMatmulPreferenceSetAttribute", preference_set) &&
            load(file, "cublasLtMatmulAlgoGetHeuristic", heuristic) && load(file, "cublasLtMatmul", matmul);
  }

  template <class F>
  static bool load(void* file, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(file, name));
    return function != nullptr;
  }
};

const Library& library() {
  static const Library once;
  return once;
}

// Of the current device, to which the library's context is tied; null where there is no library.
cublasLtHandle_t current_handle() {
  constexpr int kMaxDevices = 64;
  static std::array<std::once_flag, kMaxDevices> once;
  static std::array<cublasLtHandle_t, kMaxDevices> handles{};
  const Library& lt = library();
  int device = 0;
  if (!lt.whole || cudaGetDevice(&device) != cudaSuccess || device >= kMaxDevices) return nullptr;
  std::call_once(once[device], [&] {
    if (lt.create(&handles[device]) != CUBLAS_STATUS_SUCCESS) handles[device] = nullptr;
  });
  return handles[device];
}

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(ErrorCode::kIo, "cuBLASLt: {}: status {}", what, static_cast<int>(status));
}

cudaDataType_t type_of(DType t) {
  return t == DType::kBF16 ? CUDA_R_16BF : t == DType::kF16 ? CUDA_R_16F : CUDA_R_32F;
}

// Owns the descriptors of one product, column-major: out^T [N, T] = w [N, K] * x^T.
class Product {
 public:
  explicit Product(const LinearArgs& a) {
    const Library& lt = library();
    check(lt.desc_create(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
    cublasOperation_t transpose = CUBLAS_OP_T;
    check(lt.desc_set(desc_, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose), "transpose");
    if (a.bias.defined()) {
      cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      check(lt.desc_set(desc_, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue), "epilogue");
      check(lt.desc_set(desc_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a.bias.data, sizeof a.bias.data), "bias");
    }
    auto n = static_cast<uint64_t>(a.w.n), k = static_cast<uint64_t>(a.w.k), t = static_cast<uint64_t>(a.x.dim(0));
    check(lt.layout_create(&w_, type_of(a.w.values.dtype), k, n, a.w.k), "layout");
    check(lt.layout_create(&x_, type_of(a.x.dtype), k, t, a.w.k), "layout");
    check(lt.layout_create(&out_, type_of(a.out.dtype), n, t, a.w.n), "layout");
    check(lt.preference_create(&preference_), "preference");
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspace));
  }
  ~Product() {
    const Library& lt = library();
    if (preference_ != nullptr) lt.preference_destroy(preference_);
    for (cublasLtMatrixLayout_t layout : {w_, x_, out_})
      if (layout != nullptr) lt.layout_destroy(layout);
    if (desc_ != nullptr) lt.desc_destroy(desc_);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  void run(const LinearArgs& a, Stream& stream) {
    const Library& lt = library();
    cublasLtMatmulHeuristicResult_t choice{};
    int found = 0;
    auto ask = [&] {
      return lt.heuristic(current_handle(), desc_, w_, x_, out_, out_, preference_, 1, &choice, &found);
    };
    // For few tokens the library likes to split K, and the launch that adds the parts up costs more than it saves: o
    // with 24 tokens 13.4 us, and 11.7 without (one H100).
    if (a.x.dim(0) <= kFewTokens)
      prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
    if (ask() != CUBLAS_STATUS_SUCCESS || found == 0) {
      prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_MASK});
      check(ask(), "heuristic");
    }
    if (found == 0)
      fail(ErrorCode::kUnsupported, "cuBLASLt: no algorithm for [{}, {}] x [{}, {}]", a.x.dim(0), a.w.k, a.w.n, a.w.k);
    float one = 1.0f, zero = 0.0f;
    check(lt.matmul(current_handle(), desc_, &one, a.w.values.data, w_, a.x.data, x_, &zero, a.out.data, out_,
                    a.out.data, out_, &choice.algo, stream.workspace, static_cast<size_t>(kWorkspace),
                    static_cast<cudaStream_t>(stream.native)),
          "product");
  }

 private:
  template <class Value>
  void prefer(cublasLtMatmulPreferenceAttributes_t what, Value value) {
    check(library().preference_set(preference_, what, &value, sizeof value), "preference");
  }

  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatrixLayout_t w_ = nullptr, x_ = nullptr, out_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

bool aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
}

Verdict supports(const LinearArgs& a) {
  if (a.x.device.type != DeviceType::kCuda) return {"the tensors are not on a CUDA device"};
  if (a.x.dtype != DType::kBF16 && a.x.dtype != DType::kF16) return {"activations are not BF16 or F16"};
  if (a.w.format != WeightFormat::kPlain || a.w.values.dtype != a.x.dtype)
    return {"weights are not of the activations' type"};
  if (a.bias.defined() && (a.bias.dtype != a.x.dtype || a.out.dtype != a.x.dtype))
    return {"bias, output and activations differ in type"};
  if (a.out.dtype != a.x.dtype && a.out.dtype != DType::kF32)
    return {"the output is neither F32 nor of the activations' type"};
  if (a.w.k % 8 != 0 || a.w.n % 8 != 0) return {"N or K is not a multiple of 8"};
  if (!aligned(a.x) || !aligned(a.w.values) || !aligned(a.out) || !aligned(a.bias))
    return {"an operand is not 16-byte aligned"};
  if (forced_capability() != 0) return {"a lower compute capability is forced, which the library does not know"};
  if (current_handle() == nullptr) return {"libcublasLt.so.13 (or .12) could not be opened"};
  return kAccepted;
}

}  // namespace

KernelRow<LinearArgs> linear_cublaslt_row() {
  return {"linear_16bit_cublaslt",
          DeviceType::kCuda,
          "cuBLASLt, any number of tokens",
          supports,
          [](const LinearArgs&) { return kWorkspace; },
          [](const LinearArgs& a, Stream& stream) {
            if (a.x.dim(0) > 0) Product(a).run(a, stream);
          },
          true};
}

}  // namespace tessera::cuda

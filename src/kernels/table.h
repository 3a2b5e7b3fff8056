// The choice of kernels as data: for each op an ordered list of rows; the first row that accepts the arguments runs.
// Built-in and hub kernels are rows of the same table, so what runs can be listed and a refusal says why.
//
// A Kernels object is immutable after construction and may be shared by threads.
#pragma once

#include <concepts>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/ops.h"

namespace tessera {

// Where a launch runs: the pool on a CPU, the native stream on a GPU, and a workspace of at least workspace() bytes,
// 64-byte aligned.
struct Stream {
  ThreadPool* pool = nullptr;
  void* native = nullptr;  // cudaStream_t
  void* workspace = nullptr;
};

// Accepted, or a sentence that completes "refused: ..." and lives as long as the row.
struct Verdict {
  const char* refusal = nullptr;
  explicit operator bool() const { return refusal == nullptr; }
};

inline constexpr Verdict kAccepted{};

template <class Args>
struct KernelRow {
  const char* name;  // <op>_<act>[_<weight>]_<arch>; of a hub kernel ORG/NAME@REVISION
  DeviceType device;
  const char* summary;  // one line: what it is good for
  // Plain functions, but for hub rows: those carry the library that they call, and whatever name and summary point at.
  std::function<Verdict(const Args&)> supports;
  std::function<int64_t(const Args&)> workspace;  // bytes; nullptr = none
  std::function<void(const Args&, Stream&)> launch;
  // A token's result may depend, in its last bits, on how many others are in the call.
  bool varies = false;
  // Compute capabilities (major * 10 + minor) of the GPUs that its code runs on.
  int least = 0, most = 999;
  bool from_hub = false;
};

// Why a row does not run on a GPU, as a static sentence.
const char* capability_refusal(int least, int most);

template <class Args>
struct OpTable {
  const char* op = "";
  std::vector<KernelRow<Args>> rows;  // order = preference
  int capability = 0;                 // of the GPU; 0: not known, and no row is refused for it

  // What the row says, and whether its code runs on this GPU.
  Verdict judge(const KernelRow<Args>& row, const Args& args) const {
    if (Verdict own = row.supports(args); !own) return own;
    if (capability == 0 || (capability >= row.least && capability <= row.most)) return kAccepted;
    return {capability_refusal(row.least, row.most)};
  }
  // The first row that accepts, or nullptr.
  const KernelRow<Args>* choose(const Args& args) const {
    for (const KernelRow<Args>& row : rows)
      if (judge(row, args)) return &row;
    return nullptr;
  }
};

// Which instruction sets the CPU rows may use.
enum class CpuIsa : uint8_t { kAuto, kReference, kAvx2, kAvx512 };
CpuIsa cpu_isa_from_env();  // TESSERA_ISA; throws kInvalidArgument

class Kernels {
 public:
  // Every built-in row this machine can run, best first; the reference rows come last.
  static Kernels builtin(CpuIsa isa = CpuIsa::kAuto);
  // The plain-loop rows only: the oracle of every test.
  static Kernels reference();

  // Without the rows that vary: a token's result is the same, bit by bit, whatever else is computed with it.
  Kernels batch_invariant() const;
  // As a GPU of that compute capability (DeviceInfo) chooses.
  Kernels for_capability(int capability) const;

  OpTable<EmbedArgs> embed{"embed", {}};
  OpTable<RmsNormArgs> rms_norm{"rms_norm", {}};
  OpTable<AddArgs> add{"add", {}};
  OpTable<LinearArgs> linear{"linear", {}};
  OpTable<RopeTableArgs> rope_table{"rope_table", {}};
  OpTable<RopeArgs> rope{"rope", {}};
  OpTable<KvWriteArgs> kv_write{"kv_write", {}};
  OpTable<AttentionArgs> attention{"attention", {}};
  OpTable<RouterArgs> router{"router", {}};
  OpTable<MoeArgs> moe{"moe", {}};
  OpTable<SiluMulArgs> silu_mul{"silu_mul", {}};
  OpTable<RopeKvArgs> rope_kv{"rope_kv", {}};
  OpTable<NormRouterArgs> norm_router{"norm_router", {}};
  OpTable<MoeAddArgs> moe_add{"moe_add", {}};
  OpTable<AllReduceNormArgs> all_reduce_norm{"all_reduce_norm", {}};
  OpTable<LinearSendArgs> linear_send{"linear_send", {}};
  OpTable<MoeSendArgs> moe_send{"moe_send", {}};
  OpTable<RopeAttentionArgs> rope_attention{"rope_attention", {}};
  OpTable<SampleArgs> sample{"sample", {}};
  OpTable<SamplePartsArgs> sample_parts{"sample_parts", {}};
  OpTable<JoinColumnsArgs> join_columns{"join_columns", {}};

  // Calls f(table) for each op, in the order above.
  template <class F>
  void for_each(F&& f) {
    f(embed), f(rms_norm), f(add), f(linear), f(rope_table), f(rope), f(kv_write), f(attention), f(router), f(moe),
        f(silu_mul), f(rope_kv), f(norm_router), f(moe_add), f(rope_attention), f(all_reduce_norm), f(linear_send),
        f(moe_send), f(sample), f(sample_parts), f(join_columns);
  }
  template <class F>
  void for_each(F&& f) const {
    f(embed), f(rms_norm), f(add), f(linear), f(rope_table), f(rope), f(kv_write), f(attention), f(router), f(moe),
        f(silu_mul), f(rope_kv), f(norm_router), f(moe_add), f(rope_attention), f(all_reduce_norm), f(linear_send),
        f(moe_send), f(sample), f(sample_parts), f(join_columns);
  }
};

// Each kind of kernel appends its rows to the tables (defined in reference/, cpu/, cuda/).
void add_reference_kernels(Kernels& kernels);
void add_fused_reference_kernels(Kernels& kernels);  // the oracle's only: a layer does better with the ops one by one
void add_cpu_kernels(Kernels& kernels, CpuIsa isa);
void add_cuda_kernels(Kernels& kernels);  // nothing in a build without CUDA

}  // namespace tessera

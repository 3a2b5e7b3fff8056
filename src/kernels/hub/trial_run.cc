// The child's side of a trial.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <limits>

#include "core/error.h"
#include "kernels/arrange.h"
#include "kernels/hub/trial.h"
#include "kernels/hub/trial_case.h"

namespace tessera::hub_kernels {

namespace {

struct Refused {
  std::string why;
};

// One ulp of the stored type, relative.
double ulp_of(DType t) {
  return t == DType::kBF16 ? 0x1p-7 : t == DType::kF16 ? 0x1p-10 : 0x1p-22;
}

void compare(const Tensor& got, const Tensor& expected, double part, const std::string& where) {
  double largest = 0;
  for (int64_t i = 0; i < expected.numel(); ++i) largest = std::max(largest, std::fabs(value_of(expected, i)));
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const double g = value_of(got, i), e = value_of(expected, i);
    const double allowed = part * largest + ulp_of(got.dtype) * std::fabs(e);
    if (std::fabs(g - e) <= allowed) continue;
    throw Refused{fmt::format("wrong result: {}: element {} is {:.6g}, the reference has {:.6g} (largest {:.3g})",
                              where, i, g, e, largest)};
  }
}

class Trial {
 public:
  Trial(const TrialSpec& spec, int out)
      : spec_(spec),
        out_(out),
        context_(make_context(spec.device)),
        module_(Module::load(spec.library, spec.sha256)),
        function_(module_->find(spec.function)),
        workspace_(module_->find(spec.function + "_workspace")),
        reference_(Kernels::reference()),
        builtin_(Kernels::builtin(cpu_isa_from_env())) {
    if (function_ == nullptr) throw Refused{fmt::format("it exports no function {}", spec.function)};
    context_->make_current();
  }

  template <class Args>
  void run(OpTable<Args> Kernels::*op, TrialResult& result) {
    for (int size = 0; size < kCaseSizes; ++size) one<Args>(op, size, size % 2 == 0, result);
  }

 private:
  Stream stream(void* workspace) { return {&pool_, context_->native_stream(), workspace}; }

  template <class Args>
  void one(OpTable<Args> Kernels::*op, int size, bool at_end, TrialResult& result) {
    CaseMemory host(static_cast<uint32_t>(size) + 1);
    Args problem = make_case<Args>(host, spec_.key, size);
    Args expected = problem;
    operands(expected, [&](Tensor& t, const char*, Role role) {
      if (role != Role::kIn) t = host.copy(t);
    });
    run_row(*(reference_.*op).choose(expected), expected);

    GuardedMemory memory(*context_, at_end);
    Args tried = problem;
    place(tried, memory);
    const int64_t bytes = workspace_bytes(tried);
    const Tensor space = memory.place(host.empty(DType::kU8, {bytes + 1}), "workspace", Role::kOut);
    memory.protect();
    if (!context_->asynchronous()) memory.report_faults_to(out_);
    call(tried, space.data, bytes);
    context_->synchronize();
    if (std::string damage = memory.damage(); !damage.empty()) throw Refused{std::move(damage)};
    std::vector<Tensor> wanted;
    operands(expected, [&](Tensor& t, const char*, Role role) {
      if (role != Role::kIn) wanted.push_back(t);
    });
    size_t next = 0;
    operands(tried, [&](Tensor& t, const char* name, Role role) {
      if (role == Role::kIn) return;
      const Tensor got = host.empty(t.dtype, t.shape);
      memory.read(t, got);
      compare(got, wanted[next++], tolerance<Args>(t.dtype),
              fmt::format("`{}` {} {}", name, t.shape.str(), dtype_name(t.dtype)));
    });
    if (spec_.timed) time(op, tried, space.data, bytes, result);
  }

  template <class Args>
  void place(Args& a, GuardedMemory& memory) {
    operands(a, [&](Tensor& t, const char* name, Role role) { t = memory.place(t, name, role); });
  }
  // On a GPU MXFP4 weights are in the arrangement of its matrix units.
  void place(MoeArgs& a, GuardedMemory& memory) {
    Weight up = a.gate_up, down = a.down;
    const bool atoms = static_cast<WeightFormat>(spec_.key[3]) == WeightFormat::kMxfp4Atoms;
    if (atoms) a.gate_up.values = a.gate_up.scales = a.down.values = a.down.scales = {};
    operands(a, [&](Tensor& t, const char* name, Role role) { t = memory.place(t, name, role); });
    if (atoms) a.gate_up = arranged(up), a.down = arranged(down);
  }

  Weight arranged(const Weight& host) {
    if (context_->device().type != DeviceType::kCuda) throw Refused{"atoms are a GPU's arrangement"};
    const ArrangeOptions options{.activations = DType::kBF16};
    arenas_.emplace_back(*context_, cuda_arranged_bytes(host, options).bytes + 4096);
    std::vector<UploadPiece> pieces;
    float* no_scales = nullptr;
    Weight out = cuda_arrange(host, options, arenas_.back(), no_scales, pieces);
    auto lane = make_upload_lane(*context_, kUploadBlockBytes, /*device_blocks=*/true);
    for (const UploadPiece& piece : pieces) {
      const UploadLane::Block block = lane->begin();
      std::copy_n(piece.values, piece.value_bytes, block.host);
      if (piece.scales)
        std::copy_n(piece.scales, piece.scale_bytes, block.host + (piece.value_bytes + 255) / 256 * 256);
      cuda_send(piece, block, *lane);
      lane->end();
    }
    lane->finish();
    return out;
  }

  template <class Args>
  void run_row(const KernelRow<Args>& row, const Args& args) {
    std::vector<char> space(static_cast<size_t>(row.workspace ? row.workspace(args) : 0) + 64);
    Stream s = stream(reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(space.data()) + 63) / 64 * 64));
    row.launch(args, s);
  }

  template <class Args>
  int64_t workspace_bytes(const Args& args) {
    if (workspace_ == nullptr) return 0;
    Call packed;
    Abi<Args>::pack(packed, args);
    Stream none;
    const ffi::Any n =
        packed.run(module_->runtime(), workspace_, spec_.function + "_workspace", context_->device(), none, 0);
    if (n.type != ffi::kInt || n.i < 0 || n.i > (int64_t{64} << 30))
      throw Refused{fmt::format("{}_workspace returns no sensible number of bytes", spec_.function)};
    return n.i + 512;
  }

  template <class Args>
  void call(const Args& args, void* workspace, int64_t bytes) {
    Call packed;
    Abi<Args>::pack(packed, args);
    Stream s = stream(workspace);
    packed.run(module_->runtime(), function_, spec_.function, context_->device(), s, bytes);
  }

  // The best of many, in microseconds; a GPU's are of 20 at a time.
  template <class F>
  double best_us(F&& launch) {
    using Clock = std::chrono::steady_clock;
    const int together = context_->asynchronous() ? 20 : 1;
    double best = std::numeric_limits<double>::max();
    const auto begin = Clock::now();
    for (int i = 0; i < 1000 && Clock::now() - begin < std::chrono::milliseconds(300); ++i) {
      const auto start = Clock::now();
      for (int k = 0; k < together; ++k) launch();
      context_->synchronize();
      best = std::min(best, std::chrono::duration<double, std::micro>(Clock::now() - start).count() / together);
    }
    return best;
  }

  template <class Args>
  void time(OpTable<Args> Kernels::*op, const Args& args, void* workspace, int64_t bytes, TrialResult& result) {
    TrialTime t{.tokens = tokens_of(args), .hub_us = best_us([&] { call(args, workspace, bytes); }), .builtin = {}};
    if (const KernelRow<Args>* row = (builtin_.*op).choose(args)) {
      const int64_t need = (row->workspace ? row->workspace(args) : 0) + 256;
      void* space = context_->allocate(need);
      Stream s = stream(space);
      t.builtin = row->name;
      t.builtin_us = best_us([&] { row->launch(args, s); });
      context_->release(space);
    }
    result.times.push_back(t);
  }

  const TrialSpec& spec_;
  int out_;
  std::unique_ptr<DeviceContext> context_;
  std::shared_ptr<const Module> module_;
  ffi::Function function_, workspace_;
  Kernels reference_, builtin_;
  ThreadPool pool_;
  std::deque<Arena> arenas_;
};

TrialResult run_all(const TrialSpec& spec, int out) {
  TrialResult result;
  const Layer* layer = find_layer(spec.layer);
  if (layer == nullptr) throw Refused{fmt::format("no layer is called `{}`", spec.layer)};
  Trial trial(spec, out);
  const std::string_view op = layer->op;
  if (op == "rms_norm") trial.run(&Kernels::rms_norm, result);
  if (op == "rope") trial.run(&Kernels::rope, result);
  if (op == "moe") trial.run(&Kernels::moe, result);
  if (op == "attention") trial.run(&Kernels::attention, result);
  if (op == "silu_mul") trial.run(&Kernels::silu_mul, result);
  result.ok = true;
  return result;
}

}  // namespace

void run_trial(const TrialSpec& spec, int out) {
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  TrialResult result;
  try {
    result = run_all(spec, out);
  } catch (const Refused& refused) {
    result.why = refused.why;
  } catch (const Error& e) {
    result.why = e.what();
    result.final = e.code() == ErrorCode::kUnsupported;  // else the world's fault: no memory, no library, no card
  } catch (const std::exception& e) {
    result.why = fmt::format("it throws through the C ABI: {}", e.what());
  }
  const std::string text = result.json().dump(-1, ' ', false, Json::error_handler_t::replace);
  size_t done = 0;
  ssize_t n = 1;
  while (done < text.size() && (n = ::write(out, text.data() + done, text.size() - done)) > 0)
    done += static_cast<size_t>(n);
}

}  // namespace tessera::hub_kernels

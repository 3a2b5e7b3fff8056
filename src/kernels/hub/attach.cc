#include "kernels/hub/attach.h"

#include <algorithm>
#include <deque>
#include <filesystem>
#include <mutex>

#include "core/error.h"
#include "core/log.h"

namespace tessera::hub_kernels {

namespace fs = std::filesystem;

namespace {

// One attached kernel: what its row's functions share.
class HubKernel {
 public:
  // The layer's function or its second one.
  HubKernel(const HubLayer& layer, const Layer& known, const AttachOptions& options, bool second)
      : options_(options), module_(Module::load(layer.library, layer.sha256)) {
    const char* function = second ? known.second : known.function;
    if (second && std::string_view(known.op) == "rms_norm") instead_ = "its part without the add is";
    if (!layer.name.empty() && !second) function_name_ = module_->find_name(layer.name, options.device.type);
    if (function_name_.empty()) function_name_ = module_->find_name(function, options.device.type);
    if (function_name_.empty()) {
      fail(ErrorCode::kUnsupported, "{} exports no {}{} (it has {})", layer.library, ffi::kSymbolPrefix, function,
           fmt::join(module_->functions(), ", "));
    }
    function_ = module_->find(function_name_);
    workspace_ = module_->find(function_name_ + "_workspace");
    name = layer.revision.empty() ? layer.repo : layer.repo + "@" + layer.revision;
    summary = fmt::format("layer {} from the hub, function {}", layer.layer, function_name_);
    spec_ = {.library = layer.library,
             .sha256 = module_->sha256(),
             .layer = layer.layer,
             .function = function_name_,
             .device = options.device.type == DeviceType::kCpu ? "cpu" : fmt::format("cuda:{}", options.device.index)};
  }

  // Tries the kernel when the kind is new; a look-up else.
  Verdict verdict(const Key& key) const {
    std::lock_guard lock(mutex_);
    for (const Tried& t : tried_)
      if (t.key == key) return t.refusal.empty() ? kAccepted : Verdict{t.refusal.c_str()};
    TrialSpec spec = spec_;
    spec.key = key;
    const TrialMemory memory(options_.memory_folder);
    TrialResult result;
    if (!memory.find(spec, options_.device_name, result)) {
      log::info("trying {} of {} on a new kind of problem", function_name_, name);
      result =
          try_in_child(spec, options_.checker.empty() ? checker_program() : options_.checker, options_.trial_timeout_s);
      if (result.final) memory.store(spec, options_.device_name, result);
    }
    tried_.push_back({key, result.ok ? "" : result.why});
    if (result.ok) return kAccepted;
    log::warn("Layer `{}` of `{}`: {} is not used, {}: {}", spec.layer, name, function_name_, instead_, result.why);
    return {tried_.back().refusal.c_str()};
  }

  template <class Args>
  int64_t workspace(const Args& args) const {
    if (workspace_ == nullptr) return 0;
    Call call;
    Abi<Args>::pack(call, args);
    Stream none;
    const ffi::Any bytes = call.run(module_->runtime(), workspace_, function_name_, options_.device, none, 0);
    constexpr int64_t kMost = int64_t{64} << 30;
    if (bytes.type != ffi::kInt || bytes.i < 0 || bytes.i > kMost)
      fail(ErrorCode::kUnsupported, "{}: {}_workspace returns no sensible number of bytes", name, function_name_);
    return bytes.i + 512;  // pieces are aligned to 256
  }

  template <class Args>
  void launch(const Args& args, Stream& stream) const {
    Call call;
    Abi<Args>::pack(call, args);
    call.run(module_->runtime(), function_, name, options_.device, stream, workspace_ ? workspace(args) : 0);
  }

  Device device() const { return options_.device; }
  bool exports(const std::string& function) const {
    return !module_->find_name(function, options_.device.type).empty();
  }
  std::string name, summary;

 private:
  struct Tried {
    Key key;
    std::string refusal;
  };
  AttachOptions options_;
  std::shared_ptr<const Module> module_;
  std::string function_name_;
  ffi::Function function_ = nullptr, workspace_ = nullptr;
  TrialSpec spec_;
  const char* instead_ = "the built-in kernel is";
  mutable std::mutex mutex_;
  mutable std::deque<Tried> tried_;  // addresses of refusals stay
};

const Tensor& output_of(const RmsNormArgs& a) {
  return a.out;
}
const Tensor& output_of(const RopeArgs& a) {
  return a.x;
}
const Tensor& output_of(const SiluMulArgs& a) {
  return a.out;
}
const Tensor& output_of(const AttentionArgs& a) {
  return a.out;
}
const Tensor& output_of(const MoeArgs& a) {
  return a.out;
}

template <class Args>
KernelRow<Args> make_row(const std::shared_ptr<const HubKernel>& kernel) {
  return {.name = kernel->name.c_str(),
          .device = kernel->device().type,
          .summary = kernel->summary.c_str(),
          .supports = [kernel](const Args& args) -> Verdict {
            if (!(output_of(args).device == kernel->device())) return {"the tensors are on another device"};
            if (Verdict v = Abi<Args>::expressible(args); !v) return v;
            return kernel->verdict(Abi<Args>::key(args));
          },
          .workspace = [kernel](const Args& args) { return kernel->workspace(args); },
          .launch = [kernel](const Args& args, Stream& stream) { kernel->launch(args, stream); },
          .varies = true,  // nobody promises that it does not
          .from_hub = true};
}

// rms_norm has no residual. Where one is added, the library's add_rms_norm does both, or the built-in add goes before.
KernelRow<RmsNormArgs> make_norm_row(const std::shared_ptr<const HubKernel>& kernel,
                                     const std::shared_ptr<const HubKernel>& fused, const OpTable<AddArgs>& add) {
  KernelRow<RmsNormArgs> row = make_row<RmsNormArgs>(kernel);
  auto without_delta = [](RmsNormArgs args) {
    args.delta = {};
    return args;
  };
  auto takes_delta = [fused](const RmsNormArgs& args) {
    return args.delta.defined() && fused && fused->verdict(Abi<RmsNormArgs>::key(args));
  };
  row.supports = [plain = row.supports, without_delta, takes_delta](const RmsNormArgs& args) {
    const Verdict verdict = plain(without_delta(args));
    if (verdict) takes_delta(args);  // tried now, not in the middle of a step
    return verdict;
  };
  row.workspace = [kernel, fused, without_delta, takes_delta](const RmsNormArgs& args) {
    const int64_t bytes = kernel->workspace(without_delta(args));
    return takes_delta(args) ? std::max(bytes, fused->workspace(args)) : bytes;
  };
  row.launch = [kernel, fused, add, without_delta, takes_delta](const RmsNormArgs& args, Stream& stream) {
    if (takes_delta(args)) return fused->launch(args, stream);
    if (args.delta.defined()) {
      const AddArgs sum{.x = args.residual, .delta = args.delta};
      add.choose(sum)->launch(sum, stream);
    }
    kernel->launch(without_delta(args), stream);
  };
  return row;
}

// A rank's part of the experts needs a function of its own: moe_mlp's ids count from its first expert.
KernelRow<MoeArgs> make_moe_row(const std::shared_ptr<const HubKernel>& kernel,
                                const std::shared_ptr<const HubKernel>& of_part) {
  KernelRow<MoeArgs> row = make_row<MoeArgs>(kernel);
  if (!of_part) {
    row.supports = [whole = row.supports](const MoeArgs& args) -> Verdict {
      if (args.part) return {"this rank holds some of the experts, and the library exports no moe_mlp_part"};
      return whole(args);
    };
    return row;
  }
  const KernelRow<MoeArgs> part = make_row<MoeArgs>(of_part);
  auto rows_of = [](auto whole, auto some) {
    return [whole, some](const MoeArgs& args, auto&... more) {
      return args.part ? some(args, more...) : whole(args, more...);
    };
  };
  row.supports = rows_of(row.supports, part.supports);
  row.workspace = rows_of(row.workspace, part.workspace);
  row.launch = rows_of(row.launch, part.launch);
  return row;
}

// A fused kernel gives way where a hub kernel computes a part of it.
template <class Fused, class Args, class Part>
void yield_to(OpTable<Fused>& fused, const KernelRow<Args>& row, Part part) {
  for (KernelRow<Fused>& other : fused.rows) {
    if (other.device != row.device) continue;
    other.supports = [inner = other.supports, hub = row.supports, part](const Fused& args) -> Verdict {
      const Verdict verdict = inner(args);
      if (verdict && hub(part(args))) return {"a kernel from the hub computes a part of this"};
      return verdict;
    };
  }
}

template <class Args>
const KernelRow<Args>& put_first(OpTable<Args>& table, KernelRow<Args> row) {
  return *table.rows.insert(table.rows.begin(), std::move(row));
}

void add_row(Kernels& kernels, const Layer& layer, const std::shared_ptr<const HubKernel>& kernel,
             const std::shared_ptr<const HubKernel>& second) {
  const std::string_view op = layer.op;
  if (op == "rms_norm") {
    const auto& row = put_first(kernels.rms_norm, make_norm_row(kernel, second, kernels.add));
    yield_to(kernels.norm_router, row, [](const NormRouterArgs& a) {
      return RmsNormArgs{.residual = a.residual,
                         .delta = a.delta,
                         .weight = a.norm_weight,
                         .eps = a.eps,
                         .round_before_weight = a.round_before_weight,
                         .out = a.normed};
    });
  } else if (op == "rope") {
    const auto& row = put_first(kernels.rope, make_row<RopeArgs>(kernel));
    yield_to(kernels.rope_kv, row, [](const RopeKvArgs& a) { return RopeArgs{a.q, a.cos, a.sin}; });
    yield_to(kernels.rope_attention, row, [](const RopeAttentionArgs& a) {
      return RopeArgs{a.rope.q, a.rope.cos, a.rope.sin};
    });
  } else if (op == "moe") {
    const auto& row = put_first(kernels.moe, make_moe_row(kernel, second));
    yield_to(kernels.moe_add, row, [](const MoeAddArgs& a) { return a.moe; });
    yield_to(kernels.moe_send, row, [](const MoeSendArgs& a) { return a.moe; });
  } else if (op == "attention") {
    const auto& row = put_first(kernels.attention, make_row<AttentionArgs>(kernel));
    yield_to(kernels.rope_attention, row, [](const RopeAttentionArgs& a) { return a.attention; });
  } else {
    put_first(kernels.silu_mul, make_row<SiluMulArgs>(kernel));
  }
}

}  // namespace

std::vector<Attached> attach(Kernels& kernels, std::span<const HubLayer> layers, const AttachOptions& options) {
  std::vector<Attached> out;
  for (const HubLayer& layer : layers) {
    Attached result{.layer = layer.layer, .line = {}};
    const std::string& shown = layer.name.empty() ? layer.layer : layer.name;
    try {
      const Layer* known = find_layer(layer.layer);
      if (known == nullptr) fail(ErrorCode::kUnsupported, "no layer is called that; docs/kernel-abi.md lists them");
      auto kernel = std::make_shared<const HubKernel>(layer, *known, options, false);
      std::shared_ptr<const HubKernel> second;
      if (known->second && kernel->exports(known->second))
        second = std::make_shared<const HubKernel>(layer, *known, options, true);
      add_row(kernels, *known, kernel, second);
      result.used = true;
      result.line = fmt::format("Using layer `{}` from repo `{}`{}", shown, layer.repo,
                                layer.revision.empty() ? "" : fmt::format(" (revision: {})", layer.revision));
      log::info("{}", result.line);
    } catch (const Error& e) {
      result.line = fmt::format("Layer `{}` is not taken from repo `{}`, the built-in kernel is used: {}", shown,
                                layer.repo, e.what());
      log::warn("{}", result.line);
    }
    out.push_back(std::move(result));
  }
  return out;
}

std::string library_of_folder(const std::string& path, DeviceType device) {
  std::error_code none;
  if (fs::is_regular_file(path, none)) return path;
  if (!fs::is_directory(path, none)) fail(ErrorCode::kNotFound, "{}: no such kernel folder", path);
  fs::path folder = path;
  if (fs::is_directory(folder / "build", none)) {
    // Variants are named tvm-ffi<version>-<backend>-<cpu>-<os>.
    const std::string backend = device == DeviceType::kCuda ? "-cu" : "-cpu-";
    std::vector<fs::path> fitting;
    std::string seen;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder / "build", none)) {
      const std::string name = entry.path().filename().string();
      seen += (seen.empty() ? "" : ", ") + name;
      if (name.starts_with("tvm-ffi") && name.find(backend) != std::string::npos) fitting.push_back(entry.path());
    }
    if (fitting.empty())
      fail(ErrorCode::kUnsupported, "{}/build has no tvm-ffi variant for this device ({})", path, seen);
    folder = *std::max_element(fitting.begin(), fitting.end());
  }
  std::vector<fs::path> libraries;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, none))
    if (entry.path().extension() == ".so") libraries.push_back(entry.path());
  if (libraries.size() != 1)
    fail(ErrorCode::kUnsupported, "{}: {} libraries (*.so); a variant has one, which 'tessera kernels build' makes",
         folder.string(), libraries.size());
  return libraries[0].string();
}

}  // namespace tessera::hub_kernels

#include "cli/kernel_tools.h"

#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <set>

#include "api/hub_layers.h"
#include "cli/options.h"
#include "core/device_context.h"
#include "core/error.h"
#include "kernels/hub/attach.h"
#include "kernels/hub/kinds.h"
#include "kernels/hub/package.h"
#include "kernels/hub/scaffold.h"

namespace tessera::cli {

namespace fs = std::filesystem;
using namespace hub_kernels;

namespace {

constexpr int kTrialFd = 3;

// Runs a program and waits. Throws kIo, and kUnsupported when it fails.
void run_program(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + word;
  const pid_t pid = fork();
  if (pid == 0) {
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    dup2(STDERR_FILENO, STDOUT_FILENO);  // standard output is the answer
    execvp(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) fail(ErrorCode::kIo, "{}: cannot be run", line);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) fail(ErrorCode::kNotFound, "{} is not installed", words[0]);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail(ErrorCode::kUnsupported, "this failed: {}", line);
}

std::string device_text(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

int try_one() {
  std::string text(1 << 16, '\0');
  size_t done = 0;
  ssize_t n = 0;
  while (done < text.size() && (n = ::read(STDIN_FILENO, text.data() + done, text.size() - done)) > 0)
    done += static_cast<size_t>(n);
  text.resize(done);
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded())
    fail(ErrorCode::kInvalidArgument, "kernels try: this program starts it itself; use 'tessera kernels check'");
  run_trial(TrialSpec::parse(json), kTrialFd);
  return 0;
}

struct CheckedKind {
  std::string layer, function, kind;
  TrialResult result;
};

OrderedJson as_json(const CheckedKind& c) {
  OrderedJson times = OrderedJson::array();
  for (const TrialTime& t : c.result.times) {
    times.push_back({{"tokens", t.tokens},
                     {"microseconds", t.hub_us},
                     {"builtin_microseconds", t.builtin_us},
                     {"builtin", t.builtin}});
  }
  return {{"layer", c.layer},  {"function", c.function}, {"problem", c.kind},
          {"ok", c.result.ok}, {"why", c.result.why},    {"times", times}};
}

std::string as_text(const CheckedKind& c) {
  std::string text = fmt::format("\n{}  {}  {}\n  {}\n", c.layer, c.function, c.kind,
                                 c.result.ok ? "agrees with the reference" : "REFUSED: " + c.result.why);
  for (const TrialTime& t : c.result.times) {
    text += fmt::format("  {:>4} tokens: {:>10.1f} us", t.tokens, t.hub_us);
    if (t.builtin_us > 0)
      text += fmt::format(", {} {:.1f} us ({:.2f}x)", t.builtin, t.builtin_us, t.builtin_us / t.hub_us);
    text += "\n";
  }
  return text;
}

}  // namespace

std::string own_kernels_library() {
  std::error_code none;
  const fs::path folder = fs::read_symlink("/proc/self/exe", none).parent_path();
  for (const fs::path& place :
       {folder / "tessera_kernels.so", folder.parent_path() / "lib" / "tessera" / "tessera_kernels.so"})
    if (fs::exists(place, none)) return place.string();
  fail(ErrorCode::kNotFound,
       "tessera_kernels.so is neither beside this program nor in ../lib/tessera; build that target");
}

void KernelTools::add(CLI::App& kernels) {
  check_ = kernels.add_subcommand("check", "try a kernel against the reference, and time it beside the built-in one");
  check_
      ->add_option("SOURCE", source_,
                   "a kernel's library, a variant's or a repository's folder, or ORG/NAME[@REVISION] of the hub")
      ->required();
  check_->add_option("--device", device_, "cpu, cuda, cuda:N")->capture_default_str();
  check_->add_option("--layer", only_layer_, "this layer only, such as RMSNorm");
  check_->add_option("--timeout", timeout_, "seconds that a try may take")
      ->check(CLI::Range(1.0, 3600.0))
      ->capture_default_str();
  check_->add_option("--trust-remote-code", trusted_, "ORG/NAME: take it although its publisher is not trusted")
      ->allow_extra_args(false);
  check_->footer(
      "\nexamples:\n  tessera kernels check examples/custom_kernel\n  tessera kernels check mine.so --device cuda\n"
      "  tessera kernels check ORG/NAME@v1");

  init_ = kernels.add_subcommand("init", "start a kernel project: sources, CMake, tests, bench, metadata");
  init_->add_option("DIR", folder_, "a new folder; its name is the kernel's")->required();

  build_ = kernels.add_subcommand("build", "build a kernel project into build/<variant>/ with digests");
  build_->add_option("DIR", folder_, "the project")->required();
  build_->add_option("--out", out_, "where build/ goes (default: the project)");
  build_
      ->add_option("--abi-floor", floor_,
                   "the oldest system it shall run on: manylinux_2_28, _2_31, _2_34, _2_35, none")
      ->capture_default_str();

  export_ = kernels.add_subcommand("export", "write this program's own kernels as a kernel repository");
  export_->add_option("DIR", folder_, "where build/<variant>/ goes")->required();
  export_->add_option("--abi-floor", floor_of_export_, "refuse when they need a newer system, such as manylinux_2_34")
      ->capture_default_str();

  for (CLI::App* author : {init_, build_})
    author->footer(
        "\nexamples:\n  tessera kernels init my-norm\n  tessera kernels build my-norm\n  tessera kernels check "
        "my-norm");
  export_->footer(
      "\nexamples:\n  tessera kernels export ours\n  tessera chat MODEL --use-kernels RMSNorm=ours,MoE=ours");

  try_ = kernels.add_subcommand("try", "");
  try_->group("");  // hidden
}

std::optional<int> KernelTools::run(Invocation& call) const {
  if (try_->parsed()) return try_one();
  if (check_->parsed()) return check(call);
  if (init_->parsed()) return init(call);
  if (build_->parsed()) return build(call);
  if (export_->parsed()) return export_ours(call);
  return std::nullopt;
}

int KernelTools::check(Invocation& call) const {
  if (!only_layer_.empty() && find_layer(only_layer_) == nullptr)
    fail(ErrorCode::kInvalidArgument, "--layer {}: no layer is called that; docs/kernel-abi.md lists them",
         only_layer_);
  const std::unique_ptr<DeviceContext> context = make_context(device_);
  const Device device = context->device();
  const std::string name = context->info().name;  // by which trials are remembered
  hub::KernelSettings settings = hub::kernel_settings_from_env();
  settings.trusted_repos = trusted_;
  const HubLayer source = find_kernel(source_, settings, *context);
  const std::string& library = source.library;
  const std::shared_ptr<const Module> module = Module::load(library, source.sha256);
  std::vector<CheckedKind> checked;
  std::set<std::string> used;
  for (const Layer& layer : layers()) {
    if (!only_layer_.empty() && only_layer_ != layer.name) continue;
    for (const char* wanted : {layer.function, layer.second}) {
      const std::string function = wanted ? module->find_name(wanted, device.type) : "";
      if (function.empty() || !used.insert(function).second) continue;
      for (const Kind& kind : usual_kinds(layer, device.type, wanted == layer.second)) {
        const TrialSpec spec{.library = library,
                             .sha256 = module->sha256(),
                             .layer = layer.name,
                             .function = function,
                             .device = device_text(device),
                             .key = kind.key,
                             .timed = true};
        checked.push_back({layer.name, function, kind.text, try_in_child(spec, checker_program(), timeout_)});
        if (checked.back().result.final) TrialMemory().store(spec, name, checked.back().result);
        if (!call.json) call.out.text(as_text(checked.back()));
      }
    }
  }
  if (checked.empty()) {
    fail(ErrorCode::kUnsupported, "{}: no function computes a layer here (it has {}); docs/kernel-abi.md lists them",
         library, fmt::join(module->functions(), ", "));
  }
  const bool good = std::all_of(checked.begin(), checked.end(), [](const CheckedKind& c) { return c.result.ok; });
  if (call.json) {
    OrderedJson list = OrderedJson::array();
    for (const CheckedKind& c : checked) list.push_back(as_json(c));
    call.out.json(
        {{"library", library}, {"sha256", module->sha256()}, {"device", name}, {"ok", good}, {"checks", list}});
  }
  return good ? 0 : 1;
}

int KernelTools::init(Invocation& call) const {
  const std::vector<std::string> files = write_scaffold(folder_);
  if (call.json) {
    call.out.json({{"folder", folder_}, {"files", files}});
  } else {
    call.out.text(fmt::format("{}: {} files; next: tessera kernels build {}\n", folder_, files.size(), folder_));
  }
  return 0;
}

int KernelTools::build(Invocation& call) const {
  const AbiFloor floor = abi_floor(floor_);
  PackageInfo info = read_package_info(folder_ + "/kernel.json");
  const std::string work = folder_ + "/.cmake-build", out = out_.empty() ? folder_ : out_;
  run_program({"cmake", "-S", folder_, "-B", work});
  run_program({"cmake", "--build", work, "--parallel"});
  OrderedJson variants = OrderedJson::array();
  std::error_code none;
  for (const fs::directory_entry& backend : fs::directory_iterator(work + "/out", none)) {
    info.backend = backend.path().filename().string();  // "cpu", "cu130"
    const Package made =
        write_package(library_of_folder(backend.path().string(), DeviceType::kCpu), info, floor, true, out);
    variants.push_back({{"variant", made.variant}, {"folder", made.folder}, {"functions", made.functions}});
    if (!call.json) call.out.text(fmt::format("{}: {}\n", made.folder, fmt::join(made.functions, ", ")));
  }
  if (variants.empty()) fail(ErrorCode::kNotFound, "{}/out: the build left no <backend>/NAME.so there", work);
  if (call.json) call.out.json({{"abi_floor", floor.name}, {"variants", variants}});
  return 0;
}

int KernelTools::export_ours(Invocation& call) const {
  const std::string library = own_kernels_library();
  PackageInfo info{.name = "gpt-oss-kernels", .version = 1, .license = "Apache-2.0"};
  info.backend = TESSERA_KERNELS_BACKEND;
  if (info.backend != "cpu") info.archs = {"9.0a"};
  const Package made = write_package(library, info, abi_floor(floor_of_export_), true, folder_);
  if (call.json) {
    call.out.json({{"variant", made.variant}, {"folder", made.folder}, {"functions", made.functions}});
  } else {
    call.out.text(fmt::format("{}: {}\n", made.folder, fmt::join(made.functions, ", ")));
  }
  return 0;
}

}  // namespace tessera::cli

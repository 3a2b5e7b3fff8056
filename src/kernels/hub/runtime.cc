#include "kernels/hub/runtime.h"

#include <dlfcn.h>

#include <algorithm>
#include <filesystem>

#include "core/env.h"
#include "core/error.h"

namespace tessera::hub_kernels {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFile = "libtvm_ffi.so";

// Where pip puts the library below a Python environment.
void add_environment(const fs::path& root, std::vector<std::string>& out) {
  std::error_code none;
  for (const char* lib : {"lib", "lib64"}) {
    for (const fs::directory_entry& entry : fs::directory_iterator(root / lib, none)) {
      if (!entry.path().filename().string().starts_with("python3")) continue;
      for (const char* packages : {"site-packages", "dist-packages"})
        out.push_back((entry.path() / packages / "tvm_ffi" / "lib" / kFile).string());
    }
  }
}

template <class F>
bool bind(void* library, const char* name, F*& to) {
  to = reinterpret_cast<F*>(dlsym(library, name));
  return to != nullptr;
}

std::shared_ptr<const Runtime> load(const std::string& path, std::string& why) {
  // Global: a kernel's library may leave the symbols to whoever loads it.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    why = dlerror();
    return nullptr;
  }
  auto runtime = std::make_shared<Runtime>();
  void (*get_version)(ffi::Version*) = nullptr;
  const bool whole = bind(library, "TVMFFIGetVersion", get_version) &&
                     bind(library, "TVMFFIErrorMoveFromRaised", runtime->error_move_from_raised) &&
                     bind(library, "TVMFFIObjectDecRef", runtime->object_dec_ref) &&
                     bind(library, "TVMFFIEnvSetStream", runtime->env_set_stream) &&
                     bind(library, "TVMFFIEnvSetDLPackManagedTensorAllocator", runtime->env_set_allocator);
  if (!whole) {
    dlclose(library);
    why = fmt::format("{} lacks calls of tvm-ffi's C ABI; expected apache-tvm-ffi 0.1.6 or newer", path);
    return nullptr;
  }
  get_version(&runtime->version);
  Dl_info info{};
  runtime->path = dladdr(reinterpret_cast<void*>(get_version), &info) && info.dli_fname ? info.dli_fname : path;
  return runtime;
}

std::shared_ptr<const Runtime> search(std::string& why) {
  std::string tried;
  for (const std::string& path : runtime_candidates()) {
    if (path.find('/') != std::string::npos && !fs::exists(path)) {
      tried += (tried.empty() ? "" : ", ") + path;
      continue;
    }
    std::string reason;
    if (auto runtime = load(path, reason)) return runtime;
    tried += (tried.empty() ? "" : ", ") + reason;
  }
  why = fmt::format(
      "kernels from the hub need libtvm_ffi.so, which is not here ({}); `pip install apache-tvm-ffi` into a virtual "
      "environment and activate it, or set TESSERA_TVM_FFI to the file or to that environment",
      tried);
  return nullptr;
}

}  // namespace

std::vector<std::string> runtime_candidates() {
  std::vector<std::string> out;
  std::error_code none;
  if (const std::string given = env_string(Env::kTvmFfi); !given.empty()) {
    if (!fs::is_directory(given, none)) return {given};
    out.push_back((fs::path(given) / kFile).string());
    add_environment(given, out);
    return out;
  }
  const fs::path program = fs::read_symlink("/proc/self/exe", none).parent_path();
  out.push_back((program / kFile).string());
  out.push_back((program.parent_path() / "lib" / kFile).string());
  if (const std::string active = env_string(Env::kVirtualEnv); !active.empty()) add_environment(active, out);
  out.push_back(kFile);
  add_environment("/usr/local", out);
  add_environment("/usr", out);
  return out;
}

std::shared_ptr<const Runtime> Runtime::try_open(std::string* why) {
  struct Opened {
    std::string why;
    std::shared_ptr<const Runtime> runtime = search(why);
  };
  static const Opened opened;
  if (!opened.runtime && why) *why = opened.why;
  return opened.runtime;
}

std::shared_ptr<const Runtime> Runtime::open() {
  std::string why;
  if (auto runtime = try_open(&why)) return runtime;
  fail(ErrorCode::kNotFound, "{}", why);
}

std::string Runtime::take_error() const {
  void* object = nullptr;
  error_move_from_raised(&object);
  if (object == nullptr) return "failed without an error";
  const auto* error = static_cast<const ffi::ErrorObject*>(object);
  std::string text = fmt::format("{}: {}", std::string_view(error->kind.data, error->kind.size),
                                 std::string_view(error->message.data, error->message.size));
  object_dec_ref(object);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return text;
}

}  // namespace tessera::hub_kernels

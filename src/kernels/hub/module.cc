#include "kernels/hub/module.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>

#include "core/error.h"
#include "core/json.h"
#include "hub/content_hash.h"
#include "kernels/hub/elf.h"

namespace tessera::hub_kernels {

namespace {

constexpr int64_t kMaxLibraryBytes = int64_t{2} << 30;

std::string read_library(const std::string& path) {
  std::error_code none;
  const auto size = std::filesystem::file_size(path, none);
  if (none) fail(ErrorCode::kNotFound, "{}: no such file", path);
  if (static_cast<int64_t>(size) > kMaxLibraryBytes)
    fail(ErrorCode::kUnsupported, "{}: {} bytes, more than the {} a kernel may have", path, size, kMaxLibraryBytes);
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(ErrorCode::kIo, "{}: {}", path, std::strerror(errno));
  std::string bytes(size, '\0');
  size_t done = 0;
  ssize_t n = 1;
  while (done < size && (n = ::read(file, bytes.data() + done, size - done)) > 0) done += static_cast<size_t>(n);
  ::close(file);
  if (done != size) fail(ErrorCode::kIo, "{}: read {} of {} bytes", path, done, size);
  return bytes;
}

std::string sha256_of(const std::string& bytes) {
  hub::ContentHash hash(std::string(64, '0'), static_cast<int64_t>(bytes.size()));
  hash.update(bytes.data(), bytes.size());
  return hash.finish();
}

// The loader's own copy, sealed. On success its descriptor stays open: the loader knows libraries by their path, so the
// path must never name another one.
void* load_bytes(const std::string& path, const std::string& bytes) {
  const std::string name = std::filesystem::path(path).filename().string();
  const int memory = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (memory < 0) fail(ErrorCode::kIo, "{}: no memory file: {}", path, std::strerror(errno));
  size_t done = 0;
  ssize_t n = 1;
  while (done < bytes.size() && (n = ::write(memory, bytes.data() + done, bytes.size() - done)) > 0)
    done += static_cast<size_t>(n);
  fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  void* handle = done == bytes.size()
                     ? dlopen(fmt::format("/proc/self/fd/{}", memory).c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)
                     : nullptr;
  const char* error = handle ? nullptr : dlerror();
  if (handle != nullptr) return handle;
  const std::string why = error ? error : "it cannot be copied";
  ::close(memory);
  fail(ErrorCode::kUnsupported, "{}: the loader refuses it: {}", path, why);
}

// Libraries are never unloaded, so one that is there is used again: its threads and its memory are there once.
void* load_once(const std::string& path, const std::string& sha256, const std::string& bytes) {
  static std::mutex mutex;
  static std::map<std::string, void*> loaded;  // by SHA-256
  std::lock_guard lock(mutex);
  auto found = loaded.find(sha256);
  if (found == loaded.end()) found = loaded.emplace(sha256, load_bytes(path, bytes)).first;
  return found->second;
}

ffi::DlType dl_type(DType t) {
  const auto bits = static_cast<uint8_t>(8 * dtype_size(t));
  switch (t) {
    case DType::kF64:
    case DType::kF32:
    case DType::kF16:
      return {ffi::kDlFloat, bits, 1};
    case DType::kBF16:
      return {ffi::kDlBfloat, bits, 1};
    case DType::kI64:
    case DType::kI32:
    case DType::kI16:
    case DType::kI8:
      return {ffi::kDlInt, bits, 1};
    case DType::kU8:
      return {ffi::kDlUInt, bits, 1};
    case DType::kBool:
      return {ffi::kDlBool, bits, 1};
    case DType::kF8E4M3:
      return {ffi::kDlFloat8E4M3, bits, 1};
    case DType::kF8E5M2:
      return {ffi::kDlFloat8E5M2, bits, 1};
  }
  return {};
}

ffi::DlDevice dl_device(Device d) {
  return {d.type == DeviceType::kCuda ? ffi::kDlCuda : ffi::kDlCpu, d.index};
}

// The workspace of the call that this thread is in. The environment's allocator is a plain function, so this is where
// it finds its memory.
struct Workspace {
  char* base = nullptr;
  int64_t bytes = 0;
  int64_t used = 0;
};
thread_local Workspace* current_workspace = nullptr;

struct Temporary {
  ffi::DlManaged managed{};
  int64_t dims[2 * 8] = {};
};

int allocate(ffi::DlTensor* prototype, ffi::DlManaged** out, void* context,
             void (*set_error)(void*, const char*, const char*)) {
  constexpr int64_t kAlign = 256;
  Workspace* space = current_workspace;
  int64_t bytes = (prototype->type.bits * prototype->type.lanes + 7) / 8;
  const bool sane = prototype->rank >= 0 && prototype->rank <= 8;
  for (int i = 0; sane && i < prototype->rank; ++i)
    if (prototype->shape[i] < 0 || __builtin_mul_overflow(bytes, prototype->shape[i], &bytes)) bytes = -1;
  const int64_t begin = space ? (reinterpret_cast<intptr_t>(space->base) + space->used + kAlign - 1) / kAlign * kAlign -
                                    reinterpret_cast<intptr_t>(space->base)
                              : 0;
  if (!sane || bytes < 0 || space == nullptr || bytes > space->bytes - begin) {
    char text[200];
    std::snprintf(text, sizeof text,
                  "a temporary tensor of %lld bytes does not fit into the workspace: %lld bytes, %lld in use; export a "
                  "function NAME_workspace that returns what is needed",
                  static_cast<long long>(bytes), static_cast<long long>(space ? space->bytes : 0),
                  static_cast<long long>(space ? space->used : 0));
    set_error(context, "MemoryError", text);
    return -1;
  }
  auto* made = new Temporary;
  made->managed.major = 1, made->managed.minor = 0;
  made->managed.context = made;
  made->managed.deleter = [](ffi::DlManaged* self) { delete static_cast<Temporary*>(self->context); };
  made->managed.tensor = *prototype;
  made->managed.tensor.byte_offset = 0;
  made->managed.tensor.data = space->base + begin;
  made->managed.tensor.shape = made->dims;
  made->managed.tensor.strides = made->dims + 8;
  int64_t stride = 1;
  for (int i = prototype->rank - 1; i >= 0; --i) {
    made->dims[i] = prototype->shape[i];
    made->dims[8 + i] = stride;
    stride *= prototype->shape[i];
  }
  space->used = begin + bytes;
  *out = &made->managed;
  return 0;
}

// The environment of one call: the stream of a GPU, the workspace, and back to what was before.
class Environment {
 public:
  Environment(const Runtime& runtime, Device device, const Stream& stream, int64_t workspace_bytes)
      : runtime_(runtime), device_(dl_device(device)), gpu_(device.type == DeviceType::kCuda) {
    workspace_ = {static_cast<char*>(stream.workspace), workspace_bytes, 0};
    before_ = std::exchange(current_workspace, &workspace_);
    runtime_.env_set_allocator(allocate, 0, &old_allocator_);
    if (gpu_) runtime_.env_set_stream(device_.type, device_.index, stream.native, &old_stream_);
  }
  ~Environment() {
    if (gpu_) runtime_.env_set_stream(device_.type, device_.index, old_stream_, nullptr);
    runtime_.env_set_allocator(old_allocator_, 0, nullptr);
    current_workspace = before_;
  }
  Environment(const Environment&) = delete;

 private:
  const Runtime& runtime_;
  ffi::DlDevice device_;
  bool gpu_;
  Workspace workspace_;
  Workspace* before_ = nullptr;
  ffi::Allocator old_allocator_ = nullptr;
  void* old_stream_ = nullptr;
};

}  // namespace

std::shared_ptr<const Module> Module::load(const std::string& path, const std::string& sha256) {
  auto module = std::make_shared<Module>();
  module->path_ = path;
  const std::string bytes = read_library(path);
  module->sha256_ = sha256_of(bytes);
  if (!sha256.empty() && sha256 != module->sha256_) {
    fail(ErrorCode::kCorrupt, "{}: SHA-256 is {}, expected {}; the file was changed since it was verified", path,
         module->sha256_, sha256);
  }
  const ElfLibrary elf = read_elf(bytes, path);
  const std::string_view prefix = ffi::kSymbolPrefix;
  for (const std::string& symbol : elf.exported)
    if (symbol.starts_with(prefix) && !symbol.substr(prefix.size()).starts_with("_"))
      module->functions_.push_back(symbol.substr(prefix.size()));
  if (module->functions_.empty()) {
    fail(ErrorCode::kUnsupported,
         "{}: exports no {}NAME, so it is no tvm-ffi kernel; torch and Triton kernels need Python", path, prefix);
  }
  module->runtime_ = Runtime::open();
  module->handle_ = load_once(path, module->sha256_, bytes);
  return module;
}

ffi::Function Module::find(const std::string& name) const {
  return reinterpret_cast<ffi::Function>(dlsym(handle_, (ffi::kSymbolPrefix + name).c_str()));
}

std::string Module::find_name(const std::string& name, DeviceType device) const {
  for (const std::string& wanted : {name + (device == DeviceType::kCuda ? "_cuda" : "_cpu"), name})
    if (std::binary_search(functions_.begin(), functions_.end(), wanted)) return wanted;
  return "";
}

ffi::Any& Call::next(int32_t type) {
  TS_CHECK(count_ < kMaxArguments);
  ffi::Any& any = args_[static_cast<size_t>(count_++)];
  any.type = type;
  any.padding = 0;
  any.i = 0;
  return any;
}

Call& Call::tensor(const Tensor& t) {
  if (!t.defined()) {
    next(ffi::kNone);
    return *this;
  }
  auto& dims = dims_[static_cast<size_t>(tensors_)];
  ffi::DlTensor& view = views_[static_cast<size_t>(tensors_++)];
  const int rank = t.shape.rank();
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; --i) {
    dims[static_cast<size_t>(i)] = t.shape[i];
    dims[static_cast<size_t>(kMaxRank + i)] = stride;
    stride *= t.shape[i];
  }
  view = {t.data, dl_device(t.device), rank, dl_type(t.dtype), dims.data(), dims.data() + kMaxRank, 0};
  next(ffi::kTensorView).p = &view;
  return *this;
}

Call& Call::integer(int64_t value) {
  next(ffi::kInt).i = value;
  return *this;
}

Call& Call::real(double value) {
  next(ffi::kFloat).d = value;
  return *this;
}

ffi::Any Call::run(const Runtime& runtime, ffi::Function function, std::string_view what, Device device, Stream& stream,
                   int64_t workspace_bytes) {
  ffi::Any result{};
  const Environment environment(runtime, device, stream, workspace_bytes);
  if (function(nullptr, args_.data(), count_, &result) != 0)
    fail(ErrorCode::kUnsupported, "{}: {}", what, runtime.take_error());
  if (result.type >= ffi::kObjects) {  // an object that nobody asked for
    runtime.object_dec_ref(const_cast<void*>(result.p));
    result = {};
  }
  return result;
}

}  // namespace tessera::hub_kernels

#include "loading/loading_property.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <set>

#include "core/error.h"
#include "loading/safetensors_index.h"

namespace tessera {

namespace {

// A file in memory that can be opened by path.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : fd_(memfd_create("tessera", MFD_CLOEXEC)) {
    TS_CHECK(fd_ >= 0 && write(fd_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return fmt::format("/proc/self/fd/{}", fd_); }

 private:
  int fd_;
};

std::string check_file(const SafetensorsFile& file) {
  int64_t cursor = 0;
  unsigned sum = 0;
  std::set<std::string> names;
  for (const TensorInfo& info : file.tensors()) {
    Tensor t = file.view(info);
    if (info.begin != cursor || info.end - info.begin != t.bytes())
      return info.name + " is not where or as large as it should be";
    cursor = info.end;
    for (int64_t i = 0; i < t.bytes(); ++i) sum += t.as<unsigned char>()[i];
    if (!names.insert(info.name).second) return info.name + " appears twice";
    if (file.find(info.name) != &info) return info.name + " is not found";
  }
  if (cursor != file.data_bytes()) return "bytes are left over";
  file.check_unchanged();
  return sum == 0x7fffffff ? "unlikely" : "";  // the sum is used, so the reads happen
}

}  // namespace

std::string check_safetensors_file(std::string_view bytes) {
  MemoryFile memory(bytes);
  try {
    return check_file(SafetensorsFile::open(memory.path()));
  } catch (const Error& e) {
    return std::string_view(e.what()).find('\n') != std::string_view::npos ? "a message of several lines" : "";
  }
}

std::string check_safetensors_index(std::string_view bytes) {
  try {
    for (const auto& [tensor, shard] : parse_safetensors_index(bytes, "index").weight_map)
      if (shard.empty() || shard[0] == '.' || shard.find_first_of(std::string_view("/\\\0", 3)) != shard.npos)
        return shard;
    return "";
  } catch (const Error& e) {
    return std::string_view(e.what()).find('\n') != std::string_view::npos ? "a message of several lines" : "";
  }
}

}  // namespace tessera

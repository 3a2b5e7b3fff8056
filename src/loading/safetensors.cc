#include "loading/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/json.h"
#include "loading/strict_json.h"

namespace tessera {

namespace {

// Receives the header's JSON as events, so that nothing but tensor entries is kept and a repeated key is seen.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(const std::string& path, SafetensorsHeader& header) : path_(path), header_(header) {}

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_float(double, const std::string&) override { return unexpected("a number that is no whole number"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_integer(int64_t value) override { return number(value); }
  bool number_unsigned(uint64_t value) override {
    if (value > static_cast<uint64_t>(INT64_MAX)) reject("holds the number {}, beyond 63 bits", value);
    return number(static_cast<int64_t>(value));
  }

  bool string(std::string& value) override {
    if (at_ == At::kMetadata) {
      if (!header_.metadata.emplace(key_, value).second) reject("repeats the key \"{}\"", printable(key_));
    } else if (at_ == At::kTensor && key_ == "dtype") {
      std::optional<DType> dtype = dtype_from_safetensors(value);
      if (!dtype) {
        fail(ErrorCode::kUnsupported, "{}: tensor {} has dtype \"{}\", which this program does not know", path_,
             printable(info_.name), printable(value));
      }
      info_.dtype = *dtype;
      once(seen_dtype_);
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_object(size_t) override {
    if (at_ == At::kStart) {
      at_ = At::kRoot;
    } else if (at_ == At::kRoot && key_ == "__metadata__") {
      if (std::exchange(seen_metadata_, true)) reject("appears twice");
      at_ = At::kMetadata;
    } else if (at_ == At::kRoot) {
      info_ = TensorInfo{.name = key_};
      seen_dtype_ = seen_shape_ = seen_offsets_ = false;
      at_ = At::kTensor;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(std::string& value) override {
    if (at_ == At::kTensor && value != "dtype" && value != "shape" && value != "data_offsets")
      reject("has the unknown key \"{}\"", printable(value));
    key_ = value;
    if (at_ == At::kRoot) entry_ = value;
    return true;
  }

  bool end_object() override {
    if (at_ == At::kTensor) {
      if (!seen_dtype_ || !seen_shape_ || !seen_offsets_) reject("lacks dtype, shape or data_offsets");
      header_.tensors.push_back(std::move(info_));
    }
    at_ = at_ == At::kRoot ? At::kStart : At::kRoot;
    return true;
  }

  bool start_array(size_t) override {
    if (at_ == At::kTensor && key_ == "shape") {
      once(seen_shape_);
      at_ = At::kShape;
    } else if (at_ == At::kTensor && key_ == "data_offsets") {
      once(seen_offsets_);
      offsets_ = 0;
      at_ = At::kOffsets;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (at_ == At::kOffsets && offsets_ != 2) reject("has {} data_offsets; expected begin and end", offsets_);
    at_ = At::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    fail(ErrorCode::kCorrupt, "{}: header is not valid JSON at byte {} ({})", path_, position, printable(e.what()));
  }

 private:
  enum class At { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets };

  template <class... Args>
  [[noreturn]] void reject(fmt::format_string<Args...> format, Args&&... args) {
    fail(ErrorCode::kCorrupt, "{}: header entry {} {}", path_, printable(entry_),
         fmt::format(format, std::forward<Args>(args)...));
  }

  bool unexpected(const char* what) {
    if (at_ == At::kStart) fail(ErrorCode::kCorrupt, "{}: header is {}; expected a JSON object", path_, what);
    reject("has {} where the format has none", what);
  }

  void once(bool& seen) {
    if (std::exchange(seen, true)) reject("repeats the key \"{}\"", key_);
  }

  bool number(int64_t value) {
    if (at_ != At::kShape && at_ != At::kOffsets) unexpected("a number");
    if (value < 0) reject("holds the negative number {}", value);
    if (at_ == At::kShape) {
      if (info_.shape.rank() == kMaxRank) {
        fail(ErrorCode::kUnsupported, "{}: tensor {} has more than {} dimensions, the most this program handles", path_,
             printable(entry_), kMaxRank);
      }
      info_.shape.push_back(value);
    } else {
      if (offsets_ == 0) info_.begin = value;
      if (offsets_ == 1) info_.end = value;
      if (++offsets_ > 2) reject("has more than two data_offsets");
    }
    return true;
  }

  const std::string& path_;
  SafetensorsHeader& header_;
  At at_ = At::kStart;
  std::string key_;
  std::string entry_;  // the root's key: a tensor's name, or __metadata__
  TensorInfo info_;
  bool seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false, seen_metadata_ = false;
  int offsets_ = 0;
};

// dtype x shape, or -1 when it does not fit 63 bits.
int64_t checked_bytes(const TensorInfo& info) {
  int64_t bytes = dtype_size(info.dtype);
  bool zero = false;
  for (int i = 0; i < info.shape.rank(); ++i) {
    zero |= info.shape[i] == 0;
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(info.shape[i], 1), &bytes)) return -1;
  }
  return zero ? 0 : bytes;
}

void check_ranges(const SafetensorsHeader& header, int64_t data_bytes, const std::string& path) {
  int64_t cursor = 0;
  const TensorInfo* last = nullptr;
  for (const TensorInfo& t : header.tensors) {
    if (t.end < t.begin)
      fail(ErrorCode::kCorrupt, "{}: tensor {} ends at byte {}, before its begin {}", path, printable(t.name), t.end,
           t.begin);
    int64_t bytes = checked_bytes(t);
    if (bytes != t.end - t.begin) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} is {} {}, {}, but its byte range [{}, {}) has {} bytes", path,
           printable(t.name), dtype_name(t.dtype), t.shape.str(),
           bytes < 0 ? "more than 63 bits can count" : fmt::format("{} bytes", bytes), t.begin, t.end, t.end - t.begin);
    }
    if (t.begin != cursor) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} begins at byte {}, {} {}", path, printable(t.name), t.begin,
           t.begin < cursor ? "inside" : "leaving a hole after",
           last ? fmt::format("tensor {}, which ends at {}", printable(last->name), cursor) : "the start of the data");
    }
    cursor = t.end;
    last = &t;
  }
  if (cursor > data_bytes) {
    fail(ErrorCode::kCorrupt,
         "{}: the file is {} bytes shorter than its header says; the download is incomplete, fetch it again", path,
         cursor - data_bytes);
  }
  if (cursor < data_bytes) {
    fail(ErrorCode::kCorrupt, "{}: {} bytes after the last tensor belong to none", path, data_bytes - cursor);
  }
}

std::vector<uint32_t> sort_by_name(const SafetensorsHeader& header, const std::string& path) {
  const auto& tensors = header.tensors;
  std::vector<uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return tensors[a].name < tensors[b].name; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (tensors[order[i - 1]].name == tensors[order[i]].name)
      fail(ErrorCode::kCorrupt, "{}: tensor {} appears twice in the header", path, printable(tensors[order[i]].name));
  }
  return order;
}

int64_t modified_ns(const struct stat& st) {
  return int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
}

// The first `size` bytes of the file. A short read means that the file shrank after fstat.
void read_exactly(int fd, char* out, int64_t size, int64_t offset, const std::string& path) {
  while (size > 0) {
    ssize_t n = pread(fd, out, static_cast<size_t>(size), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorCode::kIo, "{}: {}", path, std::strerror(errno));
    if (n == 0) fail(ErrorCode::kCorrupt, "{}: shrank while it was read", path);
    out += n;
    offset += n;
    size -= n;
  }
}

}  // namespace

bool is_aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(dtype_size(t.dtype)) == 0;
}

SafetensorsHeader parse_safetensors_header(std::string_view json, int64_t data_bytes, const std::string& path) {
  if (json.empty() || json[0] != '{') fail(ErrorCode::kCorrupt, "{}: header does not start with '{{'", path);
  // The JSON library takes a NUL for the end of its input.
  if (json.find('\0') != json.npos) fail(ErrorCode::kCorrupt, "{}: header holds a NUL byte", path);
  SafetensorsHeader header;
  HeaderReader reader(path, header);
  Json::sax_parse(json, &reader);
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  sort_by_name(header, path);
  check_ranges(header, data_bytes, path);
  return header;
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile file;
  file.path_ = path;
  file.fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not block
  if (file.fd_ < 0) {
    bool absent = errno == ENOENT || errno == ENOTDIR;
    fail(absent ? ErrorCode::kNotFound : ErrorCode::kIo, "{}: {}", path, std::strerror(errno));
  }
  struct stat st {};
  if (fstat(file.fd_, &st) != 0) fail(ErrorCode::kIo, "{}: {}", path, std::strerror(errno));
  if (!S_ISREG(st.st_mode)) fail(ErrorCode::kIo, "{}: is not a regular file", path);
  file.file_bytes_ = st.st_size;
  file.modified_ns_ = modified_ns(st);
  if (file.file_bytes_ < 8) {
    fail(ErrorCode::kCorrupt,
         "{}: {} bytes are too few for a safetensors file; the download is incomplete, fetch it again", path,
         file.file_bytes_);
  }
  char prefix[8];
  read_exactly(file.fd_, prefix, 8, 0, path);
  if (std::string_view(prefix, 8) == "version ")
    fail(ErrorCode::kCorrupt, "{}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder", path);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(prefix[i]);
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeader)) {
    fail(ErrorCode::kCorrupt, "{}: header of {} bytes; expected at most {}: not a safetensors file?", path, length,
         kMaxSafetensorsHeader);
  }
  auto header_bytes = static_cast<int64_t>(length);
  if (header_bytes > file.file_bytes_ - 8) {
    fail(ErrorCode::kCorrupt, "{}: header of {} bytes in a file of {}; the download is incomplete, fetch it again",
         path, header_bytes, file.file_bytes_);
  }
  std::string json(static_cast<size_t>(header_bytes), '\0');
  read_exactly(file.fd_, json.data(), header_bytes, 8, path);
  file.data_bytes_ = file.file_bytes_ - 8 - header_bytes;
  file.header_ = parse_safetensors_header(json, file.data_bytes_, path);
  file.by_name_ = sort_by_name(file.header_, path);
  void* p = mmap(nullptr, static_cast<size_t>(file.file_bytes_), PROT_READ, MAP_PRIVATE, file.fd_, 0);
  if (p == MAP_FAILED)
    fail(ErrorCode::kIo, "{}: cannot map {} bytes: {}", path, file.file_bytes_, std::strerror(errno));
  file.base_ = static_cast<char*>(p);
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (base_) munmap(base_, static_cast<size_t>(file_bytes_));
  if (fd_ >= 0) close(fd_);
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept {
  *this = std::move(other);
}

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(header_, other.header_);
  std::swap(by_name_, other.by_name_);
  std::swap(fd_, other.fd_);
  std::swap(base_, other.base_);
  std::swap(file_bytes_, other.file_bytes_);
  std::swap(data_bytes_, other.data_bytes_);
  std::swap(modified_ns_, other.modified_ns_);
  return *this;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                             [&](uint32_t i, std::string_view n) { return header_.tensors[i].name < n; });
  if (it == by_name_.end() || header_.tensors[*it].name != name) return nullptr;
  return &header_.tensors[*it];
}

Tensor SafetensorsFile::view(const TensorInfo& info) const {
  return Tensor{base_ + (file_bytes_ - data_bytes_) + info.begin, info.shape, info.dtype, Device{}};
}

bool SafetensorsFile::maps(const void* address) const {
  const char* p = static_cast<const char*>(address);
  return base_ != nullptr && p >= base_ && p < base_ + file_bytes_;
}

// What is in memory is copied at once. The rest is asked for whole before it is waited for: the system's own window of
// reading ahead is a fraction of a block.
void SafetensorsFile::read(const void* address, int64_t bytes, char* to) const {
  int64_t at = static_cast<const char*>(address) - base_;
  bool in_memory = true;
  while (bytes > 0) {
    iovec part{to, static_cast<size_t>(bytes)};
    const ssize_t got = in_memory ? preadv2(fd_, &part, 1, at, RWF_NOWAIT) : preadv(fd_, &part, 1, at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && in_memory) {  // EAGAIN, or a file system that does not know the flag
      in_memory = false;
      readahead(fd_, at, static_cast<size_t>(bytes));
      continue;
    }
    if (got < 0) fail(ErrorCode::kIo, "{}: cannot be read: {}", path_, std::strerror(errno));
    if (got == 0) fail(ErrorCode::kCorrupt, "{}: was cut while it was being loaded; load it again", path_);
    to += got;
    at += got;
    bytes -= got;
  }
}

void SafetensorsFile::check_unchanged() const {
  struct stat st {};
  if (fstat(fd_, &st) != 0) fail(ErrorCode::kIo, "{}: {}", path_, std::strerror(errno));
  if (st.st_size != file_bytes_ || modified_ns(st) != modified_ns_)
    fail(ErrorCode::kCorrupt, "{}: was changed while it was being loaded; load it again", path_);
}

}  // namespace tessera

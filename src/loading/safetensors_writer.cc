#include "loading/safetensors_writer.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <set>

#include "core/json.h"
#include "loading/parallel_tasks.h"
#include "loading/safetensors_index.h"
#include "loading/strict_json.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kHeaderAlign = 64;  // of the data part, so that a mapped tensor starts at a cache line where it can
constexpr int64_t kPiece = int64_t{8} << 20;

double gigabytes(int64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

[[noreturn]] void fail_write(const std::string& path, int error) {
  const char* advice = error == ENOSPC || error == EDQUOT || error == EFBIG ? "; make room and run it again" : "";
  fail(ErrorCode::kIo, "{}: cannot write: {}{}", path, std::strerror(error), advice);
}

void write_exactly(int fd, const char* data, int64_t bytes, int64_t offset, const std::string& path) {
  while (bytes > 0) {
    ssize_t n = pwrite(fd, data, static_cast<size_t>(std::min(bytes, kPiece)), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_write(path, errno);
    data += n;
    offset += n;
    bytes -= n;
  }
}

void check_free_space(const std::string& folder, int64_t bytes) {
  struct statvfs s {};
  if (statvfs(folder.c_str(), &s) != 0) return;
  auto available = static_cast<int64_t>(s.f_bavail) * static_cast<int64_t>(s.f_frsize);
  if (available < bytes) {
    fail(ErrorCode::kIo,
         "{}: {:.3f} GB are needed and {:.3f} GB free on this file system; make room or choose another place", folder,
         gigabytes(bytes), gigabytes(available));
  }
}

std::string header_json(const std::vector<const TensorSpec*>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + Json(metadata).dump();
  int64_t begin = 0;
  for (const TensorSpec* t : tensors) {
    Json shape = Json::array();
    for (int i = 0; i < t->shape.rank(); ++i) shape.push_back(t->shape[i]);
    if (text.size() > 1) text += ',';
    text += fmt::format(R"({}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", Json(t->name).dump(),
                        dtype_name(t->dtype), shape.dump(), begin, begin + t->bytes());
    begin += t->bytes();
  }
  return text + "}";
}

}  // namespace

CheckpointWriter::CheckpointWriter(const std::string& folder, std::vector<TensorSpec> tensors, WriteSettings settings)
    : folder_(folder), tensors_(std::move(tensors)), places_(tensors_.size()), durable_(settings.durable) {
  std::set<std::string_view> names;
  for (const TensorSpec& t : tensors_) {
    if (t.name == "__metadata__" || !names.insert(t.name).second)
      fail(ErrorCode::kInvalidArgument, "{}: cannot write two tensors named {}", folder, printable(t.name));
    total_bytes_ += t.bytes();
  }
  std::error_code error;
  made_folder_ = fs::create_directories(folder_, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot create the folder: {}", folder_, error.message());
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    std::string name = entry.path().filename().string();
    if (name == kIndexName || name.ends_with(".safetensors")) {
      fail(ErrorCode::kInvalidArgument, "{}: already holds weights ({}); choose another folder or remove them", folder_,
           printable(name));
    }
  }
  try {
    plan_shards(settings);
    check_free_space(folder_, total_bytes_);
    for (Shard& shard : shards_) create(shard, settings.metadata);
  } catch (...) {
    discard();
    throw;
  }
}

CheckpointWriter::~CheckpointWriter() {
  if (!finished_) discard();
}

void CheckpointWriter::discard() noexcept {
  for (Shard& shard : shards_) {
    if (shard.fd >= 0) close(shard.fd);
    shard.fd = -1;
    if (!shard.temporary.empty()) unlink((shard.named ? path(shard.name) : shard.temporary).c_str());
  }
  if (made_folder_) rmdir(folder_.c_str());  // stays when the caller has put something there
}

void CheckpointWriter::plan_shards(const WriteSettings& settings) {
  std::map<std::string, size_t> known;  // given file names
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (settings.shard_of.empty()) {
      bool full = !shards_.empty() && shards_.back().data_bytes + tensors_[i].bytes() > settings.max_shard_bytes;
      if (shards_.empty() || (full && shards_.back().data_bytes > 0)) shards_.emplace_back();
      places_[i].shard = shards_.size() - 1;
    } else {
      auto it = settings.shard_of.find(tensors_[i].name);
      if (it == settings.shard_of.end())
        fail(ErrorCode::kInvalidArgument, "{}: no file is given for tensor {}", folder_, printable(tensors_[i].name));
      auto [place, fresh] = known.emplace(it->second, shards_.size());
      if (fresh) shards_.emplace_back().name = it->second;
      places_[i].shard = place->second;
    }
    Shard& shard = shards_[places_[i].shard];
    shard.tensors.push_back(i);
    shard.data_bytes += tensors_[i].bytes();
  }
  if (shards_.empty()) shards_.emplace_back();
  single_ = shards_.size() == 1 && settings.shard_of.empty();
  for (size_t i = 0; i < shards_.size(); ++i) {
    if (single_) shards_[i].name = kSingleFileName;
    if (shards_[i].name.empty())
      shards_[i].name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards_.size());
  }
}

void CheckpointWriter::create(Shard& shard, const std::map<std::string, std::string>& metadata) {
  std::stable_sort(shard.tensors.begin(), shard.tensors.end(),
                   [&](size_t a, size_t b) { return dtype_size(tensors_[a].dtype) > dtype_size(tensors_[b].dtype); });
  std::vector<const TensorSpec*> specs;
  int64_t begin = 0;
  for (size_t i : shard.tensors) {
    specs.push_back(&tensors_[i]);
    places_[i].begin = begin;
    begin += tensors_[i].bytes();
  }
  std::string header = header_json(specs, metadata);
  shard.data_begin = (8 + static_cast<int64_t>(header.size()) + kHeaderAlign - 1) / kHeaderAlign * kHeaderAlign;
  header.resize(static_cast<size_t>(shard.data_begin - 8), ' ');
  std::string prefix(8, '\0');
  for (size_t i = 0; i < 8; ++i) prefix[i] = static_cast<char>(header.size() >> (8 * i));

  std::string temporary = path(fmt::format(".{}.{}.tmp", shard.name, getpid()));
  shard.fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (shard.fd < 0) fail(ErrorCode::kIo, "{}: cannot create: {}", temporary, std::strerror(errno));
  shard.temporary = std::move(temporary);
  // Takes the blocks now, where the file system can: a full disk shows before hours of work, not after.
  int64_t size = shard.data_begin + shard.data_bytes;
  int result;
  do {
    result = fallocate(shard.fd, 0, 0, size);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) result = ftruncate(shard.fd, size);
  if (result != 0) fail_write(path(shard.name), errno);
  header = prefix + header;
  write_exactly(shard.fd, header.data(), static_cast<int64_t>(header.size()), 0, path(shard.name));
}

void CheckpointWriter::write(size_t tensor, int64_t begin, const void* data, int64_t bytes) {
  TS_CHECK(begin >= 0 && bytes >= 0 && begin + bytes <= tensors_[tensor].bytes());
  const Shard& shard = shards_[places_[tensor].shard];
  write_exactly(shard.fd, static_cast<const char*>(data), bytes, shard.data_begin + places_[tensor].begin + begin,
                path(shard.name));
}

std::string CheckpointWriter::index_json() const {
  Json map = Json::object();
  for (size_t i = 0; i < tensors_.size(); ++i) map[tensors_[i].name] = shards_[places_[i].shard].name;
  return Json{{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", std::move(map)}}.dump(2) + "\n";
}

void CheckpointWriter::finish() {
  TS_CHECK(!finished_);
  for (Shard& shard : shards_) {
    int failed = durable_ ? fsync(shard.fd) : 0;
    int error = errno;
    failed |= close(std::exchange(shard.fd, -1));
    if (failed != 0) fail_write(path(shard.name), error);
  }
  for (Shard& shard : shards_) {
    if (rename(shard.temporary.c_str(), path(shard.name).c_str()) != 0) fail_write(path(shard.name), errno);
    shard.named = true;
  }
  if (!single_) write_text_file(path(kIndexName), index_json());
  finished_ = true;
  if (!durable_) return;
  int fd = open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // the names are as durable as the system makes them
  fsync(fd);
  close(fd);
}

void save_checkpoint(const std::string& folder, const std::vector<std::pair<std::string, Tensor>>& tensors,
                     const WriteSettings& settings, ThreadPool& pool) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
  CheckpointWriter writer(folder, std::move(specs), settings);
  for (size_t i = 0; i < tensors.size(); ++i) write_tensor(writer, i, tensors[i].second, pool);
  writer.finish();
}

void write_tensor(CheckpointWriter& writer, size_t tensor, const Tensor& values, ThreadPool& pool) {
  int64_t bytes = values.bytes();
  parallel_tasks(pool, (bytes + kPiece - 1) / kPiece, [&](int64_t i) {
    writer.write(tensor, i * kPiece, values.as<char>() + i * kPiece, std::min(kPiece, bytes - i * kPiece));
  });
}

}  // namespace tessera

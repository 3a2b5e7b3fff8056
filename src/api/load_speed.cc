#include "api/load_speed.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "api/describe.h"
#include "core/error.h"
#include "core/upload_lane.h"
#include "engine/placement.h"
#include "hub/resolve.h"
#include "loading/checkpoint.h"
#include "loading/parallel_tasks.h"
#include "loading/prefetch.h"
#include "models/registry.h"

namespace tessera {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Resident memory of this process that is no page of a file (Linux, proc(5)).
int64_t resident_bytes() {
  std::ifstream status("/proc/self/status");
  int64_t kib = 0;
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:") || line.starts_with("RssShmem:"))
      kib += std::stoll(line.substr(line.find(':') + 1));
  return kib * 1024;
}

// Watches memory from a thread of its own, a thousand times a second.
class Watch {
 public:
  explicit Watch(DeviceContext& context)
      : context_(context), device_start_(free_bytes()), host_start_(resident_bytes()), thread_([this] { run(); }) {}
  ~Watch() { stop(); }
  Watch(const Watch&) = delete;
  void stop() {
    stopped_ = true;
    if (thread_.joinable()) thread_.join();
  }
  int64_t device_peak() const { return device_start_ - least_free_; }
  int64_t host_peak() const { return most_host_ - host_start_; }

 private:
  int64_t free_bytes() const { return context_.asynchronous() ? context_.info().free_bytes : 0; }
  void look() {
    least_free_ = std::min(least_free_, free_bytes());
    most_host_ = std::max(most_host_, resident_bytes());
  }
  void run() {
    context_.make_current();
    while (!stopped_) {
      look();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    look();
  }

  DeviceContext& context_;
  int64_t device_start_, host_start_;
  int64_t least_free_ = device_start_, most_host_ = host_start_;
  std::atomic<bool> stopped_{false};
  std::thread thread_;  // last: it uses the rest
};

constexpr int64_t kSector = 4096;  // what O_DIRECT asks for at most

struct Piece {
  int file = -1;
  int64_t offset = 0, bytes = 0;
};

// The files' bytes, in pieces of a lane's block. `flags`: of open(), such as O_DIRECT.
class Files {
 public:
  explicit Files(const SafetensorsSet& set, int flags = 0) {
    for (const SafetensorsFile& file : set.files()) {
      const int fd = ::open(file.path().c_str(), O_RDONLY | O_CLOEXEC | flags);
      if (fd < 0) fail(ErrorCode::kIo, "{}: {}", file.path(), std::strerror(errno));
      fds_.push_back(fd);
      const int64_t size = ::lseek(fd, 0, SEEK_END);
      for (int64_t at = 0; at < size; at += kUploadBlockBytes)
        pieces_.push_back({fd, at, std::min(kUploadBlockBytes, size - at)});
      bytes_ += size;
    }
  }
  ~Files() {
    for (int fd : fds_) ::close(fd);
  }
  Files(const Files&) = delete;
  int64_t bytes() const { return bytes_; }
  size_t count() const { return pieces_.size(); }
  void read(size_t i, char* to) const {
    const Piece& p = pieces_[i];
    for (int64_t done = 0; done < p.bytes;) {
      const int64_t wanted = (p.bytes - done + kSector - 1) / kSector * kSector;  // a block has room for it
      const ssize_t got = ::pread(p.file, to + done, static_cast<size_t>(wanted), p.offset + done);
      if (got <= 0)
        fail(ErrorCode::kIo, "reading a weight file: {}", got == 0 ? "it ended early" : std::strerror(errno));
      done += got;
    }
  }
  int64_t piece_bytes(size_t i) const { return pieces_[i].bytes; }

 private:
  std::vector<int> fds_;
  std::vector<Piece> pieces_;
  int64_t bytes_ = 0;
};

// Each thread reads pieces into memory of its own, and on a GPU sends them to one block of the device's.
double bare_copy(const SafetensorsSet& set, DeviceContext& context, ThreadPool& pool) {
  const Files files(set);
  Arena target = context.asynchronous() ? Arena(context, files.bytes() + kUploadBlockBytes) : Arena(4096);
  char* base = static_cast<char*>(target.allocate(context.asynchronous() ? files.bytes() : 0));
  const auto start = Clock::now();
  std::atomic<size_t> next{0};
  std::atomic<int64_t> placed{0};
  const int64_t threads = context.asynchronous() ? count_lanes(pool.size(), files.bytes(), false) : pool.size();
  parallel_tasks(pool, threads, [&](int64_t) {
    std::unique_ptr<UploadLane> lane;
    std::vector<char> buffer;
    if (context.asynchronous()) {
      lane = make_upload_lane(context, kUploadBlockBytes, /*device_blocks=*/false);
    } else {
      buffer.resize(static_cast<size_t>(kUploadBlockBytes));
    }
    for (size_t i = next++; i < files.count(); i = next++) {
      if (!lane) {
        files.read(i, buffer.data());
        continue;
      }
      const UploadLane::Block block = lane->begin();
      files.read(i, block.host);
      lane->send(base + placed.fetch_add(files.piece_bytes(i)), block.host, files.piece_bytes(i));
      lane->end();
    }
    if (lane) lane->finish();
  });
  return seconds_since(start);
}

// The fastest of a few numbers of threads, straight from the disk.
double disk_read(const SafetensorsSet& set) {
  double best = 0;
  for (int threads : {2, 4, 8}) {
    const Files files(set, O_DIRECT);
    ThreadPool pool(threads);
    const auto start = Clock::now();
    std::atomic<size_t> next{0};
    parallel_tasks(pool, threads, [&](int64_t) {
      const std::unique_ptr<char, void (*)(void*)> buffer(
          static_cast<char*>(std::aligned_alloc(kSector, static_cast<size_t>(kUploadBlockBytes))), std::free);
      for (size_t i = next++; i < files.count(); i = next++) files.read(i, buffer.get());
    });
    const double seconds = seconds_since(start);
    best = best == 0 ? seconds : std::min(best, seconds);
  }
  return best;
}

// The checkpoint's files, and what earlier loads made of this or another one.
void forget(const SafetensorsSet& set, const std::string& arranged) {
  for (const SafetensorsFile& file : set.files()) forget_pages(file.path());
  std::error_code none;
  if (arranged.empty()) return;
  for (const auto& entry : std::filesystem::directory_iterator(arranged, none))
    if (entry.path().extension() == ".arranged") forget_pages(entry.path().string());
}

// Reads a byte of every page that the weights lie in.
void touch(const WeightPlan& plan, ThreadPool& pool) {
  constexpr int64_t kPage = 4096, kPart = int64_t{1} << 24;
  auto touch_one = [&](const Tensor& t) {
    if (!t.defined()) return;
    parallel_tasks(pool, (t.bytes() + kPart - 1) / kPart, [&](int64_t part) {
      const volatile char* bytes = t.as<char>();
      for (int64_t at = part * kPart; at < std::min(t.bytes(), (part + 1) * kPart); at += kPage) (void)bytes[at];
    });
  };
  for (const WeightRow& row : plan.rows()) {
    if (row.tensor != nullptr) touch_one(*row.tensor);
    if (row.weight != nullptr) touch_one(row.weight->values), touch_one(row.weight->scales);
  }
}

}  // namespace

LoadSpeed measure_load(const std::string& model, const LoadOptions& options, const LoadBench& bench) {
  const std::string folder = hub::locate_model(model, hub::Need::kModel);
  ThreadPool pool(options.threads);
  const std::unique_ptr<DeviceContext> context = make_context(options.device);
  LoadSpeed speed;
  {
    const Checkpoint checkpoint = Checkpoint::open(folder);
    if (bench.cold) {
      speed.disk_seconds = disk_read(checkpoint.tensors());
      forget(checkpoint.tensors(), options.arranged_cache);
    }
    speed.bare_seconds = bare_copy(checkpoint.tensors(), *context, pool);
    if (bench.cold) forget(checkpoint.tensors(), options.arranged_cache);
  }
  Watch watch(*context);
  const auto start = Clock::now();
  Checkpoint checkpoint = Checkpoint::open(folder);
  const std::unique_ptr<Model> loaded = make_model(checkpoint.config());
  const DType dtype = resolve_dtype(options.dtype, checkpoint.config());
  WeightPlan plan;
  loaded->declare(plan);
  const bool cuda = context->device().type == DeviceType::kCuda;
  const LoadSettings settings{
      .dtype = dtype, .dequantize = options.dequantize, .deferred = cuda, .arranged_cache = options.arranged_cache};
  for (const LoadedRow& row : checkpoint.load(plan, settings, pool)) speed.bytes += row.file_bytes;
  Arena weights;
  if (cuda) {
    PlacementReport report;
    const ArrangeOptions arrange{.activations = dtype,
                                 .capability = context->info().capability,
                                 .fp8 = options.dense == "fp8",
                                 .expand = options.dequantize};
    auto read = [&](const void* source, int64_t bytes, char* to) { checkpoint.read(source, bytes, to); };
    weights = place_weights(plan, arrange, *context, pool, read, &report, bench.preallocate);
    speed.pinned_bytes = report.pinned_bytes;
    speed.staging_bytes = report.staging_bytes;
    speed.device_bytes = weights.bytes_taken();
    speed.allocations = weights.allocations();
  }
  speed.load_seconds = seconds_since(start);
  if (!context->asynchronous()) {
    touch(plan, pool);
    speed.touch_seconds = seconds_since(start);
  }
  watch.stop();
  speed.device_peak = watch.device_peak();
  speed.host_peak = watch.host_peak();
  return speed;
}

}  // namespace tessera

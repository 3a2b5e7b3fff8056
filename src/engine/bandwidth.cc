#include "engine/bandwidth.h"

#include <fcntl.h>
#include <unistd.h>

#include <hwy/cache_control.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "core/arena.h"
#include "core/error.h"

namespace tessera {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Eight sums, so that loads do not wait for each other.
uint64_t sum(const uint64_t* words, int64_t count) {
  uint64_t sums[8] = {};
  for (int64_t i = 0; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7];
}

}  // namespace

HostBandwidth measure_host_bandwidth(ThreadPool& pool, int64_t bytes) {
  constexpr int64_t kPiece = int64_t{256} << 10, kWords = kPiece / 8, kLine = 64;
  constexpr int64_t kLeastPieces = 64;
  constexpr double kTouchSeconds = 0.05, kReadSeconds = 0.15;
  constexpr size_t kLeastPasses = 3, kMostPasses = 15;
  const int64_t most = std::max<int64_t>(bytes / kPiece, 1);
  Arena arena(most * kPiece);
  auto* data = static_cast<uint64_t*>(arena.allocate(most * kPiece));
  // Pages cost far more than reading them: no more than there is time for.
  const double begun = now();
  std::atomic<int64_t> pieces{most};
  pool.parallel_for(most, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      if (i >= kLeastPieces && now() - begun > kTouchSeconds) {
        for (int64_t first = pieces; i < first && !pieces.compare_exchange_weak(first, i);) {
        }
        return;
      }
      std::fill_n(data + i * kWords, kWords, uint64_t{1});
    }
  });
  std::atomic<uint64_t> sink{0};
  std::vector<double> rates;
  for (const double start = now(); rates.size() < kMostPasses;) {
    if (rates.size() >= kLeastPasses && now() - start > kReadSeconds) break;
    pool.parallel_for(pieces, 1, [&](int64_t begin, int64_t end, int) {
      const char* line = reinterpret_cast<const char*>(data);
      for (int64_t at = begin * kPiece; at < end * kPiece; at += kLine) hwy::FlushCacheline(line + at);
    });
    const double pass = now();
    pool.parallel_for(pieces, 1, [&](int64_t begin, int64_t end, int) {
      sink.fetch_xor(sum(data + begin * kWords, (end - begin) * kWords), std::memory_order_relaxed);
    });
    rates.push_back(static_cast<double>(pieces * kPiece) / (now() - pass));
  }
  std::sort(rates.begin(), rates.end());
  return {.median = rates[rates.size() / 2], .best = rates.back(), .bytes = pieces * kPiece};
}

double measure_device_bandwidth(DeviceContext& context) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  constexpr int kCopies = 8;
  if (context.info().free_bytes < 4 * kBytes) return 0;
  Arena arena(context, 2 * kBytes + 4096);
  void *to = arena.allocate(kBytes), *from = arena.allocate(kBytes);
  double seconds = 0;
  for (int pass = 0; pass < 2; ++pass) {  // the first one wakes it
    const double start = now();
    for (int i = 0; i < kCopies; ++i) context.copy_on_device(to, from, kBytes);
    context.synchronize();
    seconds = now() - start;
  }
  return 2.0 * kCopies * static_cast<double>(kBytes) / seconds;
}

double measure_disk_bandwidth(const std::string& path, ThreadPool& pool) {
  constexpr int64_t kPiece = int64_t{8} << 20, kMost = int64_t{512} << 20;
  const int file = open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (file < 0) return 0;
  const int64_t pieces = std::min<int64_t>(lseek(file, 0, SEEK_END), kMost) / kPiece;
  Arena arena(pool.size() * kPiece + 4096);
  char* buffer = static_cast<char*>(arena.allocate(pool.size() * kPiece + 4096));
  buffer += (4096 - reinterpret_cast<uintptr_t>(buffer) % 4096) % 4096;
  std::atomic<int64_t> read{0};
  const double start = now();
  pool.parallel_for(pieces, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i)
      read += std::max<int64_t>(pread(file, buffer + thread * kPiece, kPiece, i * kPiece), 0);
  });
  const double seconds = now() - start;
  close(file);
  return static_cast<double>(read.load()) / seconds;
}

}  // namespace tessera

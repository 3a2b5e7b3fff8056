// Files into memory before anybody waits for their pages one by one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "loading/load_progress.h"
#include "loading/safetensors_index.h"

namespace tessera {

// A stretch of the mapping of one of a set's files.
struct MappedRange {
  const char* at = nullptr;
  int64_t bytes = 0;
};

// Reads ranges' pages into the page cache where they are not there yet, and maps them: many large reads at a time, each
// a window ahead of the thread that maps it, where a page fault would wait for one small read. Costs little when all is
// in memory. Used by one thread.
class FilePrefetch {
 public:
  // REQUIRES: every range lies in the tensors of one file of the set, which must outlive this. Throws kIo.
  FilePrefetch(const SafetensorsSet& set, std::vector<MappedRange> ranges);
  ~FilePrefetch();
  FilePrefetch(const FilePrefetch&) = delete;

  // Of the pages, each counted once; ranges less than 64 KiB apart are read as one.
  int64_t bytes() const { return bytes_; }
  // Throws kCorrupt for a file that was cut meanwhile. `progress` gets bytes().
  void run(ThreadPool& pool, LoadProgress& progress) const;

 private:
  struct Block {
    int fd = -1;
    int64_t offset = 0, bytes = 0;
    char* at = nullptr;  // where it is mapped
    const std::string* path = nullptr;
  };
  std::vector<int> fds_;
  std::vector<Block> blocks_;
  int64_t bytes_ = 0;
};

// Maps the whole pages [at, at + bytes) of a mapped file; `what` begins the line of an error. Throws kCorrupt for a
// file that was cut meanwhile, and kIo. Thread-safe.
void populate_pages(char* at, int64_t bytes, const std::string& what);

// Lets the system forget a file's pages, but for those that are mapped or not yet written. For measurements.
void forget_pages(const std::string& path);

}  // namespace tessera

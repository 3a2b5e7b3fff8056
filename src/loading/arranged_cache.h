// A file that holds the bytes of all weights that are made in memory, so that the next load maps them instead. The file
// is told from others by a key: what the bytes are made from and how. Files are written beside their place, forced to
// the disk and renamed, under a lock, so that whoever is killed leaves the old file or the new one.
//
// open() reads the whole file: magic, version, length, key, and a 64-bit checksum of each 2 MiB of content, which finds
// damage but no forger. Each object is used by one thread; the functions are safe beside other processes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "core/thread_pool.h"
#include "loading/safetensors_index.h"

namespace tessera {

class ArrangedCache {
 public:
  // `what`: everything but the files and the layout's number that the bytes depend on, in words; with the files' paths
  // it says which file is replaced when it is stale. `folder` is made when something is written.
  ArrangedCache(const std::string& folder, const SafetensorsSet& set, int layout, const std::string& what);
  ~ArrangedCache();
  ArrangedCache(const ArrangedCache&) = delete;

  // The content, mapped for as long as this lives and never to be written; null when there is no such file of `bytes`
  // bytes. A file that is stale, broken or foreign is one line in the log.
  const char* open(int64_t bytes, ThreadPool& pool);
  // Puts the content in place for the next load. Says in one line of the log when it cannot, leaves no file then, and
  // does nothing where another process is at it.
  void write(const char* content, int64_t bytes, ThreadPool& pool) const;

  const std::string& path() const { return path_; }

 private:
  std::string path_, key_;
  void* mapped_ = nullptr;
  int64_t mapped_bytes_ = 0;
};

}  // namespace tessera

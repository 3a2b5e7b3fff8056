// Files into memory before anybody waits for their pages one by one.
#pragma once

#include <cstdint>
#include <string>

#include "core/thread_pool.h"
#include "loading/safetensors_index.h"

namespace tessera {

// Reads the set's tensors into the page cache where they are not there yet, and maps their pages: many large reads at a
// time, each a window ahead of the thread that maps it, where a page fault would wait for one small read. Costs little
// when all is in memory. Throws kCorrupt for a file that was cut meanwhile.
void prefetch(const SafetensorsSet& set, ThreadPool& pool);

// Lets the system forget a file's pages, but for those that are mapped or not yet written. For measurements.
void forget_pages(const std::string& path);

}  // namespace tessera

// What this machine's memories give, measured in a fraction of a second.
#pragma once

#include <string>

#include "core/device_context.h"
#include "core/thread_pool.h"

namespace tessera {

// Bytes per second that all threads read from main memory, in whole passes over the same bytes.
struct HostBandwidth {
  double median = 0, best = 0;  // of the passes
  int64_t bytes = 0;            // of a pass
};
// At least three passes over at most `bytes`: over as much as can be touched in 50 ms, and 16 MiB. Before each pass
// every line is flushed from all caches, so that no part of it comes from there however large they are. (Highway
// flushes on x86 alone; elsewhere what the caches keep counts.) Takes a quarter of a second on idle cores.
HostBandwidth measure_host_bandwidth(ThreadPool& pool, int64_t bytes = int64_t{1} << 30);
// Of a device, by copies within it; 0 when it has no room for them.
double measure_device_bandwidth(DeviceContext& context);
// Of a file past the page cache; 0 when its file system does not allow that, as one in memory.
double measure_disk_bandwidth(const std::string& path, ThreadPool& pool);

}  // namespace tessera

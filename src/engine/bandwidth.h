// What this machine's memories give, measured in a fraction of a second.
#pragma once

#include <string>

#include "core/device_context.h"
#include "core/thread_pool.h"

namespace tessera {

// Bytes per second that all threads read from main memory: the best of a few passes over `bytes`.
double measure_host_bandwidth(ThreadPool& pool, int64_t bytes = int64_t{1} << 30);
// Of a device, by copies within it; 0 when it has no room for them.
double measure_device_bandwidth(DeviceContext& context);
// Of a file past the page cache; 0 when its file system does not allow that, as one in memory.
double measure_disk_bandwidth(const std::string& path, ThreadPool& pool);

}  // namespace tessera

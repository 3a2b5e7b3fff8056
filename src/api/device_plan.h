// What goes where when a model is larger than its device: which layers' experts stay in host memory or on disk, what
// each place holds, and what a token then costs. Known from config.json alone.
#pragma once

#include <string>

#include "api/memory_forecast.h"
#include "core/json.h"
#include "engine/device_forecast.h"
#include "engine/device_map.h"
#include "tessera/llm.h"

namespace tessera {

struct DevicePlanRequest {
  std::string device_map;  // LoadOptions::device_map
  int64_t cpu_moe = 0;     // LoadOptions::cpu_moe
  int64_t cache_memory = 0;
  ForecastOptions forecast;  // context 0: none is asked for, kUsualContext is planned with
  bool cpu = false;          // the device is the CPU: "gpu" is main memory then
  std::string device;        // its name
  int64_t device_total = 0;  // bytes, or the limit
  int64_t device_free = 0;   // of them, after the driver's share
  int64_t host_free = 0;
  ReadRates rates;  // 0: not measured
};

inline constexpr int64_t kUsualContext = 32768;

struct DevicePlan {
  DeviceMap map;
  MapDemand demand;
  DeviceForecast forecast;  // as if every expert were on the device; its cache is the one planned with
  int64_t reserve = 0;      // of the device, left free
  int64_t context = 0;
  bool cpu = false;  // see DevicePlanRequest
  std::string device;
  int64_t device_total = 0;
  TokenDemand token;
  ReadRates rates;
  TokenSeconds seconds;

  bool offloads() const;
  // The time in which main memory alone can be read for a token; 0: nothing is there.
  double host_bound_seconds() const { return seconds.host; }
};

// `config` is config.json or its folder. Throws kOutOfMemory when the device cannot hold what the map leaves on it,
// saying what would do; kInvalidArgument and kUnsupported for a map that makes no sense.
DevicePlan plan_devices(const std::string& config, const DevicePlanRequest& request);

Json describe_device_plan(const DevicePlan& plan);
std::string device_plan_text(const DevicePlan& plan);

// The request for a model on `context`, or, where there is none, on an H100.
DevicePlanRequest device_plan_request(const LoadOptions& options, DType dtype, DeviceContext* context,
                                      const std::string& folder);
// Measures what the plan reads from, and prices it anew: main memory with all threads of the pool, the context's device
// (an H100's stated rate without one), and the disk of `folder`.
void measure_rates(DevicePlan& plan, DeviceContext* context, const std::string& folder, ThreadPool& pool);

}  // namespace tessera

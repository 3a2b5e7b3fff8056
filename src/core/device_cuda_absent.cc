// A build without CUDA.
#include "core/cuda_driver.h"
#include "core/device_context.h"
#include "core/error.h"
#include "core/upload_lane.h"

namespace tessera {

namespace {
constexpr const char* kWhy = "this build has no GPU code; build with the preset \"cuda\"";
}

bool has_cuda_code() {
  return false;
}

std::unique_ptr<DeviceContext> make_cuda_context(int) {
  fail(ErrorCode::kUnsupported, "{}", kWhy);
}

std::unique_ptr<UploadLane> make_upload_lane(DeviceContext&, int64_t, bool) {
  TS_CHECK(false, "no CUDA in this build");
}

int cuda_driver_version() {
  return 0;
}

std::vector<DeviceInfo> cuda_devices(std::string* why) {
  if (why) *why = kWhy;
  return {};
}

}  // namespace tessera

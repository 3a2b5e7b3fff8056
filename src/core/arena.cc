#include "core/arena.h"

#include <algorithm>
#include <utility>

namespace tessera {

namespace {
constexpr int64_t kCpuAlign = 64;    // one cache line, and the widest vector load
constexpr int64_t kCudaAlign = 256;  // what cudaMalloc gives, for bulk copies and vector loads

int64_t align_of(Device device) {
  return device.type == DeviceType::kCuda ? kCudaAlign : kCpuAlign;
}
}  // namespace

Arena::Arena(DeviceContext& context, int64_t capacity)
    : capacity_(std::max<int64_t>(capacity + align_of(context.device()), 4096)),
      context_(&context),
      device_(context.device()) {
  base_ = static_cast<char*>(context.allocate(capacity_));
}

Arena::Arena(int64_t capacity) {
  std::shared_ptr<DeviceContext> cpu = make_cpu_context();
  *this = Arena(*cpu, capacity);
  own_context_ = std::move(cpu);
}

Arena Arena::scattered(DeviceContext& context) {
  Arena arena;
  arena.capacity_ = int64_t{1} << 60;
  arena.context_ = &context;
  arena.device_ = context.device();
  arena.scattered_ = true;
  return arena;
}

Arena Arena::measuring(Device device) {
  Arena arena;
  arena.device_ = device;
  arena.base_ = reinterpret_cast<char*>(kCudaAlign);  // not null, so that Tensors are defined
  arena.capacity_ = int64_t{1} << 60;
  return arena;
}

Arena::~Arena() {
  if (!context_) return;
  for (void* block : blocks_) context_->release(block);
  if (!scattered_) context_->release(base_);
}

Arena::Arena(Arena&& other) noexcept {
  *this = std::move(other);
}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  std::swap(peak_, other.peak_);
  std::swap(own_context_, other.own_context_);
  std::swap(context_, other.context_);
  std::swap(device_, other.device_);
  std::swap(scattered_, other.scattered_);
  std::swap(blocks_, other.blocks_);
  return *this;
}

void* Arena::allocate(int64_t bytes) {
  TS_CHECK(bytes >= 0 && bytes <= capacity_ - used_, "arena of {} bytes is full: {} used, {} asked", capacity_, used_,
           bytes);
  const int64_t align = align_of(device_);
  void* p = base_ + used_;
  if (scattered_) blocks_.push_back(p = context_->allocate(std::max<int64_t>(bytes, 1)));
  used_ = std::min(capacity_, (used_ + bytes + align - 1) / align * align);
  peak_ = std::max(peak_, used_);
  return p;
}

Tensor Arena::tensor(DType dtype, Shape shape) {
  return Tensor{allocate(shape.numel() * dtype_size(dtype)), shape, dtype, device_};
}

}  // namespace tessera

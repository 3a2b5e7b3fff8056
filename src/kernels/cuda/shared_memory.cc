#include "kernels/cuda/shared_memory.h"

#include <cuda.h>
#include <cuda_runtime.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>

#include "core/error.h"

namespace tessera::cuda {

namespace {

// The driver is not linked: the runtime knows where its functions are.
struct Driver {
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemRetainAllocationHandle) retain = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free_address = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  decltype(&cuMemExportToShareableHandle) export_handle = nullptr;
  decltype(&cuMemImportFromShareableHandle) import_handle = nullptr;
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuGetErrorString) error_string = nullptr;
  bool whole = true;

  Driver() {
    load("cuMemCreate", create), load("cuMemRelease", release), load("cuMemAddressReserve", reserve);
    load("cuMemRetainAllocationHandle", retain);
    load("cuMemAddressFree", free_address), load("cuMemMap", map), load("cuMemUnmap", unmap);
    load("cuMemSetAccess", set_access), load("cuMemExportToShareableHandle", export_handle);
    load("cuMemImportFromShareableHandle", import_handle);
    load("cuMemGetAllocationGranularity", granularity), load("cuGetErrorString", error_string);
  }
  template <class F>
  void load(const char* name, F& function) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const bool ok = cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result) == cudaSuccess;
    function = reinterpret_cast<F>(found);
    whole = whole && ok && found != nullptr;
  }
};

const Driver& driver() {
  static const Driver once;
  if (!once.whole) fail(ErrorCode::kUnsupported, "this driver has no virtual memory calls");
  return once;
}

void check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  const char* text = nullptr;
  driver().error_string(result, &text);
  fail(result == CUDA_ERROR_OUT_OF_MEMORY ? ErrorCode::kOutOfMemory : ErrorCode::kUnsupported, "{}: {}", what,
       text == nullptr ? "unknown error" : text);
}

constexpr auto kHandle = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

CUmemAllocationProp properties(int device) {
  CUmemAllocationProp p{};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.requestedHandleTypes = kHandle;
  p.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
  return p;
}

// Sets the address when it succeeds.
void map(CUmemGenericAllocationHandle allocation, int64_t bytes, int device, uint64_t* address) {
  const Driver& d = driver();
  CUdeviceptr at = 0;
  const auto size = static_cast<size_t>(bytes);
  check(d.reserve(&at, size, 0, 0, 0), "reserving addresses");
  *address = at;
  check(d.map(at, size, 0, allocation, 0), "mapping shared memory");
  CUmemAccessDesc access{};
  access.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  check(d.set_access(at, size, &access, 1), "reaching another GPU's memory");
}

sockaddr_un address_of(const std::string& name, socklen_t* length) {
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  std::memcpy(at.sun_path + 1, name.data(), name.size());  // a leading zero: no file
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return at;
}

constexpr auto kWait = std::chrono::seconds(20);

// One byte of data with room for one descriptor beside it.
struct Letter {
  Letter() {
    part = {.iov_base = &byte, .iov_len = 1};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  char byte = 0;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part;
  msghdr message{};
};

}  // namespace

SharedMemory SharedMemory::allocate(int64_t bytes, int device) {
  const Driver& d = driver();
  const CUmemAllocationProp p = properties(device);
  size_t granularity = 0;
  check(d.granularity(&granularity, &p, CU_MEM_ALLOC_GRANULARITY_MINIMUM), "asking for page sizes");
  SharedMemory memory;
  const auto unit = static_cast<int64_t>(granularity);
  memory.bytes_ = (bytes + unit - 1) / unit * unit;
  check(d.create(&memory.allocation_, static_cast<size_t>(memory.bytes_), &p, 0), "allocating shared memory");
  map(memory.allocation_, memory.bytes_, device, &memory.address_);
  cudaError_t result = cudaMemset(memory.data(), 0, static_cast<size_t>(memory.bytes_));
  if (result == cudaSuccess) result = cudaDeviceSynchronize();
  if (result != cudaSuccess) fail(ErrorCode::kIo, "CUDA: clearing shared memory: {}", cudaGetErrorString(result));
  return memory;
}

SharedMemory SharedMemory::import(const Fd& handle, int64_t bytes, int device) {
  SharedMemory memory;
  memory.bytes_ = bytes;
  check(driver().import_handle(&memory.allocation_, reinterpret_cast<void*>(static_cast<intptr_t>(handle.get())),
                               kHandle),
        "taking another process's memory");
  map(memory.allocation_, bytes, device, &memory.address_);
  return memory;
}

SharedMemory SharedMemory::again(char* data, int64_t bytes, int device) {
  SharedMemory memory;
  memory.bytes_ = bytes;
  check(driver().retain(&memory.allocation_, data), "taking another thread's memory");
  map(memory.allocation_, bytes, device, &memory.address_);
  return memory;
}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  std::swap(allocation_, other.allocation_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (allocation_ == 0) return;
  const Driver& d = driver();
  if (address_ != 0) {
    d.unmap(address_, static_cast<size_t>(bytes_));
    d.free_address(address_, static_cast<size_t>(bytes_));
  }
  d.release(allocation_);
}

Fd SharedMemory::handle() const {
  int fd = -1;
  check(driver().export_handle(&fd, allocation_, kHandle, 0), "sharing memory");
  return Fd(fd);
}

FdPost::FdPost() : listener_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  std::random_device random;
  name_ = fmt::format("tessera-{}-{:08x}{:08x}", getpid(), random(), random());
  socklen_t length = 0;
  const sockaddr_un at = address_of(name_, &length);
  if (!listener_ || bind(listener_.get(), reinterpret_cast<const sockaddr*>(&at), length) != 0 ||
      listen(listener_.get(), 64) != 0)
    fail(ErrorCode::kIo, "no Unix socket to share memory through: {}", strerror(errno));
}

Fd FdPost::connect(const std::string& name) {
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  socklen_t length = 0;
  const sockaddr_un at = address_of(name, &length);
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&at), length) != 0)
    fail(ErrorCode::kIo, "another rank's Unix socket is not there: {}", strerror(errno));
  return fd;
}

void FdPost::hand_out(const Fd& what) {
  const Fd to = accept_from(listener_, std::chrono::steady_clock::now() + kWait);
  Letter letter;
  cmsghdr* beside = CMSG_FIRSTHDR(&letter.message);
  beside->cmsg_level = SOL_SOCKET;
  beside->cmsg_type = SCM_RIGHTS;
  beside->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = what.get();
  std::memcpy(CMSG_DATA(beside), &fd, sizeof fd);
  if (!to || sendmsg(to.get(), &letter.message, MSG_NOSIGNAL) != 1)
    fail(ErrorCode::kIo, "no rank came for the memory to share");
}

Fd FdPost::fetch(const Fd& connection) {
  Letter letter;
  if (!wait_readable(connection.get(), std::chrono::steady_clock::now() + kWait) ||
      recvmsg(connection.get(), &letter.message, MSG_CMSG_CLOEXEC) != 1)
    fail(ErrorCode::kIo, "a rank did not share its memory");
  const cmsghdr* beside = CMSG_FIRSTHDR(&letter.message);
  if (beside == nullptr || beside->cmsg_type != SCM_RIGHTS || beside->cmsg_len != CMSG_LEN(sizeof(int)))
    fail(ErrorCode::kCorrupt, "a rank shared something that is no memory");
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(beside), sizeof fd);
  return Fd(fd);
}

}  // namespace tessera::cuda

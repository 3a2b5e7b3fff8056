#include "kernels/cuda/nccl.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace tessera::cuda {

namespace {

// Of nccl.h (version 2), as far as used.
struct UniqueId {
  char bytes[128];
};
using Comm = void*;
constexpr int kSuccess = 0, kInProgress = 7;
constexpr int kInt8 = 0, kFloat32 = 7, kBfloat16 = 9, kSum = 0;

struct Library {
  int (*get_unique_id)(UniqueId*) = nullptr;
  int (*init_rank)(Comm*, int, UniqueId, int) = nullptr;
  int (*destroy)(Comm) = nullptr;
  int (*abort)(Comm) = nullptr;
  int (*async_error)(Comm, int*) = nullptr;
  const char* (*error_string)(int) = nullptr;
  const char* (*last_error)(Comm) = nullptr;
  int (*all_reduce)(const void*, void*, size_t, int, int, Comm, void*) = nullptr;
  int (*all_gather)(const void*, void*, size_t, int, Comm, void*) = nullptr;
  int (*broadcast)(const void*, void*, size_t, int, int, Comm, void*) = nullptr;
  int (*send)(const void*, size_t, int, int, Comm, void*) = nullptr;
  int (*recv)(void*, size_t, int, int, Comm, void*) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  std::string missing;  // why it cannot be used

  Library() {
    // Read by NCCL when it starts: multicast over NVLink is never used.
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    void* file = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (file == nullptr) {
      missing = "libnccl.so.2 could not be opened (Debian and pip call the package libnccl2, nvidia-nccl)";
      return;
    }
    load(file, "ncclGetUniqueId", get_unique_id), load(file, "ncclCommInitRank", init_rank);
    load(file, "ncclCommDestroy", destroy), load(file, "ncclCommAbort", abort);
    load(file, "ncclCommGetAsyncError", async_error), load(file, "ncclGetErrorString", error_string);
    load(file, "ncclGetLastError", last_error), load(file, "ncclAllReduce", all_reduce);
    load(file, "ncclAllGather", all_gather), load(file, "ncclBroadcast", broadcast);
    load(file, "ncclSend", send), load(file, "ncclRecv", recv);
    load(file, "ncclGroupStart", group_start), load(file, "ncclGroupEnd", group_end);
  }
  template <class F>
  void load(void* file, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(file, name));
    if (function == nullptr) missing = fmt::format("libnccl.so.2 has no {}", name);
  }
};

const Library& library() {
  static const Library once;
  return once;
}

void check_result(int result, const char* what) {
  if (result == kSuccess || result == kInProgress) return;
  fail(ErrorCode::kIo, "NCCL: {}: {}: {}", what, library().error_string(result), library().last_error(nullptr));
}

int type_of(DType t) {
  TS_CHECK(t == DType::kF32 || t == DType::kBF16, "a sum over ranks is F32 or BF16, not {}", dtype_name(t));
  return t == DType::kF32 ? kFloat32 : kBfloat16;
}

}  // namespace

std::unique_ptr<Nccl> Nccl::make(Channel& channel, std::span<const int> members, std::string* why) {
  std::string trouble = library().missing;
  for (const std::string& theirs : exchange_all(channel, trouble))
    if (trouble.empty()) trouble = theirs;
  if (!trouble.empty()) {
    *why = trouble;
    return nullptr;
  }
  // The first member of every group makes the group's identifier.
  UniqueId id{};
  if (members[0] == channel.rank()) check_result(library().get_unique_id(&id), "starting a group");
  const std::vector<std::string> ids = exchange_all(channel, std::string_view(id.bytes, sizeof id.bytes));
  const std::string& first = ids[members[0]];
  if (first.size() != sizeof id.bytes) fail(ErrorCode::kCorrupt, "rank {} starts NCCL in another form", members[0]);
  std::memcpy(id.bytes, first.data(), sizeof id.bytes);
  int rank = 0;
  for (size_t m = 0; m < members.size(); ++m)
    if (members[m] == channel.rank()) rank = static_cast<int>(m);
  std::unique_ptr<Nccl> nccl(new Nccl);
  check_result(library().init_rank(&nccl->comm_, static_cast<int>(members.size()), id, rank), "joining a group");
  return nccl;
}

Nccl::~Nccl() {
  if (comm_ != nullptr && !aborted_) library().destroy(comm_);
}

void Nccl::abort() noexcept {
  if (comm_ != nullptr && !aborted_.exchange(true)) library().abort(comm_);
}

void Nccl::check() {
  if (aborted_) return;
  int result = kSuccess;
  check_result(library().async_error(comm_, &result), "asking how it is");
  check_result(result, "a collective");
}

void* Nccl::comm() const {
  if (aborted_) fail(ErrorCode::kIo, "NCCL: its ranks were ended");
  return comm_;
}

void Nccl::all_reduce(const Tensor& x, void* stream) {
  check_result(
      library().all_reduce(x.data, x.data, static_cast<size_t>(x.numel()), type_of(x.dtype), kSum, comm(), stream),
      "summing");
}

void Nccl::all_gather(const Tensor& mine, void* all, void* stream) {
  check_result(library().all_gather(mine.data, all, static_cast<size_t>(mine.bytes()), kInt8, comm(), stream),
               "gathering");
}

void Nccl::broadcast(const Tensor& x, int root, void* stream) {
  check_result(library().broadcast(x.data, x.data, static_cast<size_t>(x.bytes()), kInt8, root, comm(), stream),
               "broadcasting");
}

void Nccl::exchange(const char* from, std::span<const Part> send, char* to, std::span<const Part> receive,
                    void* stream) {
  check_result(library().group_start(), "exchanging");
  for (size_t r = 0; r < send.size(); ++r) {
    const int peer = static_cast<int>(r);
    if (send[r].bytes > 0)
      check_result(library().send(from + send[r].at, static_cast<size_t>(send[r].bytes), kInt8, peer, comm(), stream),
                   "sending");
    if (receive[r].bytes > 0)
      check_result(
          library().recv(to + receive[r].at, static_cast<size_t>(receive[r].bytes), kInt8, peer, comm(), stream),
          "receiving");
  }
  check_result(library().group_end(), "exchanging");
}

}  // namespace tessera::cuda

// Regions: allocated once, mapped into every process by cudaIpc, or reached directly by threads of one process.
#include <cuda_runtime.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/peer.h"

namespace tessera::cuda {

namespace {

constexpr int64_t kPacketBytes = 512 << 10;
constexpr int64_t kBulkBytes = 8 << 20;

// What a rank tells the others about its region; sent as bytes.
struct Offer {
  char boot[40];  // of the host: a cudaIpc handle means nothing elsewhere
  int64_t process;
  int32_t device;
  char* region;
  cudaIpcMemHandle_t handle;
};

void name_boot(char (&boot)[40]) {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  char host[64] = {};
  gethostname(host, sizeof host - 1);
  std::memset(boot, 0, sizeof boot);
  const std::string name = id.empty() ? host : id;
  std::memcpy(boot, name.data(), std::min(name.size(), sizeof boot - 1));
}

int64_t lay_out(PeerView& v) {
  v.packet_bytes = kPacketBytes;
  // Packets double what is sent: two steps win once that takes longer than a second round trip.
  v.one_step_bytes = std::min(kPacketBytes, (int64_t{1} << 20) / v.size);
  v.bulk_bytes = kBulkBytes;
  int64_t at = 256;  // the own words: call, gave_up
  auto take = [&](int64_t bytes) { return std::exchange(at, at + (bytes + 255) / 256 * 256); };
  v.packets_at = take(2 * v.size * 2 * v.packet_bytes);
  v.presence_at = take(2 * v.size * 16);
  v.scatter_at = take(2 * v.bulk_bytes);
  v.gather_at = take(2 * v.bulk_bytes);
  v.flags_at = take(2 * v.size * kMaxPeerBlocks * 4);
  return at;
}

}  // namespace

std::string PeerMemory::map(int peer, const std::string& bytes) {
  Offer mine, theirs;
  std::memcpy(&theirs, bytes.data(), sizeof theirs);
  name_boot(mine.boot);
  if (std::memcmp(mine.boot, theirs.boot, sizeof mine.boot) != 0) return "the ranks are on several hosts";
  cudaError_t result = cudaSuccess;
  if (theirs.process != getpid()) {
    void* memory = nullptr;
    result = cudaIpcOpenMemHandle(&memory, theirs.handle, cudaIpcMemLazyEnablePeerAccess);
    if (result == cudaSuccess) opened_.push_back(memory);
    view_.region[peer] = static_cast<char*>(memory);
  } else {
    int device = 0;
    cudaGetDevice(&device);
    if (device != theirs.device) result = cudaDeviceEnablePeerAccess(theirs.device, 0);
    if (result == cudaErrorPeerAccessAlreadyEnabled) result = cudaSuccess;
    view_.region[peer] = theirs.region;
  }
  cudaGetLastError();
  return result == cudaSuccess ? "" : fmt::format("a GPU does not reach another's memory: {}", cudaGetErrorString(result));
}

std::unique_ptr<PeerMemory> PeerMemory::make(Channel& channel, std::span<const int> members, int device,
                                             PeerSignals signals, double wait_seconds, std::string* why) {
  std::unique_ptr<PeerMemory> memory(new PeerMemory);
  PeerView& v = memory->view_;
  v.size = static_cast<int>(members.size());
  for (int m = 0; m < v.size; ++m)
    if (members[m] == channel.rank()) v.rank = m;
  std::string trouble;
  Offer offer{};
  if (v.size > kMaxPeers) {
    trouble = fmt::format("{} ranks share sums, and at most {} can", v.size, kMaxPeers);
  } else {
    const auto bytes = static_cast<size_t>(lay_out(v));
    cudaError_t result = cudaMalloc(&memory->own_, bytes);
    if (result == cudaSuccess) result = cudaMemset(memory->own_, 0, bytes);
    if (result == cudaSuccess) result = cudaDeviceSynchronize();
    if (result == cudaSuccess) result = cudaIpcGetMemHandle(&offer.handle, memory->own_);
    cudaGetLastError();
    if (result != cudaSuccess) trouble = fmt::format("no memory to share between GPUs: {}", cudaGetErrorString(result));
  }
  name_boot(offer.boot);
  offer.process = getpid();
  offer.device = device;
  offer.region = memory->own_;
  const std::vector<std::string> offers =
      exchange_all(channel, std::string_view(reinterpret_cast<const char*>(&offer), sizeof offer));
  for (int m = 0; m < v.size && trouble.empty(); ++m) {
    if (m == v.rank) continue;
    if (offers[members[m]].size() != sizeof(Offer))
      fail(ErrorCode::kCorrupt, "rank {} offers its memory in another form", members[m]);
    trouble = memory->map(m, offers[members[m]]);
  }
  for (const std::string& theirs : exchange_all(channel, trouble))
    if (trouble.empty()) trouble = theirs;
  if (!trouble.empty()) {
    *why = trouble;
    return nullptr;
  }
  v.own = v.region[v.rank] = memory->own_;
  v.call = reinterpret_cast<uint64_t*>(v.own);
  v.gave_up = reinterpret_cast<uint32_t*>(v.own + 64);
  v.abort = signals.abort;
  v.timed_out = signals.timed_out;
  v.wait_nanoseconds = static_cast<uint64_t>(wait_seconds * 1e9);
  return memory;
}

PeerMemory::~PeerMemory() {
  for (void* memory : opened_) cudaIpcCloseMemHandle(memory);
  cudaFree(own_);
}

}  // namespace tessera::cuda

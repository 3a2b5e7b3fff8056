// Regions: allocated once, mapped into every process of the host, or reached directly by threads of one process.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "kernels/cuda/peer.h"

namespace tessera::cuda {

namespace {

constexpr int64_t kPacketBytes = 512 << 10;       // at least
constexpr int64_t kTripBytes = int64_t{3} << 19;  // sent in the time of a second round trip, as measured on two H100s
constexpr int64_t kBulkBytes = 8 << 20;

}  // namespace

// What a rank tells the others about its region; sent as bytes.
struct PeerMemory::Offer {
  char boot[40];  // of the host: what follows means nothing elsewhere
  int64_t process;
  char* region;
  int64_t bytes;
  char post[64];  // where its descriptor is to be had
};

namespace {

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
  // Of B bytes one step sends 2 B to each other rank, packets being half data, and two steps two parts of B / size:
  // they win once the difference takes longer than a second round trip.
  const int64_t others = std::max(v.size - 1, 1);
  v.one_step_bytes = kTripBytes * v.size / (2 * others * others) / 1024 * 1024;
  v.packet_bytes = std::max(kPacketBytes, v.one_step_bytes);
  v.bulk_bytes = kBulkBytes;
  int64_t at = 256;  // the own words: call, gave_up, sent
  auto take = [&](int64_t bytes) { return std::exchange(at, at + (bytes + 255) / 256 * 256); };
  v.packets_at = take(2 * v.size * 2 * v.packet_bytes);
  v.presence_at = take(2 * v.size * 16);
  v.scatter_at = take(2 * v.bulk_bytes);
  v.gather_at = take(2 * v.bulk_bytes);
  v.flags_at = take(2 * v.size * kMaxPeerBlocks * 4);
  return at;
}

}  // namespace

void PeerMemory::share(std::span<const Offer> offers, int device, FdPost& post) {
  std::vector<Fd> connections(offers.size());
  for (size_t m = 0; m < offers.size(); ++m)
    if (offers[m].process != getpid()) connections[m] = FdPost::connect(offers[m].post);
  const Fd handle = own_.handle();
  for (const Fd& connection : connections)
    if (connection) post.hand_out(handle);
  for (size_t m = 0; m < offers.size(); ++m) {
    if (static_cast<int>(m) == view_.rank) {
      view_.region[m] = own_.data();
      continue;
    }
    theirs_.push_back(connections[m] ? SharedMemory::import(FdPost::fetch(connections[m]), offers[m].bytes, device)
                                     : SharedMemory::again(offers[m].region, offers[m].bytes, device));
    view_.region[m] = theirs_.back().data();
  }
}

std::unique_ptr<PeerMemory> PeerMemory::make(Channel& channel, std::span<const int> members, int device,
                                             PeerSignals signals, double wait_seconds, std::string* why) {
  std::unique_ptr<PeerMemory> memory(new PeerMemory);
  PeerView& v = memory->view_;
  v.size = static_cast<int>(members.size());
  for (int m = 0; m < v.size; ++m)
    if (members[m] == channel.rank()) v.rank = m;
  // A step that fails here must not keep the others waiting: all ranks take part in both exchanges.
  std::string trouble;
  auto attempt = [&](auto&& step) {
    if (!trouble.empty()) return;
    try {
      step();
    } catch (const Error& error) {
      trouble = error.what();
    }
  };
  FdPost post;
  Offer offer{};
  attempt([&] {
    if (v.size > kMaxPeers) fail(ErrorCode::kUnsupported, "{} ranks share sums, and at most {} can", v.size, kMaxPeers);
    memory->own_ = SharedMemory::allocate(lay_out(v), device);
  });
  name_boot(offer.boot);
  offer.process = getpid();
  offer.region = memory->own_.data();
  offer.bytes = trouble.empty() ? memory->own_.bytes() : 0;  // 0: it has none
  std::memcpy(offer.post, post.name().data(), post.name().size());
  const std::vector<std::string> all =
      exchange_all(channel, std::string_view(reinterpret_cast<const char*>(&offer), sizeof offer));
  std::vector<Offer> offers(members.size());
  for (size_t m = 0; m < members.size(); ++m) {
    if (all[members[m]].size() != sizeof(Offer))
      fail(ErrorCode::kCorrupt, "rank {} offers its memory in another form", members[m]);
    std::memcpy(&offers[m], all[members[m]].data(), sizeof(Offer));
    if (std::memcmp(offers[m].boot, offer.boot, sizeof offer.boot) != 0 && trouble.empty())
      trouble = "the ranks are on several hosts";
    if (offers[m].bytes == 0 && trouble.empty()) trouble = "a rank has no memory to share";
  }
  attempt([&] { memory->share(offers, device, post); });
  std::string first;  // the same on all ranks
  for (const std::string& theirs : exchange_all(channel, trouble))
    if (first.empty()) first = theirs;
  if (!first.empty()) {
    *why = first;
    return nullptr;
  }
  v.own = memory->own_.data();
  v.call = reinterpret_cast<uint64_t*>(v.own);
  v.gave_up = reinterpret_cast<uint32_t*>(v.own + 64);
  v.sent = reinterpret_cast<int64_t*>(v.own + 128);
  v.abort = signals.abort;
  v.timed_out = signals.timed_out;
  v.wait_nanoseconds = static_cast<uint64_t>(wait_seconds * 1e9);
  return memory;
}

}  // namespace tessera::cuda

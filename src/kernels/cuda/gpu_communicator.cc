#include "parallel/gpu_communicator.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <exception>
#include <mutex>

#include "core/log.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nccl.h"
#include "kernels/cuda/peer.h"

namespace tessera {

namespace cuda {
namespace {

// Above this NCCL sums faster than two steps through peer memory (measured on two H100s: 55 us against 57 at 11 MiB,
// 204 against 182 at 45).
constexpr int64_t kNcclSumBytes = int64_t{16} << 20;

// What a communicator and those split off it share: the words that kernels poll, and what to end when a rank is lost.
class Fate {
 public:
  explicit Fate(Channel& channel) : channel_(channel) {
    void* words = nullptr;
    check(cudaHostAlloc(&words, 256, cudaHostAllocMapped | cudaHostAllocPortable), "pinned memory");
    words_ = static_cast<uint32_t*>(words);
    words_[0] = words_[16] = 0;
    channel_.on_loss(this, [this](const std::string&) { end(); });
  }
  ~Fate() {
    channel_.on_loss(this, nullptr);
    cudaFreeHost(words_);
  }
  Fate(const Fate&) = delete;
  Fate& operator=(const Fate&) = delete;

  Channel& channel() const { return channel_; }
  PeerSignals signals() const { return {.abort = words_, .timed_out = words_ + 16}; }
  bool timed_out() const { return *const_cast<volatile uint32_t*>(words_ + 16) != 0; }
  void add(Nccl* nccl) {
    std::lock_guard lock(mutex_);
    all_.push_back(nccl);
  }
  void remove(Nccl* nccl) {
    std::lock_guard lock(mutex_);
    std::erase(all_, nccl);
  }
  // Ends what waits on this rank's GPU.
  void end() {
    *const_cast<volatile uint32_t*>(words_) = 1;
    std::lock_guard lock(mutex_);
    for (Nccl* nccl : all_) nccl->abort();
  }

 private:
  Channel& channel_;
  uint32_t* words_ = nullptr;
  std::mutex mutex_;
  std::vector<Nccl*> all_;
};

class GpuCommunicator final : public PeerCommunicator {
 public:
  // members: the channel's ranks that this one joins; every rank of the channel constructs one.
  GpuCommunicator(std::shared_ptr<Fate> fate, std::vector<int> members, int device,
                  const GpuCommunicatorOptions& options)
      : fate_(std::move(fate)), members_(std::move(members)), device_(device), options_(options) {
    Channel& channel = fate_->channel();
    rank_ = static_cast<int>(std::find(members_.begin(), members_.end(), channel.rank()) - members_.begin());
    std::string no_peer = "switched off", no_nccl = "switched off";
    if (options.peer)
      peer_ = PeerMemory::make(channel, members_, device, fate_->signals(), options.wait_seconds, &no_peer);
    if (options.nccl) nccl_ = Nccl::make(channel, members_, &no_nccl);
    if (!peer_ && !nccl_)
      fail(ErrorCode::kUnsupported, "the GPUs cannot talk to each other. Directly: {}. Through NCCL: {}", no_peer,
           no_nccl);
    if (!peer_) log::info("collectives go through NCCL alone: {}", no_peer);
    if (!nccl_) log::info("collectives go through peer memory alone: {}", no_nccl);
    if (nccl_) fate_->add(nccl_.get());
  }
  // What still runs must not lose its memory. Where this rank fails, it does not wait for the others first.
  ~GpuCommunicator() override {
    if (std::uncaught_exceptions() > 0) fate_->end();
    cudaDeviceSynchronize();
    if (nccl_) fate_->remove(nccl_.get());
  }

  std::string_view name() const override { return peer_ ? "peer" : "nccl"; }
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  const Traffic& traffic() const override {
    int64_t dispatched = 0;  // routing is known on the device alone
    if (peer_)
      cuda::check(cudaMemcpy(&dispatched, peer_->view().sent, sizeof dispatched, cudaMemcpyDeviceToHost), "bytes sent");
    all_traffic_ = traffic_;
    all_traffic_.all_to_all += dispatched;
    return all_traffic_;
  }
  const PeerView* view() const override { return peer_ ? &peer_->view() : nullptr; }

  void all_reduce(const Tensor& x, void* stream) override {
    if (size() == 1 || x.numel() == 0) return;
    if (peer_ && (!nccl_ || x.bytes() <= kNcclSumBytes)) {
      peer_all_reduce(peer_->view(), x, stream);
      const bool one_step = x.bytes() <= peer_->view().one_step_bytes;
      traffic_.all_reduce += one_step ? x.bytes() * (size() - 1) : 2 * x.bytes() * (size() - 1) / size();
      return;
    }
    nccl_->all_reduce(x, stream);
    traffic_.all_reduce += 2 * x.bytes() * (size() - 1) / size();
  }

  void all_gather(const Tensor& mine, const Tensor& all, void* stream) override {
    const int64_t bytes = mine.bytes();
    TS_CHECK(all.bytes() == bytes * size());
    traffic_.all_gather += bytes * (size() - 1);
    if (bytes == 0) return;
    if (!peer_ || (nccl_ && bytes > peer_->view().packet_bytes)) return nccl_->all_gather(mine, all.data, stream);
    in_rounds(bytes, [&](int64_t at, int64_t now) {
      PeerExchange e{.from = mine.as<char>(), .to = all.as<char>()};
      for (int p = 0; p < size(); ++p) {
        e.send_at[p] = at, e.send_bytes[p] = now;
        e.receive_at[p] = p * bytes + at, e.receive_bytes[p] = now;
      }
      peer_exchange(peer_->view(), e, stream);
    });
  }

  void all_to_all(const Tensor& send, std::span<const int64_t> send_rows, const Tensor& receive,
                  std::span<const int64_t> receive_rows, void* stream) override {
    TS_CHECK(static_cast<int>(send_rows.size()) == size() && static_cast<int>(receive_rows.size()) == size());
    const int64_t row = row_bytes(send);
    TS_CHECK(row == row_bytes(receive));
    std::vector<Nccl::Part> out = parts(send_rows, row), in = parts(receive_rows, row);
    for (int p = 0; p < size(); ++p)
      if (p != rank_) traffic_.all_to_all += out[p].bytes;
    // Whether all pairs' messages fit into packets is not known here, so NCCL takes them when it is there.
    if (nccl_) return nccl_->exchange(send.as<char>(), out, receive.as<char>(), in, stream);
    PeerExchange e{.from = send.as<char>(), .to = receive.as<char>()};
    for (int p = 0; p < size(); ++p) {
      if (std::max(out[p].bytes, in[p].bytes) > peer_->view().packet_bytes)
        fail(ErrorCode::kUnsupported, "ranks {} and {} exchange more than {} KiB at a time, for which NCCL is needed",
             rank_, p, peer_->view().packet_bytes >> 10);
      e.send_at[p] = out[p].at, e.send_bytes[p] = out[p].bytes;
      e.receive_at[p] = in[p].at, e.receive_bytes[p] = in[p].bytes;
    }
    peer_exchange(peer_->view(), e, stream);
  }

  void broadcast(const Tensor& x, int root, void* stream) override {
    const int64_t bytes = x.bytes();
    if (rank_ == root) traffic_.broadcast += bytes * (size() - 1);
    if (bytes == 0 || size() == 1) return;
    if (!peer_ || (nccl_ && bytes > peer_->view().packet_bytes)) return nccl_->broadcast(x, root, stream);
    in_rounds(bytes, [&](int64_t at, int64_t now) {
      PeerExchange e{.from = x.as<char>(), .to = x.as<char>()};
      for (int p = 0; p < size(); ++p) {
        if (rank_ == root && p != root) e.send_at[p] = at, e.send_bytes[p] = now;
        if (rank_ != root && p == root) e.receive_at[p] = at, e.receive_bytes[p] = now;
      }
      peer_exchange(peer_->view(), e, stream);
    });
  }

  bool dispatches() const override { return peer_ != nullptr; }
  void dispatch(const TokenRoutes& routes, const Tensor& x, const Tensor& inbox, const Tensor& ids,
                const Tensor& weights, void* stream) override {
    peer_dispatch(peer_->view(), tokens_of(routes), x, inbox, ids, weights, stream);
  }
  void combine(const TokenRoutes& routes, const Tensor& answers, const Tensor& ids, const Tensor& out,
               void* stream) override {
    peer_combine(peer_->view(), tokens_of(routes), answers, ids, out, stream);
  }

  // Of the hosts, through the channel: all that was put on streams goes on. Only before ranks were split.
  void barrier() override { exchange_all(fate_->channel(), ""); }

  std::unique_ptr<Communicator> split(int colour) override {
    Channel& channel = fate_->channel();
    TS_CHECK(size() == channel.size(), "only the communicator of all ranks can be split");
    const std::vector<std::string> colours = exchange_all(channel, std::to_string(colour));
    std::vector<int> members;
    for (int r = 0; r < size(); ++r)
      if (colours[r] == std::to_string(colour)) members.push_back(r);
    return std::make_unique<GpuCommunicator>(fate_, members, device_, options_);
  }

  void abort(std::string_view cause) noexcept override { fate_->channel().abort(cause); }
  void check() override {
    fate_->channel().check();
    if (fate_->timed_out())
      fail(ErrorCode::kIo, "rank {} of {}: waited {:g} s on its GPU for another rank", fate_->channel().rank(),
           fate_->channel().size(), options_.wait_seconds);
    if (nccl_) nccl_->check();
  }

 private:
  template <class F>
  void in_rounds(int64_t bytes, F&& f) {
    const int64_t most = peer_->view().packet_bytes;
    for (int64_t at = 0; at < bytes; at += most) f(at, std::min(most, bytes - at));
  }
  PeerTokens tokens_of(const TokenRoutes& r) const {
    const auto groups = static_cast<int>(r.group_tokens.size());
    PeerTokens t{.ids = r.indices.i32(), .weights = r.weights.f32(), .live = r.live.i32()};
    t.active = static_cast<int>(r.indices.dim(1));
    t.groups = groups, t.group_ranks = size() / groups, t.group = rank_ / t.group_ranks;
    for (int g = 0, before = 0; g < groups; ++g) {
      t.tokens[g] = static_cast<int>(r.group_tokens[static_cast<size_t>(g)]), t.start[g] = before;
      before += t.tokens[g];
    }
    t.each = static_cast<int>(r.experts / size()), t.more = static_cast<int>(r.experts % size());
    return t;
  }
  static int64_t row_bytes(const Tensor& t) {
    int64_t bytes = dtype_size(t.dtype);
    for (int i = 1; i < t.shape.rank(); ++i) bytes *= t.dim(i);
    return bytes;
  }
  static std::vector<Nccl::Part> parts(std::span<const int64_t> rows, int64_t row) {
    std::vector<Nccl::Part> all;
    int64_t at = 0;
    for (int64_t n : rows) {
      all.push_back({at, n * row});
      at += n * row;
    }
    return all;
  }

  std::shared_ptr<Fate> fate_;
  std::vector<int> members_;
  int device_;
  GpuCommunicatorOptions options_;
  int rank_ = 0;
  std::unique_ptr<PeerMemory> peer_;
  std::unique_ptr<Nccl> nccl_;
  Traffic traffic_;
  mutable Traffic all_traffic_;  // what traffic() said last
};

}  // namespace

}  // namespace cuda

std::unique_ptr<Communicator> make_gpu_communicator(Channel& channel, int device,
                                                    const GpuCommunicatorOptions& options) {
  std::vector<int> all(channel.size());
  for (int r = 0; r < channel.size(); ++r) all[r] = r;
  return std::make_unique<cuda::GpuCommunicator>(std::make_shared<cuda::Fate>(channel), all, device, options);
}

}  // namespace tessera

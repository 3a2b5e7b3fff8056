// The parts of channels that need no sockets: exchange_all(), and ranks that are threads.
#include "parallel/channel.h"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>

#include "core/error.h"
#include "parallel/rank_loss.h"

namespace tessera {

namespace {

// All threads' messages. A loss is per rank object so that each may set its own on_loss.
struct Exchange {
  explicit Exchange(int size) : size(size), down(size), up(size), losses(size), left(size) {}
  // REQUIRES: the mutex.
  void tell() {
    ++changes;
    changed.notify_all();
  }
  const int size;
  std::mutex mutex;
  std::condition_variable changed;
  std::atomic<uint64_t> changes{0};               // of what `changed` tells
  std::vector<std::deque<std::string>> down, up;  // from rank 0 to r, from r to rank 0
  std::vector<RankLoss> losses;
  std::vector<char> left;
};

class ThreadChannel final : public Channel {
 public:
  ThreadChannel(std::shared_ptr<Exchange> all, int rank) : all_(std::move(all)), rank_(rank) {}
  ~ThreadChannel() override {
    std::lock_guard lock(all_->mutex);
    all_->left[rank_] = 1;
    all_->tell();
  }
  std::string_view name() const override { return "threads"; }
  int rank() const override { return rank_; }
  int size() const override { return all_->size; }

  void send(std::string_view message) override {
    check();
    std::lock_guard lock(all_->mutex);
    if (rank_ != 0)
      all_->up[rank_].emplace_back(message);
    else
      for (int r = 1; r < size(); ++r) all_->down[r].emplace_back(message);
    all_->tell();
  }

  bool receive(int from, std::string& message) override {
    TS_CHECK(from != rank_ && (from == 0 || rank_ == 0) && from < size());
    std::unique_lock lock(all_->mutex);
    std::deque<std::string>& queue = rank_ == 0 ? all_->up[from] : all_->down[rank_];
    RankLoss& loss = all_->losses[rank_];
    const auto heard = [&] { return !queue.empty() || all_->left[from] != 0 || !loss.line().empty(); };
    const auto until = std::chrono::steady_clock::now() + awake_;
    for (bool awake = awake_.count() > 0; awake && !heard();) {
      const uint64_t seen = all_->changes;
      lock.unlock();
      while (all_->changes == seen && awake) awake = std::chrono::steady_clock::now() < until;
      lock.lock();
    }
    all_->changed.wait(lock, heard);
    loss.check();
    if (queue.empty()) return false;
    message = std::move(queue.front());
    queue.pop_front();
    return true;
  }

  void stay_awake(std::chrono::microseconds time) override { awake_ = time; }
  void abort(std::string_view cause) noexcept override {
    for (RankLoss& loss : all_->losses) loss.set(rank_, size(), cause);
    std::lock_guard lock(all_->mutex);
    all_->tell();
  }
  void check() override { all_->losses[rank_].check(); }
  void on_loss(const void* owner, std::function<void(const std::string&)> told) override {
    all_->losses[rank_].on_loss(owner, std::move(told));
  }

 private:
  std::shared_ptr<Exchange> all_;
  int rank_;
  std::chrono::microseconds awake_{0};
};

void hear(Channel& channel, int from, std::string& message) {
  if (!channel.receive(from, message))
    fail(ErrorCode::kIo, "rank {} of {} ended before the run was set up", from, channel.size());
}

}  // namespace

std::vector<std::unique_ptr<Channel>> make_thread_channels(int size) {
  TS_CHECK(size >= 1);
  auto all = std::make_shared<Exchange>(size);
  std::vector<std::unique_ptr<Channel>> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(std::make_unique<ThreadChannel>(all, r));
  return ranks;
}

// Rank 0 collects, and sends what it got as [length, bytes] after one another.
std::vector<std::string> exchange_all(Channel& channel, std::string_view mine) {
  std::vector<std::string> parts(channel.size());
  if (channel.rank() == 0) {
    parts[0] = mine;
    for (int r = 1; r < channel.size(); ++r) hear(channel, r, parts[r]);
    std::string joined;
    for (const std::string& part : parts) {
      const auto length = static_cast<uint32_t>(part.size());
      joined.append(reinterpret_cast<const char*>(&length), sizeof length);
      joined += part;
    }
    channel.send(joined);
    return parts;
  }
  channel.send(mine);
  std::string joined;
  hear(channel, 0, joined);
  std::string_view rest = joined;
  for (std::string& part : parts) {
    uint32_t length = 0;
    if (rest.size() < sizeof length) fail(ErrorCode::kCorrupt, "rank 0 sent too few bytes while the run was set up");
    std::memcpy(&length, rest.data(), sizeof length);
    rest.remove_prefix(sizeof length);
    if (rest.size() < length) fail(ErrorCode::kCorrupt, "rank 0 sent too few bytes while the run was set up");
    part = rest.substr(0, length);
    rest.remove_prefix(length);
  }
  return parts;
}

}  // namespace tessera

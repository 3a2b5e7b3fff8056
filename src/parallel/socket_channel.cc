#include "parallel/socket_channel.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "parallel/rank_loss.h"
#include "parallel/rendezvous.h"

namespace tessera {

namespace {

using Clock = std::chrono::steady_clock;

// Longer than a message takes between two hosts, shorter than a scheduler tick.
constexpr std::chrono::microseconds kSpin(50);
// How long the other connection may take to tell why this one closed.
constexpr auto kVerdict = std::chrono::seconds(2);

Clock::duration seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}

struct Peer {
  int rank = 0;
  Connections at;
  std::atomic<bool> left{false};  // said goodbye
  bool closed = false;            // the watch thread's
  Clock::time_point heard = Clock::now();
};

struct Cause {
  int rank = -1;
  std::string text;
};

class SocketChannel final : public Channel {
 public:
  SocketChannel(const RankPlace& place, const ChannelTerms& terms, std::vector<Connections> connections)
      : rank_(place.rank), size_(place.size), terms_(terms), peers_(place.size) {
    wake_ = Fd(eventfd(0, EFD_CLOEXEC));
    stop_ = Fd(eventfd(0, EFD_CLOEXEC));
    if (!wake_ || !stop_) fail(ErrorCode::kIo, "no file descriptor is left for the ranks' connections");
    for (int r = 0; r < size_; ++r) {
      if (!connections[r].messages) continue;
      peers_[r] = std::make_unique<Peer>();
      peers_[r]->rank = r;
      peers_[r]->at = std::move(connections[r]);
    }
    sigset_t all, before;  // signals are for the program's own threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    watcher_ = std::thread([this] { watch(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~SocketChannel() override {
    if (loss_.line().empty()) tell(FrameKind::kGoodbye, "");
    raise(stop_);
    watcher_.join();
    for (auto& peer : peers_)
      if (peer) shutdown(peer->at.watch->fd(), SHUT_WR), shutdown(peer->at.messages->fd(), SHUT_WR);
  }

  std::string_view name() const override { return "sockets"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void send(std::string_view message) override {
    loss_.check();
    frame_.clear();
    append_frame(frame_, FrameKind::kMessage, message);
    for (auto& peer : peers_)
      if (peer && !peer->at.messages->write(frame_)) gone(*peer);
    for (auto& peer : peers_)
      while (peer && peer->at.messages->unsent()) {
        wait(*peer, POLLOUT);
        if (!peer->at.messages->flush()) gone(*peer);
      }
  }

  bool receive(int from, std::string& message) override {
    TS_CHECK(from >= 0 && from < size_ && peers_[from], "rank {} does not listen to rank {}", rank_, from);
    Peer& peer = *peers_[from];
    for (Clock::time_point since = Clock::now();;) {
      loss_.check();
      if (std::optional<Frame> frame = next(peer)) {
        message.assign(frame->body);
        return true;
      }
      const Received received = peer.at.messages->fill();
      if (received == Received::kClosed) return ended(peer);
      if (received == Received::kNothingYet && Clock::now() - since > awake_) {
        wait(peer, POLLIN);
        since = Clock::now();
      }
    }
  }

  void stay_awake(std::chrono::microseconds time) override { awake_ = std::max(time, kSpin); }
  void abort(std::string_view cause) noexcept override { lose({rank_, std::string(cause)}); }
  void check() override { loss_.check(); }
  void on_loss(const void* owner, std::function<void(const std::string&)> told) override {
    loss_.on_loss(owner, std::move(told));
  }

 private:
  static void raise(const Fd& event) {
    const uint64_t one = 1;
    [[maybe_unused]] ssize_t written = ::write(event.get(), &one, sizeof one);
  }

  // The caller's thread.

  std::optional<Frame> next(Peer& peer) {
    try {
      std::optional<Frame> frame = peer.at.messages->next();
      if (!frame || frame->kind == FrameKind::kMessage) return frame;
    } catch (const Error& error) {
      lose({peer.rank, error.what()});
      loss_.check();
    }
    lose({peer.rank, "sent something that is no message"});
    loss_.check();
    return std::nullopt;
  }
  // Until the peer's messages can be read or written, or a rank is lost.
  void wait(Peer& peer, short events) {
    pollfd entries[2] = {{.fd = peer.at.messages->fd(), .events = events, .revents = 0},
                         {.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    poll(entries, 2, 1000);
    loss_.check();
  }
  // The connection closed: false when the peer had said goodbye, else it is lost.
  bool ended(Peer& peer) {
    for (auto until = Clock::now() + kVerdict; Clock::now() < until && !peer.left;) {
      loss_.check();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (!peer.left) lose({peer.rank, "its connection closed; the process has ended"});
    loss_.check();
    return false;
  }
  void gone(Peer& peer) {
    if (!ended(peer)) lose({peer.rank, "has left while others go on"});
    loss_.check();
  }

  // Any thread.

  void lose(const Cause& cause) {
    if (!loss_.set(cause.rank, size_, cause.text)) return;
    raise(wake_);
    tell(FrameKind::kAbort, encode_abort({static_cast<uint32_t>(cause.rank), cause.text}));
  }
  void tell(FrameKind kind, std::string_view body) {
    std::string bytes;
    append_frame(bytes, kind, body);
    std::lock_guard lock(watch_mutex_);
    for (auto& peer : peers_)
      if (peer) peer->at.watch->write(bytes);
  }

  // The watcher's thread.

  void watch() {
    auto beat = Clock::now();
    for (;;) {
      const auto now = Clock::now();
      if (now >= beat) {
        tell(FrameKind::kHeartbeat, "");
        beat = now + seconds(terms_.heartbeat_seconds);
      }
      std::vector<pollfd> entries{{.fd = stop_.get(), .events = POLLIN, .revents = 0}};
      for (auto& peer : peers_)
        if (peer && !peer->closed) entries.push_back({.fd = peer->at.watch->fd(), .events = POLLIN, .revents = 0});
      poll(entries.data(), entries.size(), std::max(1, static_cast<int>((beat - now) / std::chrono::milliseconds(1))));
      if (entries[0].revents != 0) return;
      for (auto& peer : peers_)
        if (peer && !peer->closed)
          if (Cause cause = hear(*peer); cause.rank >= 0) lose(cause);
    }
  }
  // Reads what a peer says on the watched connection; a cause when a rank is lost.
  Cause hear(Peer& peer) {
    std::lock_guard lock(watch_mutex_);
    FrameSocket& socket = *peer.at.watch;
    Received received = socket.fill();
    try {
      while (std::optional<Frame> frame = socket.next()) {
        peer.heard = Clock::now();
        if (frame->kind == FrameKind::kGoodbye) peer.left = true;
        if (frame->kind == FrameKind::kHeartbeat || frame->kind == FrameKind::kGoodbye) continue;
        std::optional<AbortNotice> notice = decode_abort(frame->body);
        if (frame->kind != FrameKind::kAbort || !notice || notice->rank >= static_cast<uint32_t>(size_))
          return {peer.rank, "sent something that is no notice"};
        return {static_cast<int>(notice->rank), notice->cause};
      }
    } catch (const Error& error) {
      return {peer.rank, error.what()};
    }
    peer.closed = received == Received::kClosed;
    if (peer.left) return {};
    if (peer.closed) return {peer.rank, "its connection closed; the process has ended"};
    if (Clock::now() - peer.heard > seconds(terms_.silence_seconds))
      return {peer.rank, fmt::format("silent for {:g} s; it hangs, or its host is gone", terms_.silence_seconds)};
    return {};
  }

  const int rank_, size_;
  const ChannelTerms terms_;
  std::vector<std::unique_ptr<Peer>> peers_;  // by rank; rank 0 has all others, they have rank 0
  std::string frame_;
  std::chrono::microseconds awake_ = kSpin;
  RankLoss loss_;
  Fd wake_, stop_;
  std::mutex watch_mutex_;  // the watched connections
  std::thread watcher_;
};

}  // namespace

std::unique_ptr<Channel> make_socket_channel(const RankPlace& place, const ChannelTerms& terms) {
  return std::make_unique<SocketChannel>(place, terms, meet_ranks(place, terms));
}

}  // namespace tessera

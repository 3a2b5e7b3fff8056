#include "parallel/rendezvous.h"

#include <poll.h>

#include <algorithm>
#include <thread>

#include "core/error.h"

namespace tessera {

namespace {

using Clock = std::chrono::steady_clock;

Deadline in_seconds(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::string frame(FrameKind kind, std::string_view body) {
  std::string bytes;
  append_frame(bytes, kind, body);
  return bytes;
}

// Rank 0's side. Connections that say nothing sensible are dropped; a rank that does not fit ends the run for all.
class Gate {
 public:
  Gate(const RankPlace& place, const ChannelTerms& terms)
      : place_(place),
        terms_(terms),
        listener_(place.listen_fd >= 0 ? Fd(place.listen_fd) : listen_on(place.address, place.port)),
        joined_(place.size),
        deadline_(in_seconds(terms.join_seconds)) {}

  std::vector<Connections> open() {
    while (missing() > 0) {
      if (Clock::now() >= deadline_) refuse_all(ErrorCode::kIo, late());
      wait();
      accept_strangers();
      for (auto& stranger : strangers_) listen_to(stranger);
      std::erase(strangers_, nullptr);
      for (int r = 1; r < place_.size; ++r)
        if (joined_[r].watch && joined_[r].watch->fill() == Received::kClosed)
          refuse_all(ErrorCode::kIo, fmt::format("rank {} of {}: ended while the others joined", r, place_.size));
    }
    for (Connections& rank : joined_)
      if (rank.messages) rank.messages->write(frame(FrameKind::kWelcome, ""));
    return std::move(joined_);
  }

 private:
  static constexpr size_t kMaxStrangers = 1024;
  static constexpr double kAfter = 1;  // seconds that a refusal is repeated

  int missing() const {
    return static_cast<int>(std::count_if(joined_.begin() + 1, joined_.end(),
                                          [](const Connections& c) { return !c.messages || !c.watch; }));
  }
  std::string late() const {
    std::string ranks;
    for (int r = 1; r < place_.size; ++r)
      if (!joined_[r].messages || !joined_[r].watch) ranks += fmt::format("{}{}", ranks.empty() ? "" : ", ", r);
    return fmt::format("rank {} of {}: did not join within {:g} s; is it started, and does it reach {}:{}?", ranks,
                       place_.size, terms_.join_seconds, place_.address, place_.port);
  }
  void accept_strangers() {
    while (Fd fd = accept_from(listener_, Clock::now())) {
      if (strangers_.size() >= kMaxStrangers) strangers_.erase(strangers_.begin());
      strangers_.push_back(std::make_unique<FrameSocket>(std::move(fd), kMaxNotice));
    }
  }
  void wait() {
    std::vector<pollfd> entries{{.fd = listener_.get(), .events = POLLIN, .revents = 0}};
    for (const auto& stranger : strangers_) entries.push_back({.fd = stranger->fd(), .events = POLLIN, .revents = 0});
    for (const Connections& rank : joined_)
      if (rank.watch) entries.push_back({.fd = rank.watch->fd(), .events = POLLIN, .revents = 0});
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
    poll(entries.data(), entries.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 1000)));
  }

  // The hello of a connection when it is there. Resets what speaks otherwise, or closed.
  std::optional<std::optional<Hello>> greeting(std::unique_ptr<FrameSocket>& stranger) {
    try {
      const bool closed = stranger->fill() == Received::kClosed;
      std::optional<Frame> first = stranger->next();
      if (first && first->kind == FrameKind::kHello) return decode_hello(first->body);
      if (first || closed) stranger.reset();
    } catch (const Error&) {
      stranger.reset();
    }
    return std::nullopt;
  }

  void listen_to(std::unique_ptr<FrameSocket>& stranger) {
    std::optional<std::optional<Hello>> greeted = greeting(stranger);
    if (!greeted) return;
    const std::optional<Hello>& hello = *greeted;
    if (std::string why = objection(hello); !why.empty()) {
      stranger->write(frame(FrameKind::kRefusal, why));
      std::unique_ptr<FrameSocket> kept = std::move(stranger);
      refuse_all(ErrorCode::kInvalidArgument, why);
    }
    Connections& rank = joined_[hello->rank];
    stranger->allow(hello->watch ? kMaxNotice : kMaxMessage);
    (hello->watch ? rank.watch : rank.messages) = std::move(stranger);
  }

  std::string objection(const std::optional<Hello>& hello) const {
    if (!hello) return "a rank runs another version of the program than rank 0; start the same one everywhere";
    if (hello->program != terms_.program)
      return fmt::format("rank {} runs {}, rank 0 runs {}; start the same program everywhere", hello->rank,
                         hello->program, terms_.program);
    if (hello->size != static_cast<uint32_t>(place_.size) || hello->rank == 0 || hello->rank >= hello->size)
      return fmt::format("a process joined as rank {} of {}, and rank 0 is one of {}", hello->rank, hello->size,
                         place_.size);
    if (hello->config_hash != terms_.config_hash)
      return fmt::format("rank {} of {} has another model, plan or option than rank 0; start all with one command line",
                         hello->rank, place_.size);
    const Connections& rank = joined_[hello->rank];
    if (hello->watch ? rank.watch : rank.messages)
      return fmt::format("two processes joined as rank {} of {}", hello->rank, place_.size);
    return "";
  }

  [[noreturn]] void refuse_all(ErrorCode code, const std::string& why) {
    for (Connections& rank : joined_)
      for (auto* socket : {rank.messages.get(), rank.watch.get()})
        if (socket) socket->write(frame(FrameKind::kRefusal, why));
    // Those that are still on their way get to hear it too.
    const Deadline until = code == ErrorCode::kInvalidArgument ? std::min(deadline_, in_seconds(kAfter)) : Clock::now();
    while (missing() > 0 && Clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      accept_strangers();
      for (auto& stranger : strangers_)
        if (stranger && greeting(stranger)) stranger->write(frame(FrameKind::kRefusal, why));
    }
    fail(code, "{}", why);
  }

  const RankPlace& place_;
  const ChannelTerms& terms_;
  Fd listener_;
  std::vector<std::unique_ptr<FrameSocket>> strangers_;
  std::vector<Connections> joined_;
  Deadline deadline_;
};

// Throws when rank 0 refused; true when all have joined.
bool welcomed(const RankPlace& place, FrameSocket& zero) {
  const Received received = zero.fill();
  if (std::optional<Frame> answer = zero.next()) {
    if (answer->kind == FrameKind::kWelcome) return true;
    if (answer->kind == FrameKind::kRefusal) fail(ErrorCode::kIo, "{}", answer->body);
    fail(ErrorCode::kCorrupt, "what listens on {}:{} is not rank 0", place.address, place.port);
  }
  if (received == Received::kClosed) fail(ErrorCode::kIo, "rank 0 of {}: ended while the others joined", place.size);
  return false;
}

std::unique_ptr<FrameSocket> introduce(const RankPlace& place, const ChannelTerms& terms, bool watch,
                                       Deadline deadline) {
  std::string why;
  Fd fd = connect_to(place.address, place.port, deadline, &why);
  if (!fd)
    fail(ErrorCode::kIo, "rank {} of {}: cannot reach rank 0 at {}:{}: {}", place.rank, place.size, place.address,
         place.port, why);
  auto socket = std::make_unique<FrameSocket>(std::move(fd), kMaxMessage);
  socket->write(frame(FrameKind::kHello, encode_hello({.rank = static_cast<uint32_t>(place.rank),
                                                       .size = static_cast<uint32_t>(place.size),
                                                       .watch = watch,
                                                       .config_hash = terms.config_hash,
                                                       .program = terms.program})));
  return socket;
}

Connections join(const RankPlace& place, const ChannelTerms& terms) {
  const Deadline deadline = in_seconds(terms.join_seconds);
  Connections zero{.messages = introduce(place, terms, false, deadline)};
  try {
    zero.watch = introduce(place, terms, true, deadline);
  } catch (const Error&) {
    welcomed(place, *zero.messages);  // rank 0 may have said why it is gone
    throw;
  }
  const Deadline patience = deadline + std::chrono::seconds(5);  // rank 0 gives up first, and says why
  while (!welcomed(place, *zero.messages))
    if (!wait_readable(zero.messages->fd(), patience))
      fail(ErrorCode::kIo, "rank 0 of {}: silent for {:g} s while the others joined", place.size, terms.join_seconds);
  return zero;
}

}  // namespace

std::vector<Connections> meet_ranks(const RankPlace& place, const ChannelTerms& terms) {
  if (place.rank == 0) return Gate(place, terms).open();
  std::vector<Connections> all(place.size);
  all[0] = join(place, terms);
  return all;
}

}  // namespace tessera

// Channel: rank 0 tells the other ranks what to do next, and they answer. Messages are byte strings of up to 64 MiB;
// each pair's arrive whole and in order.
//
// Used by one thread a rank, but for abort() and check(). A rank that dies, falls silent or aborts makes every call of
// all others throw kIo with one and the same line that names rank and cause.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class Channel {
 public:
  virtual ~Channel() = default;               // says goodbye, unless a rank was lost
  virtual std::string_view name() const = 0;  // "threads", "sockets"
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Rank 0: to every other rank. The others: to rank 0.
  virtual void send(std::string_view message) = 0;
  // Waits for the next message of `from`: rank 0 hears each of the others, they hear rank 0. False when that rank said
  // goodbye and nothing is left to hear.
  virtual bool receive(int from, std::string& message) = 0;

  // How long this rank's receive() looks for a message before it sleeps: waking up takes tens of microseconds, which a
  // GPU would wait. A core is busy meanwhile.
  virtual void stay_awake(std::chrono::microseconds time) = 0;

  // This rank cannot go on. Any thread may call it.
  virtual void abort(std::string_view cause) noexcept = 0;
  // Throws when a rank was lost. Any thread may call it.
  virtual void check() = 0;
  // `told` is called once, from any thread and with the line that calls throw, when a rank is lost: to end what would
  // otherwise wait for it. At once when one already is. It must not call the channel. One an owner; null takes it away,
  // after which it is not running and will not.
  virtual void on_loss(const void* owner, std::function<void(const std::string& line)> told) = 0;
};

// Every rank gives its bytes and gets everyone's, in rank order. For set-up: handles, identifiers. Throws kIo when a
// rank left instead.
std::vector<std::string> exchange_all(Channel& channel, std::string_view mine);

// One a rank, for ranks that are threads of this process.
std::vector<std::unique_ptr<Channel>> make_thread_channels(int size);

}  // namespace tessera

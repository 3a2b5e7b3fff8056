// The bytes that ranks exchange over sockets: frames of an 8-byte header (length, kind, mark; little-endian) and a
// body. Everything read is checked; a reader never holds more than what arrived, nor more than its limit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tessera {

enum class FrameKind : uint16_t {
  kHello = 1,  // a rank introduces a connection
  kWelcome,    // all ranks are there
  kRefusal,    // body: why; the run ends
  kMessage,    // body: the caller's
  kHeartbeat,  // no body
  kAbort,      // body: AbortNotice
  kGoodbye,    // no body: what ends now ends as it should
};

constexpr size_t kFrameHeader = 8;
constexpr size_t kMaxMessage = size_t{64} << 20;
constexpr size_t kMaxNotice = 4096;  // limit of every other body

struct Frame {
  FrameKind kind;
  std::string_view body;
};

// Appends a frame; body is at most kMaxMessage.
void append_frame(std::string& out, FrameKind kind, std::string_view body);

// Cuts a stream of bytes into frames.
class FrameReader {
 public:
  explicit FrameReader(size_t max_body) : max_body_(max_body) {}
  void allow(size_t max_body) { max_body_ = max_body; }
  // Room for at least 4096 bytes; tell filled() how many came. Frames got from next() are gone.
  std::span<char> space();
  void filled(size_t bytes) { end_ += bytes; }
  // The next frame when all of it is there. Throws kCorrupt when the bytes are no frame, or one above the limit.
  std::optional<Frame> next();

 private:
  size_t max_body_;
  std::string buffer_;
  size_t begin_ = 0, end_ = 0;
};

// Who speaks, and what must be alike on all ranks.
struct Hello {
  uint32_t rank = 0;
  uint32_t size = 0;
  bool watch = false;        // the connection for heartbeats, not the one for messages
  uint64_t config_hash = 0;  // of whatever decides what the ranks do
  std::string program;       // "tessera 0.1.0"
  bool operator==(const Hello&) const = default;
};
std::string encode_hello(const Hello& hello);
std::optional<Hello> decode_hello(std::string_view body);  // nullopt: not a hello of this version

struct AbortNotice {
  uint32_t rank = 0;
  std::string cause;  // printable; cut to 1000 bytes when sent
  bool operator==(const AbortNotice&) const = default;
};
std::string encode_abort(const AbortNotice& notice);
std::optional<AbortNotice> decode_abort(std::string_view body);

}  // namespace tessera

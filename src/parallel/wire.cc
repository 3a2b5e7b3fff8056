#include "parallel/wire.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/error.h"

namespace tessera {

namespace {

constexpr uint16_t kMark = 0x7e55;
constexpr uint32_t kVersion = 1;
constexpr size_t kMaxProgram = 64;
constexpr size_t kMaxCause = 1000;

static_assert(std::endian::native == std::endian::little);

template <class T>
void put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

// Takes a value off the front; false when too few bytes are left.
template <class T>
bool take(std::string_view& in, T* value) {
  if (in.size() < sizeof(T)) return false;
  std::memcpy(value, in.data(), sizeof(T));
  in.remove_prefix(sizeof(T));
  return true;
}

bool printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
}

}  // namespace

void append_frame(std::string& out, FrameKind kind, std::string_view body) {
  TS_CHECK(body.size() <= (kind == FrameKind::kMessage ? kMaxMessage : kMaxNotice));
  put(out, static_cast<uint32_t>(body.size()));
  put(out, static_cast<uint16_t>(kind));
  put(out, kMark);
  out += body;
}

std::span<char> FrameReader::space() {
  constexpr size_t kRoom = 4096;
  if (begin_ == end_) begin_ = end_ = 0;
  if (buffer_.size() - end_ < kRoom && begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (buffer_.size() - end_ < kRoom) buffer_.resize(std::max(2 * buffer_.size(), end_ + kRoom));
  return {buffer_.data() + end_, buffer_.size() - end_};
}

std::optional<Frame> FrameReader::next() {
  std::string_view bytes(buffer_.data() + begin_, end_ - begin_);
  uint32_t length = 0;
  uint16_t kind = 0, mark = 0;
  if (bytes.size() < kFrameHeader) return std::nullopt;
  take(bytes, &length), take(bytes, &kind), take(bytes, &mark);
  const bool known =
      kind >= static_cast<uint16_t>(FrameKind::kHello) && kind <= static_cast<uint16_t>(FrameKind::kGoodbye);
  if (mark != kMark || !known) fail(ErrorCode::kCorrupt, "the bytes received are not those of a rank");
  const size_t limit =
      static_cast<FrameKind>(kind) == FrameKind::kMessage ? max_body_ : std::min(max_body_, kMaxNotice);
  if (length > limit) fail(ErrorCode::kCorrupt, "a message of {} bytes where at most {} are allowed", length, limit);
  if (bytes.size() < length) return std::nullopt;
  begin_ += kFrameHeader + length;
  return Frame{static_cast<FrameKind>(kind), bytes.substr(0, length)};
}

std::string encode_hello(const Hello& hello) {
  std::string out;
  put(out, kVersion);
  put(out, hello.rank);
  put(out, hello.size);
  put(out, static_cast<uint8_t>(hello.watch));
  put(out, hello.config_hash);
  out += std::string_view(hello.program).substr(0, kMaxProgram);
  return out;
}

std::optional<Hello> decode_hello(std::string_view body) {
  Hello hello;
  uint32_t version = 0;
  uint8_t watch = 0;
  const bool whole = take(body, &version) && take(body, &hello.rank) && take(body, &hello.size) && take(body, &watch) &&
                     take(body, &hello.config_hash);
  if (!whole || version != kVersion || watch > 1 || body.size() > kMaxProgram || !printable(body)) return std::nullopt;
  hello.watch = watch == 1;
  hello.program = body;
  return hello;
}

std::string encode_abort(const AbortNotice& notice) {
  std::string out;
  put(out, notice.rank);
  for (char c : std::string_view(notice.cause).substr(0, kMaxCause)) out += printable({&c, 1}) ? c : ' ';
  return out;
}

std::optional<AbortNotice> decode_abort(std::string_view body) {
  AbortNotice notice;
  if (!take(body, &notice.rank) || body.size() > kMaxCause || !printable(body)) return std::nullopt;
  notice.cause = body;
  return notice;
}

}  // namespace tessera

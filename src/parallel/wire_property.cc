#include "parallel/wire_property.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/wire.h"

namespace tessera {

namespace {

struct Heard {
  std::vector<std::pair<FrameKind, std::string>> frames;
  bool refused = false;
  bool operator==(const Heard&) const = default;
};

// All frames, with the bytes arriving `piece` at a time.
Heard hear(std::string_view bytes, size_t piece, size_t limit) {
  Heard heard;
  FrameReader reader(limit);
  while (!bytes.empty() && !heard.refused) {
    std::span<char> room = reader.space();
    const size_t now = std::min({piece, bytes.size(), room.size()});
    std::memcpy(room.data(), bytes.data(), now);
    reader.filled(now);
    bytes.remove_prefix(now);
    try {
      while (std::optional<Frame> frame = reader.next()) {
        TS_CHECK(frame->body.size() <= limit);
        heard.frames.emplace_back(frame->kind, frame->body);
      }
    } catch (const Error& error) {
      TS_CHECK(error.code() == ErrorCode::kCorrupt);
      heard.refused = true;
    }
  }
  return heard;
}

}  // namespace

void check_wire(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  constexpr size_t kLimit = 1 << 16;
  const Heard heard = hear(bytes, size_t{1} << 20, kLimit);
  TS_CHECK(hear(bytes, 1 + size % 13, kLimit) == heard, "pieces change what is heard");
  std::string again;
  for (const auto& [kind, body] : heard.frames) append_frame(again, kind, body);
  TS_CHECK(bytes.starts_with(again), "frames are not what was sent");
  for (const auto& [kind, body] : heard.frames) {
    if (std::optional<Hello> hello = decode_hello(body)) TS_CHECK(encode_hello(*hello) == body);
    if (std::optional<AbortNotice> notice = decode_abort(body)) TS_CHECK(encode_abort(*notice) == body);
  }
  if (std::optional<Hello> hello = decode_hello(bytes)) TS_CHECK(encode_hello(*hello) == bytes);
  if (std::optional<AbortNotice> notice = decode_abort(bytes)) TS_CHECK(encode_abort(*notice) == bytes);
}

}  // namespace tessera

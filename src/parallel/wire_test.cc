#include "parallel/wire.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "core/error.h"
#include "parallel/wire_property.h"

namespace tessera {
namespace {

TEST(Wire, HelloAndNoticeComeBack) {
  const Hello hello{.rank = 3, .size = 8, .watch = true, .config_hash = 0x0123456789abcdef, .program = "tessera 0.1.0"};
  EXPECT_EQ(decode_hello(encode_hello(hello)), hello);
  const AbortNotice notice{.rank = 5, .cause = "no memory"};
  EXPECT_EQ(decode_abort(encode_abort(notice)), notice);
  EXPECT_EQ(decode_abort(encode_abort({.rank = 1, .cause = "two\nlines\x1b"}))->cause, "two lines ");
  EXPECT_EQ(decode_abort(encode_abort({.rank = 1, .cause = std::string(5000, 'x')}))->cause, std::string(1000, 'x'));
}

TEST(Wire, AnotherVersionOrForeignBytesAreNoHello) {
  std::string bytes = encode_hello({.rank = 1, .size = 2, .program = "tessera"});
  bytes[0] = 2;
  EXPECT_FALSE(decode_hello(bytes));
  EXPECT_FALSE(decode_hello(""));
  EXPECT_FALSE(decode_hello("GET / HTTP/1.1"));
}

TEST(Wire, FramesAboveTheLimitAreRefusedByTheirHeader) {
  std::string bytes;
  append_frame(bytes, FrameKind::kMessage, std::string(5000, 'x'));
  FrameReader reader(4999);
  std::memcpy(reader.space().data(), bytes.data(), kFrameHeader);
  reader.filled(kFrameHeader);
  EXPECT_THROW(reader.next(), Error);
}

// Valid frames with a few bytes changed, cut or put in.
TEST(Wire, AnyBytes) {
  std::mt19937 random(11);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    for (uint32_t frames = random() % 4; frames > 0; --frames) {
      const uint32_t kind = random() % 4;
      if (kind == 0)
        append_frame(bytes, FrameKind::kHello, encode_hello({.rank = static_cast<uint32_t>(random()), .program = "p"}));
      if (kind == 1)
        append_frame(bytes, FrameKind::kAbort, encode_abort({.rank = static_cast<uint32_t>(random()), .cause = "c"}));
      if (kind == 2) append_frame(bytes, FrameKind::kMessage, std::string(random() % 9000, 'm'));
      if (kind == 3) append_frame(bytes, FrameKind::kHeartbeat, "");
    }
    for (uint32_t edits = random() % 4; edits > 0 && !bytes.empty(); --edits) {
      const size_t at = random() % bytes.size();
      if (random() % 3 == 0) bytes.erase(at, 1 + random() % 8);
      if (random() % 3 == 0) bytes.insert(at, 1 + random() % 8, static_cast<char>(random()));
      if (!bytes.empty()) bytes[at % bytes.size()] = static_cast<char>(random());
    }
    check_wire(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  }
}

}  // namespace
}  // namespace tessera

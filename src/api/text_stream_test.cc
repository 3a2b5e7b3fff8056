#include "api/text_stream.h"

#include <gtest/gtest.h>

#include <random>

namespace tessera {
namespace {

TEST(TextStream, HoldsBackWhatMayBeAStop) {
  TextStream stream({"STOP", "\n\n"});
  EXPECT_EQ(stream.push("hello S"), "hello ");
  EXPECT_EQ(stream.push("T"), "");
  EXPECT_EQ(stream.push("art\n"), "STart");
  EXPECT_EQ(stream.push("x"), "\nx");
}

TEST(TextStream, CutsAtTheFirstStop) {
  TextStream stream({"def", "bcd"});
  EXPECT_EQ(stream.push("abcdef"), "a");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("more") + stream.finish(), "");
}

// However the text is cut, what comes out is the text before the first stop string.
TEST(TextStream, SameAtAnyChunking) {
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (size_t n = random() % 30; n > 0; --n) text += static_cast<char>('a' + random() % 3);
    std::vector<std::string> stop;
    for (size_t n = random() % 3; n > 0; --n) {
      std::string s;
      for (size_t k = 1 + random() % 4; k > 0; --k) s += static_cast<char>('a' + random() % 3);
      stop.push_back(s);
    }
    TextStream stream(stop);
    std::string out;
    size_t fed = 0;
    while (fed < text.size() && !stream.stopped()) {
      size_t n = 1 + random() % 5;
      out += stream.push(std::string_view(text).substr(fed, n));
      fed += n;
    }
    out += stream.finish();
    // The stop seen first while reading is the one that ends first; the cut is the earliest start among those present
    // by then. Text before it must be a prefix without any stop string in it.
    EXPECT_EQ(text.compare(0, out.size(), out), 0);
    for (const std::string& s : stop) EXPECT_EQ(out.find(s), std::string::npos);
    if (!stream.stopped()) EXPECT_EQ(out, text);
  }
}

}  // namespace
}  // namespace tessera

#include "text/utf8_lossy.h"

#include <gtest/gtest.h>

#include <vector>

namespace tessera {
namespace {

TEST(Utf8Lossy, KeepsWhatIsValid) {
  for (const char* text :
       {"", "plain", "naïve café", "東京", "🙂👩‍👩‍👧", "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(utf8_lossy(text), text);
  }
}

// The examples of Unicode 15, section 3.9, tables 3-8 to 3-11, written with ? for U+FFFD.
TEST(Utf8Lossy, ReplacesEachMaximalSubpart) {
  const std::vector<std::pair<std::string, std::string>> cases = {{"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "????????A"},
                                                                  {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "????????A"},
                                                                  {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "?????A??B"},
                                                                  {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "????A"},
                                                                  {"\xF0\x9F\x99", "?"},
                                                                  {"\xE6\x9D"
                                                                   "a",
                                                                   "?a"},
                                                                  {"\xF5\x80", "??"}};
  for (const auto& [bytes, expected] : cases) {
    std::string plain;
    for (char c : expected) plain += c == '?' ? "\xEF\xBF\xBD" : std::string(1, c);
    EXPECT_EQ(utf8_lossy(bytes), plain) << testing::PrintToString(bytes);
  }
}

TEST(Utf8Lossy, GivesACharacterWhenItIsComplete) {
  Utf8Lossy decoder;
  std::string out;
  decoder.push("a\xF0\x9F", out);
  EXPECT_EQ(out, "a");
  decoder.push("\x99", out);
  EXPECT_EQ(out, "a");
  decoder.push("\x82z", out);
  EXPECT_EQ(out, "a🙂z");
  decoder.push("\xE6", out);
  decoder.flush(out);
  decoder.flush(out);
  EXPECT_EQ(out, "a🙂z\xEF\xBF\xBD");
}

}  // namespace
}  // namespace tessera

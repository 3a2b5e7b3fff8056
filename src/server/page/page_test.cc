#include "server/page/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

namespace tessera::server {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

TEST(ChatPage, IsTheFileByteForByte) {
  std::ifstream file(TESSERA_SOURCE_DIR "/src/server/page/index.html", std::ios::binary);
  const std::string expected{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(expected.empty());
  EXPECT_TRUE(chat_page() == expected) << chat_page().size() << " bytes embedded, " << expected.size()
                                       << " in the file";
}

TEST(ChatPage, IsASmallWholeDocument) {
  const std::string page(chat_page());
  EXPECT_LT(page.size(), 60000);
  EXPECT_THAT(page, StartsWith("<!doctype html>"));
  EXPECT_THAT(page, EndsWith("</html>\n"));
}

// tests/server/page_check.py compares the hashes themselves.
TEST(ChatPage, PolicyAllowsNothingByDefault) {
  const std::string policy(chat_page_policy());
  EXPECT_THAT(policy, StartsWith("default-src 'none'; "));
  EXPECT_THAT(policy, MatchesRegex(".*; script-src 'sha256-[A-Za-z0-9+/]+='; style-src 'sha256-[A-Za-z0-9+/]+='; .*"));
  EXPECT_THAT(policy, HasSubstr("connect-src 'self'"));
  EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
}

}  // namespace
}  // namespace tessera::server

// The bar of downloads and loads, on a terminal.
#include "cli/byte_progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <thread>

namespace tessera::cli {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;

constexpr int64_t kTotal = 4'000'000'000;

// What `draw` leaves on a terminal that is standard error.
std::string on_terminal(const std::function<void()>& draw) {
  int master = -1, slave = -1;
  EXPECT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
  std::fflush(stderr);
  const int before = ::dup(2);
  ::dup2(slave, 2);
  draw();
  std::fflush(stderr);
  ::dup2(before, 2);
  for (int fd : {slave, before}) ::close(fd);
  std::string seen;  // a terminal hands out pieces, and fails once nobody can write to it any more
  char piece[4096];
  for (ssize_t n = 0; (n = ::read(master, piece, sizeof piece)) > 0;) seen.append(piece, static_cast<size_t>(n));
  ::close(master);
  return seen;
}

TEST(ByteProgress, ShowsBytesAndRate) {
  const std::string seen = on_terminal([] {
    ByteProgress bar("loading");
    bar.update(kTotal / 4, kTotal, kTotal / 4);
  });
  EXPECT_THAT(seen, AllOf(HasSubstr("loading [######......"), HasSubstr("] 1.00 GB of 4.00 GB, "), HasSubstr("B/s"),
                          EndsWith("\r\x1b[K")));
}

TEST(ByteProgress, IsSilentWhereItTakesNoTime) {
  auto load = [](milliseconds pause) {
    ByteProgress bar("loading", milliseconds(300));
    bar.update(1, kTotal, 1);
    std::this_thread::sleep_for(pause);
    bar.update(kTotal / 2, kTotal, kTotal / 2);
    bar.update(kTotal, kTotal, kTotal);
  };
  EXPECT_EQ(on_terminal([&] { load(milliseconds(0)); }), "");
  EXPECT_THAT(on_terminal([&] { load(milliseconds(350)); }),
              AllOf(HasSubstr("2.00 GB of 4.00 GB"), EndsWith("\x1b[K")));
}

// So that what is said next has a line of its own.
TEST(ByteProgress, IsWipedWhenAllIsThere) {
  const std::string seen = on_terminal([] {
    ByteProgress bar("loading");
    bar.update(kTotal / 2, kTotal, kTotal / 2);
    bar.update(kTotal, kTotal, kTotal);
    EXPECT_EQ(::write(2, "next", 4), 4);
  });
  EXPECT_THAT(seen, EndsWith("\r\x1b[Knext"));
}

}  // namespace
}  // namespace tessera::cli

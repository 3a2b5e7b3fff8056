// A model's file that is cut while its pages are in use.
#include "cli/lost_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <thread>
#include <vector>

namespace tessera::cli {
namespace {

// Maps a file of a page, cuts it, and reads it with that many threads.
void read_what_was_cut(int threads) {
  signal(SIGBUS, SIG_DFL);  // a sanitizer may have its own
  explain_lost_pages();
  FILE* file = std::tmpfile();
  if (file == nullptr || ftruncate(fileno(file), 4096) != 0) return;
  const auto* page = static_cast<const volatile char*>(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fileno(file), 0));
  if (page == MAP_FAILED || ftruncate(fileno(file), 0) != 0) return;
  std::vector<std::thread> readers;
  for (int i = 0; i < threads; ++i) readers.emplace_back([page] { (void)*page; });
  for (std::thread& t : readers) t.join();
}

using LostPagesDeathTest = ::testing::Test;

TEST_F(LostPagesDeathTest, AreOneLineAndTheSameEnd) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  for (int threads : {1, 8}) {
    EXPECT_EXIT(read_what_was_cut(threads), ::testing::KilledBySignal(SIGBUS),
                "^tessera: bus error: .* was cut while it was in use.*\n$");
  }
}

TEST_F(LostPagesDeathTest, ASignalFromOutsideEndsTheProgramToo) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_DFL);
        explain_lost_pages();
        kill(getpid(), SIGBUS);
        while (true) pause();
      },
      ::testing::KilledBySignal(SIGBUS), "bus error");
}

}  // namespace
}  // namespace tessera::cli

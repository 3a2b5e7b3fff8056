// Every kind of communicator against plain loops over the ranks' data.
#include "parallel/communicator.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "parallel/communicator_cases.h"
#include "parallel/single_communicator.h"
#include "parallel/thread_group.h"

namespace tessera {
namespace {

using testing::random_calls;

TEST(Communicator, OneRankKeepsWhatItHas) {
  std::unique_ptr<Communicator> c = make_single_communicator();
  random_calls(*c, 1, 100);
  EXPECT_EQ(c->traffic().all_reduce + c->traffic().all_to_all + c->traffic().all_gather, 0);
}

TEST(Communicator, ThreadsAgreeWithPlainLoops) {
  for (int size : {1, 2, 3, 4, 7})
    run_thread_ranks(size, [&](Communicator& c) { random_calls(c, static_cast<uint32_t>(size), 300); });
}

TEST(Communicator, ASplitKeepsTheOrderAndTalksToItsOwn) {
  run_thread_ranks(6, [](Communicator& c) {
    std::unique_ptr<Communicator> columns = c.split(c.rank() % 2), rows = c.split(c.rank() / 2);
    EXPECT_EQ(columns->size(), 3);
    EXPECT_EQ(columns->rank(), c.rank() / 2);
    EXPECT_EQ(rows->size(), 2);
    EXPECT_EQ(rows->rank(), c.rank() % 2);
    float x = static_cast<float>(c.rank());
    columns->all_reduce({.data = &x, .shape = {1}}, nullptr);
    EXPECT_EQ(x, c.rank() % 2 == 0 ? 6.0f : 9.0f);
    random_calls(*columns, 5, 50);
    random_calls(*rows, 6, 50);
    random_calls(c, 7, 50);
  });
}

std::string failure_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Communicator, ARankThatThrowsEndsAllOthers) {
  for (int size : {2, 3, 5})
    for (int bad = 0; bad < size; ++bad)
      for (int when : {0, 1, 17}) {
        std::vector<std::string> seen(size);
        std::string message = failure_of([&] {
          run_thread_ranks(size, [&](Communicator& c) {
            std::unique_ptr<Communicator> pair = c.split(c.rank() / 2);
            try {
              for (int i = 0;; ++i) {
                if (i == when && c.rank() == bad) fail(ErrorCode::kOutOfMemory, "no memory left");
                random_calls(*pair, 3, 1);
                random_calls(c, static_cast<uint32_t>(i), 1);
              }
            } catch (const Error& error) {
              seen[c.rank()] = error.what();
              throw;
            }
          });
        });
        EXPECT_EQ(message, fmt::format("rank {} of {}: no memory left", bad, size));
        for (int r = 0; r < size; ++r) EXPECT_NE(seen[r], "") << r;
      }
}

TEST(Communicator, AbortReachesThoseWhoWait) {
  std::vector<std::unique_ptr<Communicator>> ranks = make_thread_communicators(3);
  std::vector<std::string> seen(3);
  std::vector<std::thread> threads;
  for (int r : {0, 1}) threads.emplace_back([&, r] { seen[r] = failure_of([&] { ranks[r]->barrier(); }); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ranks[2]->abort("lost its GPU");
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(seen[0], "rank 2 of 3: lost its GPU");
  EXPECT_EQ(seen[1], seen[0]);
  EXPECT_EQ(failure_of([&] { ranks[0]->check(); }), seen[0]);
  EXPECT_EQ(failure_of([&] { ranks[2]->barrier(); }), seen[0]);
}

TEST(Communicator, ARankThatLeavesIsNotWaitedFor) {
  std::string message = failure_of([] {
    run_thread_ranks(3, [](Communicator& c) {
      if (c.rank() == 1) return;
      c.barrier();
    });
  });
  EXPECT_EQ(message, "rank 1 of 3 has left while others wait for it");
}

}  // namespace
}  // namespace tessera

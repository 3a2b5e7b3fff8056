// Local ranks from outside: they end together whoever is killed, whenever, and leave nothing behind.
// TESSERA_KILLS=50 kills every process 50 times.
#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

// The children of a process, oldest first: rank r is the r-th.
std::vector<pid_t> children_of(pid_t parent) {
  std::ifstream file("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children");
  std::vector<pid_t> all;
  for (pid_t child; file >> child;) all.push_back(child);
  return all;
}
bool alive(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string id, name, state;
  return file >> id >> name >> state && state != "Z";
}

struct Program {
  Program(int ranks, int steps) {
    int out[2], err[2];
    EXPECT_EQ(pipe(out), 0);
    EXPECT_EQ(pipe(err), 0);
    process = fork();
    if (process == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(out[1], 1), dup2(err[1], 2);
      for (int fd : {out[0], out[1], err[0], err[1]}) close(fd);
      const std::string n = std::to_string(ranks), s = std::to_string(steps);
      execl(TESSERA_RANK_PROGRAM, "rank_program", n.c_str(), s.c_str(), nullptr);
      _exit(127);
    }
    close(out[1]), close(err[1]);
    out_ = out[0], err_ = err[0];
  }
  ~Program() {
    if (status == -1) kill(process, SIGKILL), waitpid(process, nullptr, 0);
    close(out_), close(err_);
  }
  // Until rank 0 says that all are there, or 20 seconds.
  bool ready() {
    pollfd entry{.fd = out_, .events = POLLIN, .revents = 0};
    if (poll(&entry, 1, 20000) <= 0) return false;
    char text[64];
    return read(out_, text, sizeof text) > 0;
  }
  // The exit status as a shell shows it; -1 when it has not ended within the time.
  int wait(double seconds) {
    const auto until = Clock::now() + std::chrono::duration<double>(seconds);
    while (Clock::now() < until) {
      if (waitpid(process, &status, WNOHANG) == process)
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    status = -1;
    return -1;
  }
  std::string errors() {
    std::string all;
    char text[512];
    for (ssize_t got; (got = read(err_, text, sizeof text)) > 0;) all.append(text, static_cast<size_t>(got));
    return all;
  }
  pid_t process;
  int status = -1;

 private:
  int out_, err_;
};

// Whether all are gone within the time: a killed parent's children are reaped by whoever adopts them.
testing::AssertionResult gone(const std::vector<pid_t>& processes, double seconds) {
  const auto until = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < until) {
    if (std::none_of(processes.begin(), processes.end(), alive)) return testing::AssertionSuccess();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return testing::AssertionFailure() << "orphans";
}

int kills() {
  const char* asked = std::getenv("TESSERA_KILLS");
  return asked ? std::atoi(asked) : 3;
}

TEST(LocalRanks, AllEndWell) {
  for (int ranks : {1, 2, 4}) {
    Program run(ranks, 50);
    EXPECT_EQ(run.wait(30), 0) << ranks;
    EXPECT_EQ(run.errors(), "");
  }
}

TEST(LocalRanks, ATerminateSignalEndsThemInOrder) {
  Program run(3, 0);
  ASSERT_TRUE(run.ready());
  std::vector<pid_t> ranks = children_of(run.process);
  ASSERT_EQ(ranks.size(), 3u);
  kill(run.process, SIGTERM);
  EXPECT_EQ(run.wait(20), 0);
  EXPECT_EQ(run.errors(), "");
  EXPECT_TRUE(gone(ranks, 1));
}

TEST(LocalRanks, AKilledRankEndsAllWithOneLine) {
  std::mt19937 random(5);
  constexpr int kRanks = 3;
  for (int bad = 0; bad < kRanks; ++bad)
    for (int i = 0; i < kills(); ++i) {
      Program run(kRanks, 0);
      // Now and then while they are still meeting.
      if (i % 3 != 2) {
        ASSERT_TRUE(run.ready());
      }
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
      std::vector<pid_t> ranks = children_of(run.process);
      if (static_cast<int>(ranks.size()) != kRanks) continue;
      kill(ranks[bad], SIGKILL);
      EXPECT_EQ(run.wait(15), 1) << bad << " " << i;
      const std::string errors = run.errors();
      EXPECT_THAT(errors, testing::StartsWith("tessera: rank " + std::to_string(bad) + " of 3: "));
      EXPECT_EQ(std::count(errors.begin(), errors.end(), '\n'), 1) << errors;
      EXPECT_TRUE(gone(ranks, 1));
    }
}

TEST(LocalRanks, AKilledParentTakesThemAlong) {
  std::mt19937 random(6);
  for (int i = 0; i < kills(); ++i) {
    Program run(3, 0);
    if (i % 3 != 2) {
      ASSERT_TRUE(run.ready());
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    std::vector<pid_t> ranks = children_of(run.process);
    kill(run.process, SIGKILL);
    EXPECT_EQ(run.wait(5), 128 + SIGKILL);
    EXPECT_TRUE(gone(ranks, 2)) << i;
  }
}

TEST(LocalRanks, AStoppedRankEndsAll) {
  Program run(3, 0);
  ASSERT_TRUE(run.ready());
  std::vector<pid_t> ranks = children_of(run.process);
  kill(ranks[2], SIGSTOP);
  EXPECT_EQ(run.wait(25), 1);
  EXPECT_EQ(run.errors(), "tessera: rank 2 of 3: silent for 5 s; it hangs, or its host is gone\n");
  EXPECT_TRUE(gone(ranks, 1));
}

}  // namespace

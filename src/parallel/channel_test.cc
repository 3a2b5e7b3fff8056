// Both kinds of channel: order, goodbyes, and what every rank sees when one is lost.
#include "parallel/channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <mutex>
#include <random>
#include <thread>

#include "core/error.h"
#include "parallel/socket.h"
#include "parallel/socket_channel.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using Body = std::function<void(Channel&)>;

std::string failure_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// A run of socket ranks on the loopback interface; each rank's part may change its place and terms first.
struct Meeting {
  explicit Meeting(int size) : size(size), listener(listen_on("127.0.0.1", 0)), port(port_of(listener)) {}
  RankPlace place(int rank) {
    RankPlace p{.rank = rank, .size = size, .local_rank = rank, .address = "127.0.0.1", .port = port};
    if (rank == 0) p.listen_fd = listener.release();
    return p;
  }
  const int size;
  Fd listener;
  uint16_t port;
};
const ChannelTerms kTerms{.program = "tessera test", .config_hash = 7, .join_seconds = 20};

void run_sockets(int size, const Body& body) {
  Meeting meeting(size);
  std::vector<RankPlace> places;
  for (int r = 0; r < size; ++r) places.push_back(meeting.place(r));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) threads.emplace_back([&, r] { body(*make_socket_channel(places[r], kTerms)); });
  for (std::thread& t : threads) t.join();
}

void run_threads(int size, const Body& body) {
  std::vector<std::unique_ptr<Channel>> channels = make_thread_channels(size);
  std::vector<std::thread> threads;
  for (auto& channel : channels)
    threads.emplace_back([&] {
      body(*channel);
      channel.reset();
    });
  for (std::thread& t : threads) t.join();
}

constexpr std::chrono::microseconds kAwake(300);  // some ranks look for messages, others sleep

class ChannelTest : public testing::TestWithParam<void (*)(int, const Body&)> {};
INSTANTIATE_TEST_SUITE_P(Kinds, ChannelTest, testing::Values(&run_threads, &run_sockets),
                         [](const auto& info) { return info.index == 0 ? "Threads" : "Sockets"; });

std::string bytes_of(std::mt19937& random) {
  std::string bytes(random() % 5 == 0 ? random() % 300000 : random() % 40, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

TEST_P(ChannelTest, MessagesComeWholeAndInOrderBothWays) {
  for (int size : {1, 2, 4})
    GetParam()(size, [](Channel& c) {
      if (c.rank() % 2 == 1) c.stay_awake(kAwake);
      std::mt19937 plans(1);
      std::string got;
      for (int i = 0; i < 100; ++i) {
        std::string plan = bytes_of(plans);
        if (c.rank() == 0) {
          c.send(plan);
          for (int r = 1; r < c.size(); ++r) {
            ASSERT_TRUE(c.receive(r, got));
            ASSERT_EQ(got, plan + static_cast<char>(r));
          }
        } else {
          ASSERT_TRUE(c.receive(0, got));
          ASSERT_EQ(got, plan);
          c.send(got + static_cast<char>(c.rank()));
        }
      }
    });
}

TEST_P(ChannelTest, ExchangeGivesEveryoneAll) {
  GetParam()(4, [](Channel& c) {
    for (int i = 0; i < 3; ++i) {
      std::vector<std::string> all = exchange_all(c, std::string(static_cast<size_t>(c.rank() * i), 'x'));
      for (int r = 0; r < 4; ++r) EXPECT_EQ(all[r], std::string(static_cast<size_t>(r * i), 'x'));
    }
  });
}

TEST_P(ChannelTest, AGoodbyeIsNoLoss) {
  GetParam()(3, [](Channel& c) {
    if (c.rank() == 1) c.stay_awake(kAwake);
    std::string got;
    if (c.rank() == 0) {
      c.send("last");
      return;
    }
    EXPECT_TRUE(c.receive(0, got));
    EXPECT_EQ(got, "last");
    EXPECT_FALSE(c.receive(0, got));
    EXPECT_EQ(failure_of([&] { c.check(); }), "");
  });
}

TEST_P(ChannelTest, AnAbortReachesAllWithOneLine) {
  for (int bad : {0, 1, 3}) {
    std::mutex mutex;
    std::vector<std::string> lines, told;
    GetParam()(4, [&](Channel& c) {
      if (c.rank() % 2 == 1) c.stay_awake(std::chrono::milliseconds(20));
      c.on_loss(&c, [&](const std::string& line) {
        std::lock_guard lock(mutex);
        told.push_back(line);
      });
      std::string got;
      std::string line = failure_of([&] {
        if (c.rank() == bad) {
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
          c.abort("out of memory");
          c.check();
        }
        c.receive(c.rank() == 0 ? (bad == 1 ? 2 : 1) : 0, got);
      });
      std::lock_guard lock(mutex);
      lines.push_back(line);
    });
    ASSERT_EQ(lines.size(), 4u);
    EXPECT_THAT(lines, testing::Each(fmt::format("rank {} of 4: out of memory", bad)));
    EXPECT_THAT(told, testing::Each(lines[0]));
    EXPECT_EQ(told.size(), 4u);
  }
}

// Processes: rank `bad` ends by `how` while the others wait; each writes what it saw into a pipe.
std::vector<std::string> lines_after(int size, int bad, const std::function<void()>& how, ChannelTerms terms) {
  Meeting meeting(size);
  std::vector<pid_t> children;
  std::vector<std::string> lines;
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  for (int r = 0; r < size; ++r) {
    const pid_t child = fork();
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    close(ends[0]);
    std::string line = failure_of([&] {
      std::unique_ptr<Channel> c = make_socket_channel(meeting.place(r), terms);
      exchange_all(*c, "ready");
      if (r == bad) how();
      std::string got;
      for (;;) c->receive(r == 0 ? (bad == 1 && size > 2 ? 2 : 1) : 0, got);
    });
    line += '\n';
    [[maybe_unused]] ssize_t n = write(ends[1], line.data(), line.size());
    _exit(0);
  }
  close(ends[1]);
  FILE* in = fdopen(ends[0], "r");
  char text[512];
  while (static_cast<int>(lines.size()) < size - 1 && fgets(text, sizeof text, in)) lines.emplace_back(text);
  for (pid_t child : children) kill(child, SIGKILL);
  for (pid_t child : children) waitpid(child, nullptr, 0);
  fclose(in);
  return lines;
}

TEST(SocketChannel, AKilledProcessIsNamedByAllOthers) {
  for (int bad : {0, 1, 2}) {
    std::vector<std::string> lines = lines_after(
        3, bad, [] { raise(SIGKILL); }, kTerms);
    EXPECT_EQ(lines.size(), 2u);
    EXPECT_THAT(lines, testing::Each(fmt::format("rank {} of 3: its connection closed; the process has ended\n", bad)));
  }
}

TEST(SocketChannel, AStoppedProcessIsNamedByAllOthers) {
  ChannelTerms terms = kTerms;
  terms.heartbeat_seconds = 0.1;
  terms.silence_seconds = 1.5;
  for (int bad : {0, 2}) {
    std::vector<std::string> lines = lines_after(
        3, bad, [] { raise(SIGSTOP); }, terms);
    EXPECT_EQ(lines.size(), 2u);
    EXPECT_THAT(lines,
                testing::Each(fmt::format("rank {} of 3: silent for 1.5 s; it hangs, or its host is gone\n", bad)));
  }
}

// What each of the ranks gets to hear when they do not fit; `change` makes one differ.
std::vector<std::string> refusals(int size, const std::function<void(RankPlace&, ChannelTerms&)>& change) {
  Meeting meeting(size);
  std::vector<RankPlace> places;
  for (int r = 0; r < size; ++r) places.push_back(meeting.place(r));
  std::vector<std::string> lines(size);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      ChannelTerms terms = kTerms;
      terms.join_seconds = 3;
      change(places[r], terms);
      lines[r] = failure_of([&] { make_socket_channel(places[r], terms); });
    });
  for (std::thread& t : threads) t.join();
  return lines;
}

TEST(SocketChannel, RanksThatDoNotFitAreRefusedEverywhere) {
  auto lines = refusals(3, [](RankPlace& place, ChannelTerms& terms) {
    if (place.rank == 2) terms.program = "tessera 9";
  });
  EXPECT_THAT(lines[0], "rank 2 runs tessera 9, rank 0 runs tessera test; start the same program everywhere");
  EXPECT_EQ(lines[2], lines[0]);
  EXPECT_NE(lines[1], "");

  lines = refusals(2, [](RankPlace& place, ChannelTerms& terms) {
    if (place.rank == 1) terms.config_hash = 8;
  });
  EXPECT_THAT(lines[0], HasSubstr("rank 1 of 2 has another model, plan or option than rank 0"));
  EXPECT_EQ(lines[1], lines[0]);

  lines = refusals(2, [](RankPlace& place, ChannelTerms&) {
    if (place.rank == 1) place.size = 3, place.rank = 2;
  });
  EXPECT_EQ(lines[0], "a process joined as rank 2 of 3, and rank 0 is one of 2");
  EXPECT_EQ(lines[1], lines[0]);
}

TEST(SocketChannel, ARankThatNeverJoinsIsNamed) {
  Meeting meeting(3);
  std::vector<RankPlace> places = {meeting.place(0), meeting.place(1)};
  ChannelTerms terms = kTerms;
  terms.join_seconds = 0.5;
  std::string lines[2];
  std::thread other([&] { lines[1] = failure_of([&] { make_socket_channel(places[1], terms); }); });
  lines[0] = failure_of([&] { make_socket_channel(places[0], terms); });
  other.join();
  EXPECT_THAT(lines[0],
              HasSubstr("rank 2 of 3: did not join within 0.5 s; is it started, and does it reach 127.0.0.1"));
  EXPECT_EQ(lines[1], lines[0]);
}

TEST(SocketChannel, StrangersAreIgnored) {
  Meeting meeting(2);
  const uint16_t port = meeting.port;
  std::vector<RankPlace> places = {meeting.place(0), meeting.place(1)};
  std::thread zero([&] {
    std::unique_ptr<Channel> c = make_socket_channel(places[0], kTerms);
    EXPECT_EQ(exchange_all(*c, "a")[1], "b");
  });
  auto soon = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  std::string why;
  Fd silent = connect_to("127.0.0.1", port, soon, &why), loud = connect_to("127.0.0.1", port, soon, &why);
  ASSERT_TRUE(silent && loud) << why;
  ::send(loud.get(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
  std::unique_ptr<Channel> one = make_socket_channel(places[1], kTerms);
  EXPECT_EQ(exchange_all(*one, "b")[0], "a");
  zero.join();
}

}  // namespace
}  // namespace tessera

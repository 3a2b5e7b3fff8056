#include "parallel/thread_group.h"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "parallel/rank_sum.h"

namespace tessera {

namespace {

struct LostRank : Error {
  explicit LostRank(const std::string& message) : Error(ErrorCode::kIo, message) {}
};

// What all groups of one set of ranks share: the lock, and whether a rank was lost.
struct Fate {
  explicit Fate(int size) : size(size) {}
  void lose(int rank, std::string_view cause) {
    std::lock_guard lock(mutex);
    if (lost) return;
    message = fmt::format("rank {} of {}: {}", rank, size, cause);
    lost = true;
    changed.notify_all();
  }
  const int size;
  std::mutex mutex;
  std::condition_variable changed;
  bool lost = false;
  std::string message;
};

enum class Call : uint8_t { kAllReduce, kAllGather, kAllToAll, kBroadcast, kBarrier, kSplit };

// What a rank shows the others between the two barriers of a call.
struct Offer {
  Call call = Call::kBarrier;
  Tensor send;
  const int64_t* send_rows = nullptr;
  int number = 0;  // root or colour
};

// About 20 us: ranks of one step arrive closely after each other.
constexpr int kSpins = 1500;

struct Group {
  Group(std::shared_ptr<Fate> fate, int size) : fate(std::move(fate)), size(size), offers(size) {}

  // The opening barrier throws when a rank is lost. Whoever gets past it touches the others' memory, so the closing one
  // waits for all whatever happened: they only copy, and cannot fail.
  void meet(bool opening) {
    std::unique_lock lock(fate->mutex);
    if (opening) throw_if_lost();
    const uint32_t mine = epoch.load(std::memory_order_relaxed);
    if (++arrived == size) {
      arrived = 0;
      epoch.store(mine + 1, std::memory_order_release);
      fate->changed.notify_all();
      return;
    }
    lock.unlock();
    for (int i = 0; i < kSpins; ++i) {
      if (epoch.load(std::memory_order_acquire) != mine) return;
      if (i % 64 == 63) std::this_thread::yield();
    }
    lock.lock();
    fate->changed.wait(lock, [&] { return epoch.load(std::memory_order_relaxed) != mine || (opening && lost()); });
    if (epoch.load(std::memory_order_relaxed) == mine) throw_if_lost();
  }

  bool lost() const { return fate->lost || left >= 0; }
  void throw_if_lost() const {
    if (fate->lost) throw LostRank(fate->message);
    if (left >= 0) throw LostRank(fmt::format("rank {} of {} has left while others wait for it", left, size));
  }

  const std::shared_ptr<Fate> fate;
  const int size;
  std::vector<Offer> offers;
  std::map<int, std::shared_ptr<Group>> children;  // while the ranks split
  std::atomic<uint32_t> epoch{0};
  int arrived = 0;
  int left = -1;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank, int first_rank)
      : group_(std::move(group)), rank_(rank), first_rank_(first_rank), all_(group_->size) {}
  ~ThreadCommunicator() override {
    std::lock_guard lock(group_->fate->mutex);
    if (group_->left < 0) group_->left = rank_;
    group_->fate->changed.notify_all();
  }

  std::string_view name() const override { return "threads"; }
  int rank() const override { return rank_; }
  int size() const override { return group_->size; }
  const Traffic& traffic() const override { return traffic_; }

  // Each rank sums its own slice and writes it to everyone: nobody else reads or writes that slice.
  void all_reduce(const Tensor& x, void*) override {
    open({.call = Call::kAllReduce, .send = x});
    for (int r = 0; r < size(); ++r) {
      const Tensor& theirs = group_->offers[r].send;
      TS_CHECK(theirs.dtype == x.dtype && theirs.numel() == x.numel(), "ranks {} and {} sum different tensors", rank_,
               r);
      all_[r] = theirs.data;
    }
    const int64_t begin = x.numel() * rank_ / size(), end = x.numel() * (rank_ + 1) / size();
    rank_sum(x.dtype, all_, all_, begin, end);
    group_->meet(false);
    const int64_t mine = (end - begin) * dtype_size(x.dtype);
    traffic_.all_reduce += x.bytes() - mine + mine * (size() - 1);
  }

  void all_gather(const Tensor& mine, const Tensor& all, void*) override {
    TS_CHECK(all.bytes() == mine.bytes() * size());
    open({.call = Call::kAllGather, .send = mine});
    for (int r = 0; r < size(); ++r) {
      TS_CHECK(group_->offers[r].send.bytes() == mine.bytes(), "ranks {} and {} gather different sizes", rank_, r);
      copy(all, r * mine.bytes(), group_->offers[r].send, 0, mine.bytes());
    }
    group_->meet(false);
    traffic_.all_gather += mine.bytes() * (size() - 1);
  }

  void all_to_all(const Tensor& send, std::span<const int64_t> send_rows, const Tensor& receive,
                  std::span<const int64_t> receive_rows, void*) override {
    TS_CHECK(static_cast<int>(send_rows.size()) == size() && static_cast<int>(receive_rows.size()) == size());
    open({.call = Call::kAllToAll, .send = send, .send_rows = send_rows.data()});
    const int64_t row = row_bytes(receive);
    TS_CHECK(row == row_bytes(send));
    int64_t at = 0;
    for (int r = 0; r < size(); ++r) {
      const Offer& offer = group_->offers[r];
      TS_CHECK(offer.send_rows[rank_] == receive_rows[r], "rank {} sends {} rows to rank {}, which expects {}", r,
               offer.send_rows[rank_], rank_, receive_rows[r]);
      int64_t begin = 0;
      for (int before = 0; before < rank_; ++before) begin += offer.send_rows[before];
      copy(receive, at * row, offer.send, begin * row, receive_rows[r] * row);
      at += receive_rows[r];
    }
    group_->meet(false);
    for (int r = 0; r < size(); ++r)
      if (r != rank_) traffic_.all_to_all += send_rows[r] * row;
  }

  void broadcast(const Tensor& x, int root, void*) override {
    TS_CHECK(root >= 0 && root < size());
    open({.call = Call::kBroadcast, .send = x, .number = root});
    const Offer& offer = group_->offers[root];
    TS_CHECK(offer.number == root && offer.send.bytes() == x.bytes(), "ranks {} and {} broadcast different things",
             rank_, root);
    copy(x, 0, offer.send, 0, x.bytes());
    group_->meet(false);
    if (rank_ == root) traffic_.broadcast += x.bytes() * (size() - 1);
  }

  void barrier() override {
    open({.call = Call::kBarrier});
    group_->meet(false);
  }

  std::unique_ptr<Communicator> split(int colour) override {
    open({.call = Call::kSplit, .number = colour});
    int members = 0, mine = 0;
    for (int r = 0; r < size(); ++r) {
      if (group_->offers[r].number != colour) continue;
      if (r < rank_) ++mine;
      ++members;
    }
    std::shared_ptr<Group> child;
    {
      std::lock_guard lock(group_->fate->mutex);
      std::shared_ptr<Group>& slot = group_->children[colour];
      if (!slot) slot = std::make_shared<Group>(group_->fate, members);
      child = slot;
    }
    group_->meet(false);
    if (rank_ == 0) group_->children.clear();
    group_->meet(false);
    return std::make_unique<ThreadCommunicator>(std::move(child), mine, first_rank_);
  }

  void abort(std::string_view cause) noexcept override { group_->fate->lose(first_rank_, cause); }
  void check() override {
    std::lock_guard lock(group_->fate->mutex);
    group_->throw_if_lost();
  }

 private:
  void open(const Offer& offer) {
    group_->offers[rank_] = offer;
    group_->meet(true);
    for (const Offer& theirs : group_->offers)
      TS_CHECK(theirs.call == offer.call, "ranks of one group made different calls");
  }
  static int64_t row_bytes(const Tensor& t) {
    int64_t bytes = dtype_size(t.dtype);
    for (int i = 1; i < t.shape.rank(); ++i) bytes *= t.dim(i);
    return bytes;
  }
  static void copy(const Tensor& to, int64_t to_offset, const Tensor& from, int64_t from_offset, int64_t bytes) {
    char* target = to.as<char>() + to_offset;
    const char* source = from.as<char>() + from_offset;
    if (bytes > 0 && target != source) std::memcpy(target, source, static_cast<size_t>(bytes));
  }

  std::shared_ptr<Group> group_;
  int rank_;
  int first_rank_;          // before any split: the one that messages name
  std::vector<void*> all_;  // the ranks' memory, in a sum
  Traffic traffic_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int size) {
  TS_CHECK(size >= 1);
  auto group = std::make_shared<Group>(std::make_shared<Fate>(size), size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(std::make_unique<ThreadCommunicator>(group, r, r));
  return ranks;
}

void run_thread_ranks(int size, const std::function<void(Communicator&)>& body) {
  std::vector<std::unique_ptr<Communicator>> ranks = make_thread_communicators(size);
  std::mutex mutex;
  std::optional<Error> cause;
  bool caused_here = false;  // by a rank itself, not by the loss of another
  auto report = [&](Communicator& rank, ErrorCode code, const std::string& what, bool own) {
    {
      std::lock_guard lock(mutex);
      if (!cause || (own && !caused_here)) {
        cause = own ? Error(code, fmt::format("rank {} of {}: {}", rank.rank(), size, what)) : Error(code, what);
        caused_here = own;
      }
    }
    rank.abort(what);
  };
  std::vector<std::thread> threads;
  for (std::unique_ptr<Communicator>& rank : ranks)
    threads.emplace_back([&report, &body, &rank] {
      try {
        body(*rank);
      } catch (const LostRank& error) {
        report(*rank, error.code(), error.what(), false);
      } catch (const Error& error) {
        report(*rank, error.code(), error.what(), true);
      } catch (const std::exception& error) {
        report(*rank, ErrorCode::kIo, error.what(), true);
      }
      rank.reset();
    });
  for (std::thread& thread : threads) thread.join();
  if (cause) throw Error(*cause);
}

}  // namespace tessera

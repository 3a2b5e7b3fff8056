#include "parallel/mpi_communicator.h"

#include <dlfcn.h>
#include <sched.h>

#include <climits>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/mpi_module.h"
#include "parallel/rank_sum.h"

namespace tessera {

namespace {

// Sums up to here are gathered whole: one round trip instead of two.
constexpr int64_t kOneStepBytes = 32 << 10;
// Polls between two looks at whether a rank is lost.
constexpr int kPolls = 64;

const TesseraMpi& module_of_mpi() {
  static const TesseraMpi* const once = []() -> const TesseraMpi* {
    std::error_code ignored;
    const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
    // Global: Open MPI's own parts look for its symbols there.
    for (const std::string& path :
         {(here / "libtessera_mpi.so").string(), (here.parent_path() / "lib" / "libtessera_mpi.so").string(),
          std::string("libtessera_mpi.so")})
      if (void* file = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL))
        if (auto entry = reinterpret_cast<TesseraMpiEntry>(dlsym(file, "tessera_mpi"))) return entry();
    return nullptr;
  }();
  if (once == nullptr)
    fail(ErrorCode::kUnsupported,
         "CPU ranks that are processes need MPI, and libtessera_mpi.so is not beside the program; install "
         "libopenmpi-dev and build again, or give --tp alone for ranks in one process");
  return *once;
}

void check_mpi(int error, const char* what) {
  if (error == 0) return;
  char text[256];
  module_of_mpi().describe(error, text, sizeof text);
  fail(ErrorCode::kIo, "MPI: {}: {}", what, text);
}

int checked(int64_t bytes) {
  if (bytes > INT_MAX) fail(ErrorCode::kUnsupported, "MPI moves less than 2 GiB at a time, not {} MiB", bytes >> 20);
  return static_cast<int>(bytes);
}

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(Channel& channel, void* comm, bool root) : channel_(channel), comm_(comm), root_(root) {
    check_mpi(mpi_.rank(comm_, &rank_, &size_), "asking who is who");
    all_.resize(size_);
    for (auto* counts : {&send_bytes_, &send_at_, &receive_bytes_, &receive_at_}) counts->resize(size_);
  }
  // After a loss MPI cannot be left in order: it waits for all.
  ~MpiCommunicator() override {
    if (lost_ || std::uncaught_exceptions() > 0) return;
    mpi_.release(comm_);
    if (root_) mpi_.finish();
  }

  std::string_view name() const override { return "mpi"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const Traffic& traffic() const override { return traffic_; }

  void all_reduce(const Tensor& x, void*) override {
    const int64_t n = x.numel(), unit = dtype_size(x.dtype);
    if (size_ == 1 || n == 0) return;
    if (x.bytes() <= kOneStepBytes) {
      scratch_.resize(static_cast<size_t>(x.bytes() * size_));
      finish(mpi_.gather(comm_, x.data, checked(x.bytes()), scratch_.data()), "summing");
      for (int r = 0; r < size_; ++r) all_[r] = scratch_.data() + r * x.bytes();
      rank_sum(x.dtype, all_, {{x.data}}, 0, n);
      traffic_.all_reduce += x.bytes() * (size_ - 1);
      return;
    }
    auto begin = [&](int r) { return n * r / size_; };
    const int64_t mine = begin(rank_ + 1) - begin(rank_);
    // Everyone's part of my slice, summed where the first one lies.
    scratch_.resize(static_cast<size_t>(mine * size_ * unit));
    for (int r = 0; r < size_; ++r) {
      send_at_[r] = checked(begin(r) * unit);
      send_bytes_[r] = checked((begin(r + 1) - begin(r)) * unit);
      receive_at_[r] = checked(r * mine * unit);
      receive_bytes_[r] = checked(mine * unit);
      all_[r] = scratch_.data() + r * mine * unit;
    }
    exchange(x.data, scratch_.data(), "summing");
    rank_sum(x.dtype, all_, {{all_[0]}}, 0, mine);
    send_at_.swap(receive_at_), send_bytes_.swap(receive_bytes_);
    for (int r = 0; r < size_; ++r) send_at_[r] = 0;
    exchange(scratch_.data(), x.data, "summing");
    traffic_.all_reduce += x.bytes() - mine * unit + mine * unit * (size_ - 1);
  }

  void all_gather(const Tensor& mine, const Tensor& all, void*) override {
    TS_CHECK(all.bytes() == mine.bytes() * size_);
    scratch_.assign(mine.as<char>(), mine.as<char>() + mine.bytes());  // it may lie within `all`
    finish(mpi_.gather(comm_, scratch_.data(), checked(mine.bytes()), all.data), "gathering");
    traffic_.all_gather += mine.bytes() * (size_ - 1);
  }

  void all_to_all(const Tensor& send, std::span<const int64_t> send_rows, const Tensor& receive,
                  std::span<const int64_t> receive_rows, void*) override {
    TS_CHECK(static_cast<int>(send_rows.size()) == size_ && static_cast<int>(receive_rows.size()) == size_);
    int64_t row = dtype_size(send.dtype), sent = 0, received = 0;
    for (int i = 1; i < send.shape.rank(); ++i) row *= send.dim(i);
    for (int r = 0; r < size_; ++r) {
      send_at_[r] = checked(sent * row), send_bytes_[r] = checked(send_rows[r] * row);
      receive_at_[r] = checked(received * row), receive_bytes_[r] = checked(receive_rows[r] * row);
      sent += send_rows[r], received += receive_rows[r];
      if (r != rank_) traffic_.all_to_all += send_rows[r] * row;
    }
    exchange(send.data, receive.data, "exchanging");
  }

  void broadcast(const Tensor& x, int root, void*) override {
    finish(mpi_.broadcast(comm_, x.data, checked(x.bytes()), root), "broadcasting");
    if (rank_ == root) traffic_.broadcast += x.bytes() * (size_ - 1);
  }

  void barrier() override { finish(mpi_.barrier(comm_), "waiting for all"); }

  std::unique_ptr<Communicator> split(int colour) override {
    barrier();  // which notices a lost rank; the split itself would wait for it
    void* part = nullptr;
    check_mpi(mpi_.split(comm_, colour, rank_, &part), "splitting");
    return std::make_unique<MpiCommunicator>(channel_, part, false);
  }

  void abort(std::string_view cause) noexcept override { channel_.abort(cause); }
  void check() override {
    try {
      channel_.check();
    } catch (...) {
      lost_ = true;
      throw;
    }
  }

 private:
  void exchange(const void* from, void* to, const char* what) {
    finish(
        mpi_.exchange(comm_, from, send_bytes_.data(), send_at_.data(), to, receive_bytes_.data(), receive_at_.data()),
        what);
  }
  // Until what was started is done. Ranks may be more than cores, so others get their turn.
  void finish(int started, const char* what) {
    check_mpi(started, what);
    for (int polls = 1, done = 0; done == 0; ++polls) {
      check_mpi(mpi_.test(comm_, &done), what);
      if (done == 0 && polls % kPolls == 0) {
        check();
        sched_yield();
      }
    }
  }

  const TesseraMpi& mpi_ = module_of_mpi();
  Channel& channel_;
  void* comm_;
  bool root_;
  bool lost_ = false;
  int rank_ = 0, size_ = 1;
  std::vector<char> scratch_;
  std::vector<void*> all_;
  std::vector<int> send_bytes_, send_at_, receive_bytes_, receive_at_;
  Traffic traffic_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(Channel& channel) {
  const TesseraMpi& mpi = module_of_mpi();
  check_mpi(mpi.start(), "starting");
  auto made = std::make_unique<MpiCommunicator>(channel, mpi.world(), true);
  if (made->rank() != channel.rank() || made->size() != channel.size())
    fail(ErrorCode::kUnsupported,
         "MPI says that this is rank {} of {}, and the run that it is rank {} of {}; start it with mpirun",
         made->rank(), made->size(), channel.rank(), channel.size());
  return made;
}

}  // namespace tessera

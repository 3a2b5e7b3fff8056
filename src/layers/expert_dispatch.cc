#include "layers/expert_dispatch.h"

#include <cstring>
#include <vector>

namespace tessera {

namespace {

// Which tokens go from each home to each rank. All ranks know all ids, so nobody has to be told.
class Routes {
 public:
  Routes(const StepRanks& ranks, const MoeArgs& a, int64_t experts)
      : mesh_(ranks.mesh), indices_(a.indices.i32()), active_(a.indices.dim(1)) {
    for (int r = 0; r < mesh_.ranks(); ++r) held_.push_back(expert_share(experts, mesh_, r));
  }
  // Calls f(token) for the tokens of `home` that need `rank`, in order.
  template <class F>
  int64_t each(Range home, int rank, F&& f) const {
    int64_t count = 0;
    for (int64_t t = home.begin; t < home.end(); ++t)
      if (needs(t, held_[static_cast<size_t>(rank)])) f(t), ++count;
    return count;
  }

 private:
  bool needs(int64_t token, Range held) const {
    for (int64_t i = 0; i < active_; ++i) {
      const int64_t e = indices_[token * active_ + i];
      if (e >= held.begin && e < held.end()) return true;
    }
    return false;
  }

  const Mesh& mesh_;
  const int32_t* indices_;
  int64_t active_;
  std::vector<Range> held_;
};

void copy_row(const Tensor& to, int64_t row, const Tensor& from, int64_t at) {
  const Tensor source = from.rows(at, 1);
  std::memcpy(to.rows(row, 1).data, source.data, static_cast<size_t>(source.bytes()));
}

}  // namespace

void dispatch_experts(Step& step, const MoeArgs& a, int64_t experts) {
  ScratchScope scope(step);
  const StepRanks& ranks = *step.ranks;
  const int size = ranks.mesh.ranks(), me = ranks.rank;
  const int64_t tokens = a.x.dim(0), hidden = a.x.dim(1), active = a.indices.dim(1);
  const int64_t most_home = share(tokens, size, 0).count;
  // Room for the worst routing: every token comes here, and each of mine goes everywhere.
  Tensor outbox = step.alloc({most_home * size, hidden}), inbox = step.alloc({tokens, hidden});
  Tensor answers = step.alloc({tokens, hidden});
  MoeArgs own = a;
  own.indices = step.alloc(DType::kI32, {tokens, active});
  own.weights = step.alloc(DType::kF32, {tokens, active});
  own.x = inbox, own.out = answers;
  Tensor home_out = step.alloc({most_home, hidden}), all_out = step.alloc({most_home * size, hidden});
  Tensor part = step.alloc(a.x.shape);  // of one rank at a time
  if (step.measure) return step.run(step.kernels->moe, own);

  const Routes routes(ranks, a, experts);
  auto home_of = [&](int r) { return share(tokens, size, r); };
  std::vector<int64_t> send, receive;
  int64_t out_rows = 0, in_rows = 0;
  for (int r = 0; r < size; ++r) {
    send.push_back(routes.each(home_of(me), r, [&](int64_t t) { copy_row(outbox, out_rows++, a.x, t); }));
    receive.push_back(routes.each(home_of(r), me, [&](int64_t t) {
      copy_row(own.indices, in_rows, a.indices, t);
      copy_row(own.weights, in_rows++, a.weights, t);
    }));
  }
  Communicator& world = *ranks.world;
  world.all_to_all(outbox.rows(0, out_rows), send, inbox.rows(0, in_rows), receive, step.stream.native);
  own.x = inbox.rows(0, in_rows), own.out = answers.rows(0, in_rows);
  own.indices = own.indices.rows(0, in_rows), own.weights = own.weights.rows(0, in_rows);
  if (in_rows > 0) step.run(step.kernels->moe, own);
  world.all_to_all(own.out, receive, outbox.rows(0, out_rows), send, step.stream.native);

  // Parts meet in rank order, as in a sum over ranks.
  const Range home = home_of(me);
  std::memset(home_out.data, 0, static_cast<size_t>(home_out.bytes()));
  int64_t row = 0;
  for (int r = 0; r < size; ++r) {
    std::memset(part.data, 0, static_cast<size_t>(part.rows(0, home.count).bytes()));
    routes.each(home, r, [&](int64_t t) { copy_row(part, t - home.begin, outbox, row++); });
    if (home.count > 0)
      step.run(step.kernels->add, AddArgs{.x = home_out.rows(0, home.count), .delta = part.rows(0, home.count)});
  }
  world.all_gather(home_out, all_out.reshape({size, most_home, hidden}), step.stream.native);
  for (int r = 0; r < size; ++r)
    for (int64_t t = 0; t < home_of(r).count; ++t)
      copy_row(a.out, home_of(r).begin + t, all_out, static_cast<int64_t>(r) * most_home + t);
}

}  // namespace tessera

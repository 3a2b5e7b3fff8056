#include "layers/expert_dispatch.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace tessera {

namespace {

// The step's tokens, group after group; a group's are those that its ranks all hold.
struct Homes {
  std::vector<int64_t> tokens;  // of each group
  int ranks = 1;                // of a group

  Homes(const Step& step, int64_t own)
      : tokens(step.groups.tokens.begin(), step.groups.tokens.end()), ranks(step.ranks->mesh.ranks()) {
    if (tokens.empty()) {
      tokens.push_back(own);
    } else {
      ranks /= static_cast<int>(tokens.size());
    }
  }
  int groups() const { return static_cast<int>(tokens.size()); }
  int64_t start(int group) const { return std::accumulate(tokens.begin(), tokens.begin() + group, int64_t{0}); }
  int64_t total() const { return start(groups()); }
  int64_t most() const { return *std::max_element(tokens.begin(), tokens.end()); }
  int64_t most_home() const { return share(most(), ranks, 0).count; }
  // Those that a rank sends, and sums the answers of.
  Range of(int rank) const {
    const int group = rank / ranks;
    Range home = share(tokens[static_cast<size_t>(group)], ranks, rank % ranks);
    home.begin += start(group);
    return home;
  }
};

// Which tokens go from each home to each rank. All ranks know all ids, so nobody has to be told.
class Routes {
 public:
  Routes(const StepRanks& ranks, const Tensor& indices, int64_t experts)
      : mesh_(ranks.mesh), indices_(indices.i32()), active_(indices.dim(1)) {
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

void copy_rows(const Tensor& to, int64_t row, const Tensor& from, int64_t at, int64_t count = 1) {
  const Tensor source = from.rows(at, count);
  std::memcpy(to.rows(row, count).data, source.data, static_cast<size_t>(source.bytes()));
}

// Of all groups' tokens, ids (-1 of what is no token) and weights.
void gather_routing(Step& step, const Homes& homes, const MoeArgs& a, const Tensor& indices, const Tensor& weights) {
  const int64_t active = a.indices.dim(1), own = a.indices.dim(0), most = homes.most();
  for (const auto& [from, to] : {std::pair{a.indices, indices}, {a.weights, weights}}) {
    ScratchScope scope(step);
    Tensor mine = step.alloc(from.dtype, {most, active}), all = step.alloc(from.dtype, {homes.groups(), most, active});
    if (step.measure) continue;
    std::memset(mine.data, 0, static_cast<size_t>(mine.bytes()));
    copy_rows(mine, 0, from, 0, own);
    if (from.dtype == DType::kI32)
      std::fill(mine.i32() + *step.groups.live.i32() * active, mine.i32() + own * active, -1);
    step.ranks->replicas->all_gather(mine, all, step.stream.native);
    for (int g = 0; g < homes.groups(); ++g)
      copy_rows(to, homes.start(g), all.reshape({homes.groups() * most, active}), g * most,
                homes.tokens[static_cast<size_t>(g)]);
  }
}

// The ranks of a group get each other's sums: [most_home, H] of each become a.out's rows.
void share_sums(Step& step, const Homes& homes, const Tensor& home_out, const Tensor& all_out, const Tensor& out) {
  const StepRanks& ranks = *step.ranks;
  const int64_t most = home_out.dim(0), hidden = home_out.dim(1);
  Communicator& group = step.groups.tokens.empty() ? *ranks.world : *ranks.tensor;
  group.all_gather(home_out, all_out.reshape({homes.ranks, most, hidden}), step.stream.native);
  const int first = ranks.rank / homes.ranks * homes.ranks;
  for (int m = 0; m < homes.ranks; ++m) {
    const Range home = homes.of(first + m);
    if (home.count > 0) copy_rows(out, home.begin - homes.of(first).begin, all_out, m * most, home.count);
  }
}

void dispatch_on_gpu(Step& step, const MoeArgs& a, int64_t experts) {
  const int64_t total = step.groups.total(), hidden = a.x.dim(1), active = a.indices.dim(1);
  MoeArgs own = a;
  own.x = step.alloc({total, hidden}), own.out = step.alloc({total, hidden});
  own.indices = step.alloc(DType::kI32, {total, active}), own.weights = step.alloc(DType::kF32, {total, active});
  const TokenRoutes routes{.indices = a.indices,
                           .weights = a.weights,
                           .live = step.groups.live,
                           .group_tokens = step.groups.tokens,
                           .experts = experts};
  Communicator& world = *step.ranks->world;
  if (!step.measure) world.dispatch(routes, a.x, own.x, own.indices, own.weights, step.stream.native);
  step.run(step.kernels->moe, own);
  if (!step.measure) world.combine(routes, own.out, own.indices, a.out, step.stream.native);
}

}  // namespace

void dispatch_experts(Step& step, const MoeArgs& a, int64_t experts) {
  ScratchScope scope(step);
  if (a.x.device.type == DeviceType::kCuda) return dispatch_on_gpu(step, a, experts);
  const StepRanks& ranks = *step.ranks;
  const Homes homes(step, a.x.dim(0));
  const int size = ranks.mesh.ranks(), me = ranks.rank;
  const int64_t tokens = homes.total(), hidden = a.x.dim(1), active = a.indices.dim(1), most_home = homes.most_home();
  Tensor indices = a.indices, weights = a.weights;  // of all tokens
  if (!step.groups.tokens.empty()) {
    indices = step.alloc(DType::kI32, {tokens, active}), weights = step.alloc(DType::kF32, {tokens, active});
    gather_routing(step, homes, a, indices, weights);
  }
  // Room for the worst routing: every token comes here, and each of mine goes everywhere.
  Tensor outbox = step.alloc({most_home * size, hidden}), inbox = step.alloc({tokens, hidden});
  Tensor answers = step.alloc({tokens, hidden});
  MoeArgs own = a;
  own.indices = step.alloc(DType::kI32, {tokens, active});
  own.weights = step.alloc(DType::kF32, {tokens, active});
  own.x = inbox, own.out = answers;
  Tensor home_out = step.alloc({most_home, hidden}), all_out = step.alloc({most_home * homes.ranks, hidden});
  Tensor part = step.alloc({most_home, hidden});  // of one rank at a time
  if (step.measure) return step.run(step.kernels->moe, own);

  const Routes routes(ranks, indices, experts);
  const Range home = homes.of(me);
  const int64_t held = homes.start(me / homes.ranks);  // a.x begins with this token
  std::vector<int64_t> send, receive;
  int64_t out_rows = 0, in_rows = 0;
  for (int r = 0; r < size; ++r) {
    send.push_back(routes.each(home, r, [&](int64_t t) { copy_rows(outbox, out_rows++, a.x, t - held); }));
    receive.push_back(routes.each(homes.of(r), me, [&](int64_t t) {
      copy_rows(own.indices, in_rows, indices, t);
      copy_rows(own.weights, in_rows++, weights, t);
    }));
  }
  Communicator& world = *ranks.world;
  world.all_to_all(outbox.rows(0, out_rows), send, inbox.rows(0, in_rows), receive, step.stream.native);
  own.x = inbox.rows(0, in_rows), own.out = answers.rows(0, in_rows);
  own.indices = own.indices.rows(0, in_rows), own.weights = own.weights.rows(0, in_rows);
  if (in_rows > 0) step.run(step.kernels->moe, own);
  world.all_to_all(own.out, receive, outbox.rows(0, out_rows), send, step.stream.native);

  // Parts meet in rank order, as in a sum over ranks.
  std::memset(home_out.data, 0, static_cast<size_t>(home_out.bytes()));
  int64_t row = 0;
  for (int r = 0; r < size; ++r) {
    std::memset(part.data, 0, static_cast<size_t>(part.rows(0, home.count).bytes()));
    routes.each(home, r, [&](int64_t t) { copy_rows(part, t - home.begin, outbox, row++); });
    if (home.count > 0)
      step.run(step.kernels->add, AddArgs{.x = home_out.rows(0, home.count), .delta = part.rows(0, home.count)});
  }
  share_sums(step, homes, home_out, all_out, a.out);
}

}  // namespace tessera

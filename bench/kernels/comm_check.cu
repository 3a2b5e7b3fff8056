// Checks and times the GPU collectives: local ranks, one GPU each, as threads or processes of this program. Every sum is
// compared with the host's, element by element; times are of calls inside a CUDA graph.
//
// usage: comm_check [--ranks N] [--processes] [--one-gpu] [--no-nccl] [--no-times]
#include <cuda_runtime.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "bench/kernels/comm_cases.cuh"
#include "core/device_context.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/peer.h"
#include "kernels/cuda/rows.h"
#include "parallel/gpu_communicator.h"
#include "parallel/mesh.h"
#include "parallel/sharding.h"
#include "parallel/socket.h"
#include "parallel/socket_channel.h"

namespace tessera {
namespace {

using cuda::check;

struct Options {
  int ranks = 2;
  bool processes = false, one_gpu = false, nccl = true, times = true;
};

class Rank {
 public:
  Rank(Channel& channel, const Options& options)
      : channel_(channel), options_(options), device_(options.one_gpu ? 0 : channel.rank()) {
    context_ = make_cuda_context(device_);
    stream_ = context_->native_stream();
  }

  int run() {
    int wrong = 0;
    std::unique_ptr<Communicator> peer, nccl;
    try {
      peer = make_gpu_communicator(channel_, device_, {.nccl = false, .wait_seconds = 20});
    } catch (const Error& error) {
      say("peer: %s\n", error.what());
    }
    if (options_.nccl) try {
        nccl = make_gpu_communicator(channel_, device_, {.peer = false});
      } catch (const Error& error) {
        say("nccl: %s\n", error.what());
      }
    if (peer) wrong += check_all(*peer);
    if (nccl) wrong += check_all(*nccl);
    if (peer && options_.times) times(*peer, nccl.get()), dispatch_times(*peer);
    if (!peer) return wrong + 1;
    // Anew: a channel tells one communicator of a loss.
    peer.reset(), nccl.reset();
    peer = make_gpu_communicator(channel_, device_, {.nccl = false, .wait_seconds = 20});
    return wrong + check_loss(*peer);
  }

 private:
  template <class... Args>
  void say(const char* format, Args... args) {
    if (channel_.rank() == 0) std::printf(format, args...), std::fflush(stdout);
  }
  const KernelRow<AllReduceNormArgs>* fused_row(const AllReduceNormArgs& args) const {
    return fused_row_.supports(args) ? &fused_row_ : nullptr;
  }
  // 1 when any rank says so.
  int verdict(const char* name, const char* kind, bool bad) {
    int wrong = 0;
    for (const std::string& said : exchange_all(channel_, bad ? "1" : "0")) wrong += said == "1";
    if (wrong) say("%-10s %-28s WRONG on %d ranks\n", kind, name, wrong);
    return wrong ? 1 : 0;
  }

  int check_all(Communicator& c) {
    const std::string kind(c.name());
    int wrong = 0, done = 0;
    uint32_t seed = 1;
    // NCCL rounds at every hop: with more than two ranks only F32 within an error is comparable.
    const bool exact = kind == "peer" || c.size() == 2;
    for (DType dtype : {DType::kBF16, DType::kF32})
      for (int64_t n : {int64_t{1}, int64_t{7}, kHidden, 2 * kHidden, 3 * kHidden + 5, 8 * kHidden, 64 * kHidden,
                        100 * kHidden, 256 * kHidden, 1024 * kHidden, 8192 * kHidden}) {
        if (!exact && dtype == DType::kBF16) continue;
        ++done, wrong += verdict(fmt::format("sum {} {}", dtype_name(dtype), n).c_str(), kind.c_str(),
                                 sum(c, dtype, n, ++seed, exact));
      }
    for (int64_t n : {int64_t{3}, kHidden, 300 * kHidden})
      ++done, wrong += verdict(fmt::format("gather {}", n).c_str(), kind.c_str(), gather(c, n, ++seed));
    for (int64_t rows : {1, 30}) ++done, wrong += verdict("exchange", kind.c_str(), exchange(c, rows, ++seed));
    ++done, wrong += verdict("broadcast", kind.c_str(), broadcast(c, 1000, ++seed));
    if (kind == "peer")
      for (DType dtype : {DType::kBF16, DType::kF32})
        for (int64_t tokens : {1, 2, 5, 32, 40, 128, 256})
          ++done, wrong += verdict(fmt::format("sum and norm {} {}", dtype_name(dtype), tokens).c_str(), kind.c_str(),
                                   fused(c, dtype, tokens, ++seed));
    if (kind == "peer")
      for (int64_t tokens : {1, 2, 8, 9, 16})
        for (int64_t columns : {512, 4096})
          ++done, wrong += verdict(fmt::format("product sent, sum and norm {} {}", tokens, columns).c_str(), kind.c_str(),
                                   sent(c, tokens, columns, ++seed));
    if (kind == "peer")
      for (int64_t tokens : {1, 2, 7, 23, 24, 128, 200})
        for (int64_t experts : {32, 128, 13})
          ++done, wrong += verdict(fmt::format("sum, norm, router {} {}", tokens, experts).c_str(), kind.c_str(),
                                   routed(c, tokens, experts, ++seed));
    for (int64_t rows : {1, 5, 128})
      for (bool random : {false, true})
        ++done, wrong += verdict(fmt::format("sample parts of {} rows", rows).c_str(), kind.c_str(),
                                 sampled_in_parts(c, rows, random, ++seed));
    if (c.dispatches()) {
      for (int group_ranks = 1; group_ranks <= c.size() / 2; ++group_ranks) {
        if (c.size() % group_ranks != 0) continue;
        for (DType dtype : {DType::kBF16, DType::kF32})
          for (Routing routing : {Routing::kRandom, Routing::kAllToFirst, Routing::kAllToLast})
            for (int64_t tokens : {1, 2, 40, 100, 700, 1700}) {
              std::vector<int64_t> sizes;
              for (int g = 0; g < c.size() / group_ranks; ++g) sizes.push_back(g % 2 == 0 ? tokens : tokens / 3 + 1);
              ++done, wrong += verdict(fmt::format("dispatch {} {}/{}", dtype_name(dtype), tokens, group_ranks).c_str(),
                                       kind.c_str(), journey(c, dtype, sizes, routing, ++seed));
            }
      }
      ++done, wrong += verdict("dispatch in a graph", kind.c_str(), journeys(c));
    }
    ++done, wrong += verdict("graph, 200 launches", kind.c_str(), replayed(c));
    say("%s: %d checks, %d wrong\n", kind.c_str(), done, wrong);
    return wrong;
  }

  bool sum(Communicator& c, DType dtype, int64_t n, uint32_t seed, bool exact) {
    Memory x(dtype, {n}, device_);
    for (int64_t i = 0; i < n; ++i) x.put(i, value_of(seed, c.rank(), i));
    x.up();
    c.all_reduce(x.tensor(), stream_);
    context_->synchronize();
    x.down();
    for (int64_t i = 0; i < n; ++i) {
      const float want = sum_of(seed, c.size(), dtype, i);
      if (exact ? x.get(i) != want : std::abs(x.get(i) - want) > 1e-5f) {
        std::fprintf(stderr, "rank %d: element %ld of %ld: %g, expected %g\n", c.rank(), i, n, x.get(i), want);
        return true;
      }
    }
    return false;
  }

  bool gather(Communicator& c, int64_t n, uint32_t seed) {
    Memory mine(DType::kBF16, {n}, device_), all(DType::kBF16, {c.size(), n}, device_);
    for (int64_t i = 0; i < n; ++i) mine.put(i, value_of(seed, c.rank(), i));
    mine.up();
    c.all_gather(mine.tensor(), all.tensor(), stream_);
    context_->synchronize();
    all.down();
    for (int r = 0; r < c.size(); ++r)
      for (int64_t i = 0; i < n; ++i)
        if (all.get(r * n + i) != stored(DType::kBF16, value_of(seed, r, i))) return true;
    return false;
  }

  // Rank a sends (a + 2 b) % 3 * rows rows of 5 to rank b.
  bool exchange(Communicator& c, int64_t rows, uint32_t seed) {
    auto count = [&](int a, int b) { return (a + 2 * b) % 3 * rows; };
    std::vector<int64_t> out, in;
    int64_t sent = 0, received = 0;
    for (int r = 0; r < c.size(); ++r) {
      out.push_back(count(c.rank(), r)), in.push_back(count(r, c.rank()));
      sent += out.back(), received += in.back();
    }
    Memory from(DType::kF32, {sent, 5}, device_), to(DType::kF32, {received, 5}, device_);
    int64_t at = 0;
    for (int r = 0; r < c.size(); ++r)
      for (int64_t i = 0; i < out[r] * 5; ++i) from.put(at++, value_of(seed + static_cast<uint32_t>(r), c.rank(), i));
    from.up();
    c.all_to_all(from.tensor(), out, to.tensor(), in, stream_);
    context_->synchronize();
    to.down();
    at = 0;
    for (int r = 0; r < c.size(); ++r)
      for (int64_t i = 0; i < in[r] * 5; ++i)
        if (to.get(at++) != value_of(seed + static_cast<uint32_t>(c.rank()), r, i)) return true;
    return false;
  }

  // Rank r answers with r + 1 times what came: rows, ids, sums and bytes are what the host computes.
  bool journey(Communicator& c, DType dtype, const std::vector<int64_t>& tokens, Routing routing, uint32_t seed) {
    Journey j(dtype, tokens, c.size(), c.rank(), routing, seed, device_);
    const int64_t before = c.traffic().all_to_all;
    j.dispatch(c, stream_);
    context_->synchronize();
    j.inbox.down(), j.ids.down(), j.came.down();
    int64_t rows = 0, row = 0, shown = 0;
    bool bad = false;
    auto expect = [&](double got, double want, const char* what, int64_t at) {
      if (got == want || ++shown > 3) return bad = bad || got != want, void();
      bad = true;
      std::fprintf(stderr, "rank %d: %s %ld: %g, expected %g\n", c.rank(), what, at, got, want);
    };
    for (int g = 0; g < j.groups; ++g)
      for (int64_t t = 0; t < tokens[g]; ++t, ++row) {
        const bool here = j.needs(g, t, c.rank());
        const Range held = share(kExperts, c.size(), c.rank());
        for (int64_t a = 0; a < kActive; ++a) {
          const int32_t e = j.expert(g, t, a);
          const bool mine = here && e >= held.begin && e < held.end();
          expect(j.ids.values[row * kActive + a], mine ? e : -1, "id", row * kActive + a);
          if (mine) expect(j.came.values[row * kActive + a], value_of(seed + 1, g, t * kActive + a), "weight", row);
        }
        for (int64_t i = 0; i < kHidden; ++i) {
          const float sent = stored(dtype, value_of(seed, g, t * kHidden + i));
          if (here) expect(j.inbox.get(row * kHidden + i), sent, "value", row * kHidden + i);
          j.inbox.put(row * kHidden + i, here ? sent * static_cast<float>(c.rank() + 1) : NAN);
        }
        if (here) rows += j.group_ranks - (g == j.group);
        if (g == j.group && t % j.group_ranks == c.rank() % j.group_ranks)
          for (int p = 0; p < c.size(); ++p) rows += p / j.group_ranks != g && j.needs(g, t, p);
      }
    j.inbox.up();
    exchange_all(channel_, "");
    j.combine(c, stream_);
    context_->synchronize();
    j.out.down();
    for (int64_t t = 0; t < tokens[j.group]; ++t)
      for (int64_t i = 0; i < kHidden; ++i) {
        const float sent = stored(dtype, value_of(seed, j.group, t * kHidden + i));
        float sum = 0;
        for (int r = 0; r < c.size(); ++r)
          if (j.needs(j.group, t, r)) sum += stored(dtype, sent * static_cast<float>(r + 1));
        expect(j.out.get(t * kHidden + i), stored(dtype, sum), "answer", t * kHidden + i);
      }
    expect(static_cast<double>(c.traffic().all_to_all - before),
           static_cast<double>(rows * kHidden * dtype_size(dtype)), "bytes sent", 0);
    return bad;
  }

  // Layers of a decode step in a graph, launched often while ranks are late: few tokens, then many.
  bool journeys(Communicator& c) {
    Journey few(DType::kBF16, std::vector<int64_t>(c.size(), 8), c.size(), c.rank(), Routing::kRandom, 71, device_);
    Journey many(DType::kBF16, std::vector<int64_t>(c.size(), 128), c.size(), c.rank(), Routing::kRandom, 72, device_);
    std::unique_ptr<DeviceGraph> graph = context_->record([&] {
      for (int layer = 0; layer < 6; ++layer)
        for (Journey* j : {&few, &many}) j->dispatch(c, stream_), j->combine(c, stream_);
    });
    for (int round = 0; round < 100; ++round) {
      graph->launch();
      if (round % 20 == 7 * c.rank()) context_->synchronize(), usleep(3000);
    }
    context_->synchronize();
    for (Journey* j : {&few, &many}) {
      j->out.down();
      for (int64_t i = 0; i < j->tokens[j->group] * kHidden; ++i) {
        const float sent = stored(DType::kBF16, value_of(j->seed, j->group, i));
        float sum = 0;
        for (int r = 0; r < c.size(); ++r)
          if (j->needs(j->group, i / kHidden, r)) sum += sent;
        if (j->out.get(i) != stored(DType::kBF16, sum)) return true;
      }
    }
    return false;
  }

  bool broadcast(Communicator& c, int64_t n, uint32_t seed) {
    const int root = c.size() - 1;
    Memory x(DType::kF32, {n}, device_);
    for (int64_t i = 0; i < n; ++i) x.put(i, value_of(seed, c.rank(), i));
    x.up();
    c.broadcast(x.tensor(), root, stream_);
    context_->synchronize();
    x.down();
    for (int64_t i = 0; i < n; ++i)
      if (x.get(i) != value_of(seed, root, i)) return true;
    return false;
  }

  // The operands of a fused call and of the same done apart.
  struct Layer {
    Layer(DType dtype, int64_t tokens, int device)
        : residual(dtype, {tokens, kHidden}, device),
          delta(dtype, {tokens, kHidden}, device),
          weight(dtype, {kHidden}, device),
          out(dtype, {tokens, kHidden}, device) {}
    RmsNormArgs norm() const {
      return {.residual = residual.tensor(), .delta = delta.tensor(), .weight = weight.tensor(), .out = out.tensor()};
    }
    void fill(uint32_t seed, int rank) {
      const int64_t n = delta.tensor().numel();
      for (int64_t i = 0; i < n; ++i) residual.put(i, value_of(seed + 7, 0, i)), delta.put(i, value_of(seed, rank, i));
      for (int64_t i = 0; i < kHidden; ++i) weight.put(i, 1.0f + value_of(seed + 8, 0, i));
      residual.up(), delta.up(), weight.up();
    }
    Memory residual, delta, weight, out;
  };

  bool fused(Communicator& c, DType dtype, int64_t tokens, uint32_t seed) {
    Layer one(dtype, tokens, device_), apart(dtype, tokens, device_);
    one.fill(seed, c.rank()), apart.fill(seed, c.rank());
    Stream stream;
    stream.native = stream_;
    const AllReduceNormArgs args{.norm = one.norm(), .communicator = &c};
    const KernelRow<AllReduceNormArgs>* row = fused_row(args);
    if (row == nullptr) return one.delta.tensor().bytes() <= cuda::peer_view(&c)->one_step_bytes;
    row->launch(args, stream);
    c.all_reduce(apart.delta.tensor(), stream_);
    const RmsNormArgs norm = apart.norm();
    norm_row_.launch(norm, stream);
    context_->synchronize();
    one.residual.down(), one.out.down(), apart.residual.down(), apart.out.down();
    for (int64_t i = 0; i < tokens * kHidden; ++i)
      if (one.residual.get(i) != apart.residual.get(i) || one.out.get(i) != apart.out.get(i)) {
        std::fprintf(stderr, "rank %d: element %ld: %g %g, apart %g %g\n", c.rank(), i, one.residual.get(i),
                     one.out.get(i), apart.residual.get(i), apart.out.get(i));
        return true;
      }
    return false;
  }

  // The way to the experts, and its own outputs.
  struct Routed {
    static constexpr int64_t kActive = 4;
    Routed(int64_t tokens, int64_t experts, int device)
        : layer(DType::kBF16, tokens, device),
          router(DType::kBF16, {experts, kHidden}, device),
          logits(DType::kBF16, {tokens, experts}, device),
          indices(DType::kF32, {tokens, kActive}, device),
          weights(DType::kF32, {tokens, kActive}, device) {}
    void fill(uint32_t seed, int rank) {
      layer.fill(seed, rank);
      for (int64_t i = 0; i < router.tensor().numel(); ++i) router.put(i, value_of(seed + 9, 0, i) * 0.1f);
      router.up();
    }
    NormRouterArgs args(Communicator* over) const {
      Tensor ids = indices.tensor();
      ids.dtype = DType::kI32;
      return {.residual = layer.residual.tensor(),
              .delta = layer.delta.tensor(),
              .norm_weight = layer.weight.tensor(),
              .router = {.values = router.tensor(), .n = router.tensor().dim(0), .k = kHidden},
              .normed = layer.out.tensor(),
              .logits = logits.tensor(),
              .indices = ids,
              .weights = weights.tensor(),
              .communicator = over};
    }
    Layer layer;
    Memory router, logits, indices, weights;
  };

  // Null: no kernel sums, norms and routes so many tokens.
  const KernelRow<NormRouterArgs>* router_row(const NormRouterArgs& args) const {
    for (const auto* row : {&router_few_, &router_many_})
      if (row->supports(args)) return row;
    return nullptr;
  }

  bool routed(Communicator& c, int64_t tokens, int64_t experts, uint32_t seed) {
    Routed one(tokens, experts, device_), apart(tokens, experts, device_);
    one.fill(seed, c.rank()), apart.fill(seed, c.rank());
    Stream stream;
    stream.native = stream_;
    const NormRouterArgs together = one.args(&c), alone = apart.args(nullptr);
    const KernelRow<NormRouterArgs>* row = router_row(together);
    if (row == nullptr) return true;
    row->launch(together, stream);
    c.all_reduce(alone.delta, stream_);
    row->launch(alone, stream);
    context_->synchronize();
    auto differ = [](Memory& x, Memory& y) {
      x.down(), y.down();
      for (int64_t i = 0; i < x.tensor().numel(); ++i)
        if (x.get(i) != y.get(i)) return true;
      return false;
    };
    return differ(one.layer.residual, apart.layer.residual) || differ(one.layer.out, apart.layer.out) ||
           differ(one.logits, apart.logits) || differ(one.indices, apart.indices) || differ(one.weights, apart.weights);
  }

  // A product whose results the others get at once, and the norm that finds them; eight times, so that both turns are used.
  bool sent(Communicator& c, int64_t tokens, int64_t columns, uint32_t seed) {
    Memory x(DType::kBF16, {tokens, columns}, device_), w(DType::kBF16, {kHidden, columns}, device_);
    Layer one(DType::kBF16, tokens, device_), apart(DType::kBF16, tokens, device_);
    Stream stream;
    stream.native = stream_;
    bool differ = false;
    for (uint32_t round = 0; round < 8 && !differ; ++round) {
      for (int64_t i = 0; i < x.tensor().numel(); ++i) x.put(i, value_of(seed + round, c.rank(), i));
      for (int64_t i = 0; i < w.tensor().numel(); ++i) w.put(i, value_of(seed + 77, c.rank(), i) * 0.1f);
      x.up(), w.up(), one.fill(seed, c.rank()), apart.fill(seed, c.rank());
      LinearArgs product{.x = x.tensor(),
                         .w = {.values = w.tensor(), .n = kHidden, .k = columns},
                         .bias = one.weight.tensor(),
                         .out = one.delta.tensor()};
      const LinearSendArgs sending{.linear = product, .communicator = &c};
      if (!send_row_.supports(sending)) return true;
      send_row_.launch(sending, stream);
      fused_row_.launch({.norm = one.norm(), .communicator = &c, .sent = true}, stream);
      product.out = apart.delta.tensor();
      linear_row_.launch(product, stream);
      fused_row_.launch({.norm = apart.norm(), .communicator = &c}, stream);
      context_->synchronize();
      one.residual.down(), one.out.down(), apart.residual.down(), apart.out.down();
      for (int64_t i = 0; i < tokens * kHidden; ++i)
        differ |= one.residual.get(i) != apart.residual.get(i) || one.out.get(i) != apart.out.get(i);
    }
    return differ;
  }

  // Tokens from each rank's columns against tokens from whole rows.
  bool sampled_in_parts(Communicator& c, int64_t rows, bool random, uint32_t seed) {
    constexpr int64_t kVocab = 201088;
    const Mesh mesh{.tensor = c.size(), .expert = 1};
    const Range own = vocabulary_share(kVocab, mesh, c.rank());
    Memory whole(DType::kF32, {rows, kVocab}, device_), part(DType::kF32, {rows, own.count}, device_);
    Memory settings(DType::kF32, {rows, sizeof(SampleSettings) / 4}, device_), ids(DType::kF32, {2 * rows}, device_);
    std::vector<SampleSettings> rules(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) {
      SampleSettings& s = rules[static_cast<size_t>(r)];
      s.temperature = random && r % 3 != 2 ? 0.7 + 0.1 * static_cast<double>(r % 5) : 0;
      s.min_p = r % 4 == 1 ? 0.2 : 0;
      s.uniform = static_cast<double>(r * 37 % 128) / 128;
      for (int64_t i = 0; i < kVocab; ++i) {
        const float v = value_of(seed + static_cast<uint32_t>(r), 0, i) * 2;
        whole.put(r * kVocab + i, v);
        if (i >= own.begin && i < own.begin + own.count) part.put(r * own.count + i - own.begin, v);
      }
    }
    whole.up(), part.up();
    check(cudaMemcpy(settings.tensor().data, rules.data(), rules.size() * sizeof(SampleSettings),
                     cudaMemcpyHostToDevice),
          "up");
    check(cudaDeviceSynchronize(), "up");
    auto ids_at = [&](int64_t from) {
      return Tensor{ids.tensor().as<char>() + from * rows * 4, {rows}, DType::kI32, ids.tensor().device};
    };
    SampleArgs all{.logits = whole.tensor(),
                   .settings = settings.tensor(),
                   .any_random = random,
                   .any_cut = false,
                   .ids = ids_at(0)};
    SamplePartsArgs parts{.sample = all,
                          .first = own.begin,
                          .widest = vocabulary_share(kVocab, mesh, 0).count,
                          .vocab_size = kVocab,
                          .communicator = &c};
    parts.sample.logits = part.tensor();
    parts.sample.ids = ids_at(1);
    const KernelRow<SampleArgs> one = cuda::sample_row();
    const KernelRow<SamplePartsArgs> many = cuda::sample_parts_row();
    Memory workspace(DType::kBF16, {std::max(one.workspace(all), many.workspace(parts)) / 2 + 1}, device_);
    Stream stream;
    stream.native = stream_;
    stream.workspace = workspace.tensor().data;
    one.launch(all, stream);
    many.launch(parts, stream);
    context_->synchronize();
    std::vector<int32_t> got(static_cast<size_t>(2 * rows));
    check(cudaMemcpy(got.data(), ids.tensor().data, got.size() * 4, cudaMemcpyDeviceToHost), "down");
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t want = got[static_cast<size_t>(r)], found = got[static_cast<size_t>(rows + r)];
      if (want == found) continue;
      std::fprintf(stderr, "rank %d: row %ld: token %d, in parts %d\n", c.rank(), r, want, found);
      return true;
    }
    return false;
  }

  // A graph with sums of several sizes, launched often: x doubles (or so) with every sum, so it is set anew inside.
  bool replayed(Communicator& c) {
    const int64_t sizes[] = {kHidden, 7, 300 * kHidden, 4 * kHidden};
    std::vector<std::unique_ptr<Memory>> sources, sums;
    for (int64_t n : sizes) {
      sources.push_back(std::make_unique<Memory>(DType::kF32, Shape{n}, device_));
      sums.push_back(std::make_unique<Memory>(DType::kF32, Shape{n}, device_));
      for (int64_t i = 0; i < n; ++i) sources.back()->put(i, value_of(77, c.rank(), i));
      sources.back()->up();
    }
    std::unique_ptr<DeviceGraph> graph = context_->record([&] {
      for (size_t k = 0; k < sums.size(); ++k) {
        context_->copy_on_device(sums[k]->tensor().data, sources[k]->tensor().data, sums[k]->tensor().bytes());
        c.all_reduce(sums[k]->tensor(), stream_);
      }
    });
    for (int round = 0; round < 200; ++round) {
      graph->launch();
      // A rank may be late: nothing is overwritten meanwhile.
      if (round % 50 == 10 * c.rank()) context_->synchronize(), usleep(3000);
    }
    context_->synchronize();
    for (auto& s : sums) {
      s->down();
      const int64_t n = s->tensor().numel();
      for (int64_t i = 0; i < n; ++i)
        if (std::abs(s->get(i) - sum_of(77, c.size(), DType::kF32, i)) > (c.size() == 2 ? 0 : 1e-5f)) return true;
    }
    return false;
  }

  // Microseconds of one call inside a graph of `calls`.
  double time(int calls, const std::function<void()>& call) {
    std::unique_ptr<DeviceGraph> graph = context_->record([&] {
      for (int i = 0; i < calls; ++i) call();
    });
    double best = 1e30;
    for (int round = 0; round < 6; ++round) {
      context_->synchronize();
      exchange_all(channel_, "");
      const auto start = std::chrono::steady_clock::now();
      graph->launch();
      context_->synchronize();
      const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
      if (round > 0) best = std::min(best, took.count() / calls);
    }
    return best;
  }

  void times(Communicator& peer, Communicator* nccl) {
    say("\nus a call in a graph, BF16 x %ld, %d ranks\n", kHidden, peer.size());
    say("%7s %9s %9s %9s %9s %9s %11s %11s %11s %11s\n", "tokens", "KiB", "one step", "two steps", "peer", "nccl",
        "sum+norm", "nccl+norm", "to experts", "sum, then");
    cuda::PeerView one = *cuda::peer_view(&peer), two = one;
    one.one_step_bytes = one.packet_bytes, two.one_step_bytes = 0;
    for (int64_t tokens : {1, 2, 4, 8, 16, 32, 64, 91, 128, 182, 256, 512, 1024, 2048, 4096, 8192}) {
      Layer l(DType::kBF16, tokens, device_);
      l.fill(1, peer.rank());
      const Tensor& x = l.delta.tensor();
      Stream stream;
      stream.native = stream_;
      const int calls = tokens > 512 ? 20 : 200;
      const AllReduceNormArgs args{.norm = l.norm(), .communicator = &peer};
      const KernelRow<AllReduceNormArgs>* row = fused_row(args);
      const RmsNormArgs norm = l.norm();
      Routed r(tokens, 128, device_);
      r.fill(1, peer.rank());
      const NormRouterArgs together = r.args(&peer), alone = r.args(nullptr);
      const KernelRow<NormRouterArgs>* router = router_row(together);
      auto cell = [&](bool there, const std::function<void()>& call) {
        return there ? fmt::format("{:.2f}", time(calls, call)) : std::string("-");
      };
      const std::string cells[] = {
          cell(x.bytes() <= one.packet_bytes, [&] { cuda::peer_all_reduce(one, x, stream_); }),
          cell(true, [&] { cuda::peer_all_reduce(two, x, stream_); }),
          cell(true, [&] { peer.all_reduce(x, stream_); }),
          cell(nccl != nullptr, [&] { nccl->all_reduce(x, stream_); }),
          cell(row != nullptr, [&] { row->launch(args, stream); }),
          cell(nccl != nullptr,
               [&] {
                 nccl->all_reduce(x, stream_);
                 norm_row_.launch(norm, stream);
               }),
          cell(router != nullptr, [&] { router->launch(together, stream); }),
          cell(router != nullptr,
               [&] {
                 peer.all_reduce(alone.delta, stream_);
                 router->launch(alone, stream);
               }),
      };
      say("%7ld %9.1f %9s %9s %9s %9s %11s %11s %11s %11s\n", tokens, static_cast<double>(x.bytes()) / 1024,
          cells[0].c_str(), cells[1].c_str(), cells[2].c_str(), cells[3].c_str(), cells[4].c_str(), cells[5].c_str(),
          cells[6].c_str(), cells[7].c_str());
    }
  }

  void dispatch_times(Communicator& c) {
    say("\nus a call in a graph, BF16 x %ld, 4 of 32 experts at random; the sum is of all ranks' tokens\n", kHidden);
    say("%12s %9s %9s %9s\n", "tokens/rank", "dispatch", "combine", "sum");
    for (int64_t tokens : {1, 2, 4, 8, 16, 32, 64, 84, 128, 256, 512, 1024, 4096}) {
      Journey j(DType::kBF16, std::vector<int64_t>(c.size(), tokens), c.size(), c.rank(), Routing::kRandom, 3, device_);
      Memory all(DType::kBF16, {tokens * c.size(), kHidden}, device_);
      const int calls = tokens > 512 ? 20 : 200;
      j.dispatch(c, stream_);
      const double out = time(calls, [&] { j.dispatch(c, stream_); }), back = time(calls, [&] { j.combine(c, stream_); });
      const double sum = time(calls, [&] { c.all_reduce(all.tensor(), stream_); });
      say("%12ld %9.2f %9.2f %9.2f\n", tokens, out, back, sum);
    }
  }

  // The last rank aborts while the others' GPUs wait for it: they must come back soon, and say who it was.
  int check_loss(Communicator& c) {
    Memory x(DType::kF32, {kHidden}, device_);
    exchange_all(channel_, "");
    const auto start = std::chrono::steady_clock::now();
    std::string line;
    if (c.rank() == c.size() - 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      c.abort("left on purpose");
    } else {
      for (int i = 0; i < 100; ++i) c.all_reduce(x.tensor(), stream_);
      context_->synchronize();
    }
    try {
      c.check();
    } catch (const Error& error) {
      line = error.what();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const bool right = line == fmt::format("rank {} of {}: left on purpose", c.size() - 1, c.size()) && took.count() < 3;
    say("a lost rank: %s after %.2f s: %s\n", right ? "seen" : "WRONG", took.count(), line.c_str());
    return right ? 0 : 1;
  }

  Channel& channel_;
  const Options& options_;
  int device_;
  std::unique_ptr<DeviceContext> context_;
  void* stream_ = nullptr;
  KernelRow<AllReduceNormArgs> fused_row_ = cuda::all_reduce_norm_row();
  KernelRow<LinearSendArgs> send_row_ = cuda::linear_send_small_row();
  KernelRow<LinearArgs> linear_row_ = cuda::linear_small_row();
  KernelRow<NormRouterArgs> router_few_ = cuda::norm_router_few_row(), router_many_ = cuda::norm_router_row();
  KernelRow<RmsNormArgs> norm_row_ = cuda::rms_norm_row();
};

int guarded(const std::function<int()>& f) {
  try {
    return f();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "comm_check: %s\n", error.what());
    return 1;
  }
}

int run_threads(const Options& options) {
  std::vector<std::unique_ptr<Channel>> channels = make_thread_channels(options.ranks);
  std::vector<int> wrong(options.ranks, 1);
  std::vector<std::thread> threads;
  for (int r = 0; r < options.ranks; ++r)
    threads.emplace_back([&, r] {
      wrong[r] = guarded([&] {
        try {
          return Rank(*channels[r], options).run();
        } catch (const std::exception& error) {
          channels[r]->abort(error.what());
          throw;
        }
      });
    });
  for (std::thread& t : threads) t.join();
  return *std::max_element(wrong.begin(), wrong.end());
}

int run_processes(const Options& options) {
  Fd listener = listen_on("127.0.0.1", 0);
  const uint16_t port = port_of(listener);
  std::vector<pid_t> children;
  for (int r = 0; r < options.ranks; ++r) {
    const pid_t child = fork();
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    RankPlace place{.rank = r, .size = options.ranks, .local_rank = r, .address = "127.0.0.1", .port = port};
    if (r == 0) place.listen_fd = listener.release();
    std::_Exit(guarded([&] {
      std::unique_ptr<Channel> channel = make_socket_channel(place, {.program = "comm_check"});
      return Rank(*channel, options).run();
    }));
  }
  int worst = 0;
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    worst = std::max(worst, WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  }
  return worst;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--processes") options.processes = true;
    if (flag == "--one-gpu") options.one_gpu = true;
    if (flag == "--no-nccl") options.nccl = false;
    if (flag == "--no-times") options.times = false;
    if (flag == "--ranks" && i + 1 < argc) options.ranks = std::atoi(argv[++i]);
  }
  std::printf("%d ranks as %s\n", options.ranks, options.processes ? "processes" : "threads");
  std::fflush(stdout);
  return options.processes ? tessera::run_processes(options) : tessera::run_threads(options);
}

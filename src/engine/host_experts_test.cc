#include "engine/host_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"
#include "engine/recording_context.h"
#include "kernels/testing.h"

namespace tessera {
namespace {

using namespace tessera::testing;

constexpr int64_t kHidden = 64, kInner = 32, kExperts = 8, kActive = 3;

// A layer's experts, and steps of some tokens whose operands lie in one arena, as those of a model's step do.
struct Bench {
  explicit Bench(RecordingContext& c) : context(c), pool(2), operands(5), scratch(int64_t{1} << 22) {
    gate_up = operands.mxfp4(kExperts, 2 * kInner, kHidden);
    down = operands.mxfp4(kExperts, kHidden, kInner);
  }

  MoeArgs args(int64_t tokens, bool hosted) {
    MoeArgs a;
    a.x = filled(operands.normal(DType::kF32, {tokens, kHidden}));
    scratch.allocate(tokens * kExperts * 4);  // the router's logits
    a.indices = scratch.tensor(DType::kI32, {tokens, kActive});
    for (int64_t i = 0; i < a.indices.numel(); ++i)
      a.indices.i32()[i] = static_cast<int32_t>((i * 5 + i / kActive) % kExperts);
    a.weights = filled(operands.normal(DType::kF32, {tokens, kActive}, 0.3f, 0.5f));
    a.gate_up = gate_up, a.down = down;
    a.gate_up.hosted = a.down.hosted = hosted;
    a.out = scratch.tensor(DType::kF32, {tokens, kHidden});
    return a;
  }
  Tensor filled(const Tensor& from) {
    Tensor t = scratch.tensor(from.dtype, from.shape);
    std::memcpy(t.data, from.data, static_cast<size_t>(from.bytes()));
    return t;
  }
  void run(const Kernels& kernels, const MoeArgs& a) {
    const KernelRow<MoeArgs>* row = kernels.moe.choose(a);
    ASSERT_NE(row, nullptr);
    Arena workspace((row->workspace ? row->workspace(a) : 0) + 64);
    Stream stream{.pool = &pool, .workspace = workspace.allocate(row->workspace ? row->workspace(a) : 0)};
    row->launch(a, stream);
  }
  std::vector<float> result(const MoeArgs& a) const { return {a.out.f32(), a.out.f32() + a.out.numel()}; }

  RecordingContext& context;
  ThreadPool pool;
  Operands operands;
  Arena scratch;
  Weight gate_up, down;
};

TEST(HostExperts, ComputeWhatTheyComputeInPlace) {
  RecordingContext context;
  Bench bench(context);
  const Kernels plain = Kernels::builtin();
  for (bool on_disk : {false, true}) {
    HostExperts experts(context, bench.pool, plain, {{bench.gate_up, bench.down, on_disk}});
    experts.populate();
    Kernels kernels = plain;
    experts.attach(kernels);
    for (int64_t tokens : {1, 2, 3, 17, 1, 40}) {
      const MoeArgs direct = bench.args(tokens, false);
      bench.run(plain, direct);
      MoeArgs hosted = direct;
      hosted.gate_up.hosted = hosted.down.hosted = true;
      hosted.out = bench.scratch.tensor(DType::kF32, hosted.out.shape);
      ASSERT_STREQ(kernels.moe.choose(hosted)->name, "moe_host");
      bench.run(kernels, hosted);
      context.synchronize();
      EXPECT_EQ(bench.result(hosted), bench.result(direct)) << tokens << " tokens, bit by bit";
    }
    EXPECT_GT(experts.host_bytes(), 0);
  }
  EXPECT_EQ(context.host_calls, 12);
}

TEST(HostExperts, LeaveOtherWeightsToOtherRows) {
  RecordingContext context;
  Bench bench(context);
  Kernels kernels = Kernels::builtin();
  HostExperts experts(context, bench.pool, kernels, {{bench.gate_up, bench.down, false}});
  experts.attach(kernels);
  EXPECT_STRNE(kernels.moe.choose(bench.args(2, false))->name, "moe_host");
}

// A recorded step replays with the inputs of the day.
TEST(HostExperts, CanBeRecorded) {
  RecordingContext context;
  Bench bench(context);
  const Kernels plain = Kernels::builtin();
  Kernels kernels = plain;
  HostExperts experts(context, bench.pool, plain, {{bench.gate_up, bench.down, false}});
  experts.attach(kernels);
  const MoeArgs a = bench.args(2, true);
  bench.run(kernels, a);
  std::unique_ptr<DeviceGraph> graph = context.record([&] { bench.run(kernels, a); });
  MoeArgs direct = a;
  direct.gate_up.hosted = direct.down.hosted = false;
  direct.out = bench.scratch.tensor(DType::kF32, a.out.shape);
  for (int round = 0; round < 3; ++round) {
    for (int64_t i = 0; i < a.x.numel(); ++i) a.x.f32()[i] += 0.25f * static_cast<float>(round);
    a.indices.i32()[0] = (a.indices.i32()[0] + 1) % kExperts;
    graph->launch();
    context.synchronize();
    bench.run(plain, direct);
    EXPECT_EQ(bench.result(a), bench.result(direct));
  }
}

TEST(HostExperts, AnErrorOnTheHostIsTheNextWaitsError) {
  RecordingContext context;
  Bench bench(context);
  Kernels broken;
  broken.moe.rows.push_back({.name = "broken",
                             .device = DeviceType::kCpu,
                             .summary = "throws",
                             .supports = [](const MoeArgs&) { return kAccepted; },
                             .workspace = nullptr,
                             .launch = [](const MoeArgs&, Stream&) { fail(ErrorCode::kIo, "the disk is gone"); }});
  HostExperts experts(context, bench.pool, broken, {{bench.gate_up, bench.down, false}});
  Kernels kernels = broken;
  experts.attach(kernels);
  bench.run(kernels, bench.args(1, true));
  try {
    context.synchronize();
    FAIL() << "the error was lost";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kIo);
    EXPECT_THAT(e.what(), ::testing::HasSubstr("the disk is gone"));
  }
  context.synchronize();  // told once
}

}  // namespace
}  // namespace tessera

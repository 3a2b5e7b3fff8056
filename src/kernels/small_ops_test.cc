// The small ops: every row against the reference, and the reference against formulas where one is short.
#include "kernels/testing.h"

namespace tessera {
namespace {

using namespace tessera::testing;

// Runs each row of an op with fresh outputs that `with_outputs` puts into the arguments, and compares what `outputs`
// lists.
template <class Args>
void check(OpTable<Args> Kernels::*op, Operands& o, const Args& args, double tolerance,
           const std::function<std::vector<Tensor>(Args&)>& with_outputs, int units = 1) {
  ThreadPool pool(2);
  auto rows = all_rows(op);
  Args expected = args;
  std::vector<Tensor> wanted = with_outputs(expected);
  launch(rows.back(), expected, pool);
  for (const auto& row : rows) {
    Args mine = args;
    std::vector<Tensor> got = with_outputs(mine);
    ASSERT_TRUE(row.supports(mine)) << row.name;
    launch(row, mine, pool);
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i].dtype == DType::kI32) {
        expect_same_bits(got[i], wanted[i], row.name);
      } else {
        expect_close(got[i], wanted[i], tolerance, row.name, units);
      }
    }
  }
  o.check_guards();
}

TEST(Embed, EveryRowAgreesWithTheReference) {
  for (DType table : kFloats) {
    for (DType act : kFloats) {
      for (int64_t n : {1, 30, 64, 101}) {
        Operands o(fresh_seed());
        EmbedArgs args{o.ints({5}, {6, 0, 3, 3, 1}), o.normal(table, {7, n}), {}};
        check<EmbedArgs>(&Kernels::embed, o, args, 0, [&](EmbedArgs& a) {
          a.out = o.guarded(act, {5, n});
          return std::vector<Tensor>{a.out};
        });
      }
    }
  }
}

TEST(RmsNorm, EveryRowAgreesWithTheReference) {
  for (DType act : kFloats) {
    for (DType weight : kFloats) {
      for (int64_t n : {1, 16, 31, 64, 130, 2880}) {
        for (bool delta : {false, true}) {
          for (bool early : {false, true}) {
            Operands o(fresh_seed());
            const int64_t tokens = 11;
            Tensor residual = o.normal(act, {tokens, n});
            RmsNormArgs args{{}, delta ? o.normal(act, {tokens, n}) : Tensor{}, o.normal(weight, {n}), 1e-5f, early,
                             {}};
            const auto outputs = [&](RmsNormArgs& a) {
              a.residual = o.guarded_copy(residual);
              a.out = o.guarded(act, {tokens, n});
              return std::vector<Tensor>{a.out, a.residual};
            };
            check<RmsNormArgs>(&Kernels::rms_norm, o, args, 2e-6, outputs, early ? 2 : 1);
          }
        }
      }
    }
  }
}

TEST(RmsNorm, InPlaceAndSameBitsInAnyCompany) {
  Operands o(fresh_seed());
  ThreadPool pool(2);
  const int64_t tokens = 50, n = 1000;
  Tensor x = o.normal(DType::kF32, {tokens, n}), weight = o.normal(DType::kBF16, {n});
  for (const auto& row : all_rows(&Kernels::rms_norm)) {
    Tensor all = o.guarded(DType::kF32, {tokens, n}), in_place = o.guarded_copy(x);
    launch(row, {x, {}, weight, 1e-6f, false, all}, pool);
    launch(row, {in_place, {}, weight, 1e-6f, false, in_place}, pool);
    expect_same_bits(in_place, all, row.name);
    for (int64_t t = 0; t < tokens; t += 9) {
      Tensor one = o.guarded(DType::kF32, {1, n});
      launch(row, {x.rows(t, 1), {}, weight, 1e-6f, false, one}, pool);
      expect_same_bits(one, all.rows(t, 1), row.name);
    }
  }
  o.check_guards();
}

TEST(Elementwise, EveryRowAgreesWithTheReference) {
  for (DType act : kFloats) {
    for (int64_t n : {1, 33, 5000}) {
      Operands o(fresh_seed());
      Tensor x = o.normal(act, {7, n}, 30.0f), delta = o.normal(act, {7, n});
      check<AddArgs>(&Kernels::add, o, {{}, delta}, 0, [&](AddArgs& a) {
        a.x = o.guarded_copy(x);
        return std::vector<Tensor>{a.x};
      });
      check<SiluMulArgs>(&Kernels::silu_mul, o, {{}, delta, {}}, 1e-6, [&](SiluMulArgs& a) {
        a.gate = a.out = o.guarded_copy(x);
        return std::vector<Tensor>{a.out};
      });
    }
  }
}

TEST(Elementwise, SiluIsFiniteAtTheEnds) {
  for (const auto& row : all_rows(&Kernels::silu_mul)) {
    ThreadPool pool(1);
    Operands o(1);
    std::vector<float> ends = {-3e38f, -1000, -104, -89, -88, 0, 88, 104, 1000, 3e38f};
    Tensor gate = o.uninitialised(DType::kF32, {10}), up = o.uninitialised(DType::kF32, {10}),
           out = o.guarded(DType::kF32, {10});
    for (int64_t i = 0; i < 10; ++i) gate.f32()[i] = ends[static_cast<size_t>(i)], up.f32()[i] = 1;
    launch(row, {gate.reshape({1, 10}), up.reshape({1, 10}), out.reshape({1, 10})}, pool);
    for (int64_t i = 0; i < 10; ++i) {
      double x = ends[static_cast<size_t>(i)], expected = x / (1 + std::exp(-x));
      EXPECT_NEAR(out.f32()[i], expected, 1e-6 * std::fabs(expected) + 1e-35) << row.name << " at " << x;
    }
  }
}

TEST(Rope, EveryRowAgreesWithTheReference) {
  for (DType act : kFloats) {
    for (int64_t d : {2, 8, 32, 64, 80, 128}) {
      Operands o(fresh_seed());
      Tensor x = o.normal(act, {9, 5, d});
      RopeArgs args{{}, o.normal(act, {9, d / 2}), o.normal(act, {9, d / 2})};
      check<RopeArgs>(&Kernels::rope, o, args, 1e-6, [&](RopeArgs& a) {
        a.x = o.guarded_copy(x);
        return std::vector<Tensor>{a.x};
      });
    }
  }
}

TEST(RopeTable, IsAccurateAtLargePositions) {
  for (const auto& row : all_rows(&Kernels::rope_table)) {
    ThreadPool pool(1);
    Operands o(1);
    Tensor freq = o.uninitialised(DType::kF32, {4});
    const float values[4] = {1.0f, 0.31f, 1e-3f, 6.7e-6f};
    std::copy_n(values, 4, freq.f32());
    RopeTableArgs args{o.ints({3}, {0, 131071, 77777}), freq, 1.3466f, o.guarded(DType::kF32, {3, 4}),
                       o.guarded(DType::kF32, {3, 4})};
    launch(row, args, pool);
    for (int64_t i = 0; i < 12; ++i) {
      double angle = static_cast<float>(args.positions.i32()[i / 4]) * values[i % 4];
      EXPECT_NEAR(args.cos.f32()[i], 1.3466f * std::cos(angle), 3e-7) << row.name;
      EXPECT_NEAR(args.sin.f32()[i], 1.3466f * std::sin(angle), 3e-7) << row.name;
    }
  }
}

TEST(Router, EveryRowAgreesWithTheReferenceWithTies) {
  for (RouterMode mode :
       {RouterMode::kSoftmaxOfTopK, RouterMode::kTopKOfSoftmax, RouterMode::kTopKOfSoftmaxNormalised}) {
    for (DType act : kFloats) {
      for (int64_t experts : {1, 2, 8, 32, 33, 128, 1000}) {
        for (int64_t active : {1, 4, 8, 20}) {
          if (active > experts) continue;
          Operands o(fresh_seed());
          const int64_t tokens = 70;
          Tensor logits = o.normal(act, {tokens, experts});
          for (int64_t i = 0; i < logits.numel(); ++i)
            if (i % 3) set_value(logits, i, std::round(value_at(logits, i)));  // many ties
          check<RouterArgs>(&Kernels::router, o, {logits, mode, {}, {}}, 2e-6 + 2 * rounding_of(act),
                            [&](RouterArgs& a) {
                              a.indices = o.guarded(DType::kI32, {tokens, active});
                              a.weights = o.guarded(DType::kF32, {tokens, active});
                              return std::vector<Tensor>{a.indices, a.weights};
                            });
        }
      }
    }
  }
}

TEST(Router, TiesGoToTheLowerIndexAndNanStaysInRange) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const auto& row : all_rows(&Kernels::router)) {
    ThreadPool pool(1);
    Operands o(1);
    Tensor logits = o.uninitialised(DType::kF32, {3, 5});
    const float values[15] = {1, 2, 2, 0, 2, nan, nan, nan, nan, nan, -inf, -inf, 5, -inf, -inf};
    std::copy_n(values, 15, logits.f32());
    Tensor indices = o.guarded(DType::kI32, {3, 3});
    launch(row, {logits, RouterMode::kSoftmaxOfTopK, indices, o.guarded(DType::kF32, {3, 3})}, pool);
    const int32_t expected[9] = {1, 2, 4, 0, 1, 2, 2, 0, 1};
    for (int64_t i : {0, 1, 2, 6, 7, 8}) EXPECT_EQ(indices.i32()[i], expected[i]) << row.name;
    for (int64_t i : {3, 4, 5}) EXPECT_TRUE(indices.i32()[i] >= 0 && indices.i32()[i] < 5) << row.name;
    EXPECT_TRUE(indices.i32()[3] != indices.i32()[4] && indices.i32()[4] != indices.i32()[5]) << row.name;
    o.check_guards();
  }
}

TEST(Kernels, EveryOpHasAReferenceRowLastAndNamesFollowTheConvention) {
  const Kernels kernels = Kernels::builtin(), reference = Kernels::reference();
  reference.for_each([](const auto& table) { EXPECT_EQ(table.rows.size(), 1u) << table.op; });
  kernels.for_each([](const auto& table) {
    const std::string op = table.op;
    if (op == "qkv" || op == "rope_kv" || op == "rope_attention" || op == "norm_router" || op == "moe_add" ||
        op == "all_reduce_norm" || op == "linear_send" || op == "moe_send" || op == "sample_parts")
      return;  // fused: rows only where they pay
    ASSERT_FALSE(table.rows.empty()) << table.op;
    for (const auto& row : table.rows)
      EXPECT_EQ(std::string(row.name).rfind(std::string(table.op) + "_", 0), 0u) << row.name;
    EXPECT_NE(std::string(table.rows.back().name).find("_ref"), std::string::npos) << table.op;
  });
}

}  // namespace
}  // namespace tessera

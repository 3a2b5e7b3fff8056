#include "api/mxfp4_fallback.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace tessera {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr int64_t kGiB = int64_t{1} << 30;

Mxfp4Fallback old_card(int64_t free_gib) {
  return {.device = "Tesla V100",
          .capability = 70,
          .refusal = "it needs compute capability 7.5",
          .mxfp4_bytes = 13 * kGiB,
          .bf16_bytes = 39 * kGiB,
          .free_bytes = free_gib * kGiB};
}

Error refused(const Mxfp4Fallback& f) {
  try {
    expand_mxfp4(f);
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "not refused";
  return Error(ErrorCode::kIo, "");
}

TEST(Mxfp4Fallback, ExpandsWhereThatFitsAndSaysSoInOneLine) {
  const std::string line = expand_mxfp4(old_card(48));
  EXPECT_THAT(line, AllOf(HasSubstr("capability 7.5"), HasSubstr("Tesla V100 has 7.0"), HasSubstr("39.00 GiB"),
                          HasSubstr("13.00 GiB"), Not(HasSubstr("\n"))));
}

TEST(Mxfp4Fallback, SaysWhichCardsWouldDoWhereItDoesNotFit) {
  const Error e = refused(old_card(32));
  EXPECT_EQ(e.code(), ErrorCode::kOutOfMemory);
  EXPECT_THAT(e.what(), AllOf(HasSubstr("capability 7.5"), HasSubstr("has 7.0"), HasSubstr("39.00 GiB"),
                              HasSubstr("32.00 GiB are free"), HasSubstr("a card of 16 GB of 7.5 or more"),
                              HasSubstr("a card of 48 GB holds them as bf16"), Not(HasSubstr("\n"))));
  Mxfp4Fallback huge = old_card(80);
  huge.bf16_bytes = 220 * kGiB;
  EXPECT_THAT(refused(huge).what(), HasSubstr("several cards holds them as bf16"));
}

TEST(Mxfp4Fallback, CanBeForbidden) {
  Mxfp4Fallback f = old_card(48);
  f.allowed = false;
  const Error e = refused(f);
  EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(e.what(), AllOf(HasSubstr("--no-fallback"), HasSubstr("39.00 GiB"), HasSubstr("13.00 GiB")));
}

}  // namespace
}  // namespace tessera

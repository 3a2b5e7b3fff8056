// Merging against a plain implementation of the rule, on random vocabularies: short words, long words, every option.
#include "text/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "text/normalizer.h"

namespace tessera {
namespace {

using Ids = std::vector<int32_t>;

struct Random {
  std::mt19937 engine{5};
  int below(int n) { return static_cast<int>(engine() % static_cast<uint32_t>(n)); }
};

struct Model {
  Vocab vocab{0};
  std::map<std::pair<int32_t, int32_t>, std::pair<uint32_t, int32_t>> rules;
};

// Letters a to d, and tokens made of pairs of earlier ones.
Model random_model(Random& random, int merges) {
  Model model;
  for (int i = 0; i < 4; ++i) model.vocab.add(std::string(1, static_cast<char>('a' + i)), Vocab::Form::kBytes, i);
  for (int i = 0; i < merges; ++i) {
    int32_t left = random.below(model.vocab.id_limit());
    int32_t right = random.below(model.vocab.id_limit());
    std::string text = std::string(model.vocab.bytes(left)) + std::string(model.vocab.bytes(right));
    if (text.size() > 40) continue;
    int32_t id = model.vocab.find(text, Vocab::Form::kBytes);
    if (id < 0) {
      id = model.vocab.id_limit();
      model.vocab.add(text, Vocab::Form::kBytes, id);
    }
    model.rules[{left, right}] = {static_cast<uint32_t>(i), id};
  }
  return model;
}

// The rule itself: of all adjacent pairs the lowest rank, leftmost; again and again.
Ids merge_plainly(const Model& model, Ids ids) {
  while (true) {
    size_t best = ids.size();
    std::pair<uint32_t, int32_t> rule;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      auto found = model.rules.find({ids[i], ids[i + 1]});
      if (found == model.rules.end() || (best < ids.size() && found->second.first >= rule.first)) continue;
      best = i;
      rule = found->second;
    }
    if (best == ids.size()) return ids;
    ids[best] = rule.second;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(Bpe, MergesLikeThePlainRule) {
  Random random;
  for (int round = 0; round < 60; ++round) {
    Model model = random_model(random, 3 + random.below(60));
    MergeTable merges(model.rules.size());
    for (const auto& [pair, rule] : model.rules) merges.set(pair.first, pair.second, rule.first, rule.second);
    Bpe bpe(model.vocab, std::move(merges), {.byte_level = true}, "test");
    Bpe::Scratch scratch;
    for (int i = 0; i < 60; ++i) {
      std::string word;
      Ids letters;
      int length = 1 + (i % 3 == 0 ? random.below(300) : random.below(70));
      for (int j = 0; j < length; ++j) {
        letters.push_back(random.below(i % 2 == 0 ? 4 : 2));
        word += static_cast<char>('a' + letters.back());
      }
      const Ids expected = merge_plainly(model, letters);
      for (int again = 0; again < 2; ++again) {
        Ids ids;
        bpe.encode(word, scratch, ids);
        ASSERT_EQ(ids, expected) << word;
      }
    }
  }
}

TEST(Bpe, LaterRuleForAPairWins) {
  MergeTable merges(2);
  merges.set(1, 2, 0, 3);
  merges.set(1, 2, 5, 4);
  ASSERT_NE(merges.find(1, 2), nullptr);
  EXPECT_EQ(merges.find(1, 2)->rank, 5u);
  EXPECT_EQ(merges.find(1, 2)->merged, 4);
  EXPECT_EQ(merges.find(2, 1), nullptr);
}

TEST(Vocab, FormsAreApart) {
  Vocab vocab(0);
  EXPECT_EQ(vocab.add("x", Vocab::Form::kText, 1), Vocab::AddResult::kOk);
  EXPECT_EQ(vocab.add("x", Vocab::Form::kBytes, 7), Vocab::AddResult::kOk);
  EXPECT_EQ(vocab.add("x", Vocab::Form::kText, 3), Vocab::AddResult::kDuplicateToken);
  EXPECT_EQ(vocab.add("y", Vocab::Form::kText, 7), Vocab::AddResult::kDuplicateId);
  EXPECT_EQ(vocab.find("x", Vocab::Form::kText), 1);
  EXPECT_EQ(vocab.find("x", Vocab::Form::kBytes), 7);
  EXPECT_EQ(vocab.find("", Vocab::Form::kText), -1);
  EXPECT_FALSE(vocab.has(0));
  EXPECT_EQ(vocab.id_limit(), 8);
  for (int32_t i = 8; i < 5000; ++i)
    ASSERT_EQ(vocab.add(std::to_string(i), Vocab::Form::kText, i), Vocab::AddResult::kOk);
  for (int32_t i = 8; i < 5000; ++i) ASSERT_EQ(vocab.find(std::to_string(i), Vocab::Form::kText), i);
}

std::string normalize(Normalizer::Step step, std::string_view text) {
  Normalizer normalizer;
  normalizer.add(std::move(step));
  Normalizer::Buffers buffers;
  Regex::Scratch scratch;
  return std::string(normalizer.apply(text, buffers, scratch));
}

TEST(Normalizer, UnicodeForms) {
  using Form = UnicodeForm::Form;
  EXPECT_EQ(normalize(UnicodeForm{Form::kNfc}, "e\u0301 \u1112\u1161\u11AB \u0041\u030A x\u0323\u0301 \u212B plain 中"),
            "é 한 Å x\u0323\u0301 Å plain 中");
  EXPECT_EQ(normalize(UnicodeForm{Form::kNfc}, "a\u0301\u0323"), "ạ\u0301")
      << "marks are put in order before composing";
  EXPECT_EQ(normalize(UnicodeForm{Form::kNfd}, "é한"), "e\u0301\u1112\u1161\u11AB");
  EXPECT_EQ(normalize(UnicodeForm{Form::kNfkc}, "ﬁ②"), "fi2");
  EXPECT_EQ(normalize(UnicodeForm{Form::kNfkd}, "ﬁé"), "fie\u0301");
}

TEST(Normalizer, LongRunsOfMarksTakeNoQuadraticTime) {
  std::string text = "a";
  for (int i = 0; i < 200000; ++i) text += "\u0301";
  for (int i = 0; i < 200000; ++i) text += "\u0323";
  const std::string result = normalize(UnicodeForm{UnicodeForm::Form::kNfc}, text);
  EXPECT_TRUE(result.starts_with("ạ\u0323\u0323"));
  EXPECT_TRUE(result.ends_with("\u0301\u0301"));
}

TEST(Normalizer, OtherSteps) {
  EXPECT_EQ(normalize(PrependText{"▁"}, "a"), "▁a");
  EXPECT_EQ(normalize(PrependText{"▁"}, ""), "");
  EXPECT_EQ(normalize(ReplaceText{"aa", "b"}, "aaaxa"), "baxa");
  EXPECT_EQ(normalize(ReplaceMatches{Regex("x*", "test"), "-"}, "axb"), "-a-b-");
  EXPECT_EQ(normalize(StripSpace{true, true}, "\u3000 a b\u00A0\n"), "a b");
  EXPECT_EQ(normalize(StripSpace{true, false}, " a "), "a ");
  EXPECT_EQ(normalize(StripSpace{true, true}, " \u3000 "), "");
}

}  // namespace
}  // namespace tessera

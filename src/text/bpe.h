// Byte-pair encoding: a word becomes symbols (bytes or characters), then the adjacent pair with the lowest rank is
// merged, leftmost first, until no pair has a rule. Built once; encode() is thread-safe with one Scratch for each
// thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/vocab.h"

namespace tessera {

// Pair of ids -> rank and id of the merged token.
class MergeTable {
 public:
  static constexpr uint64_t kNone = UINT64_MAX;  // no pair of ids: ids are not negative
  struct Rule {
    uint64_t pair = kNone;
    uint32_t rank = 0;
    int32_t merged = -1;
  };
  explicit MergeTable(size_t expected_rules);
  // A later rule for the same pair replaces the earlier one.
  void set(int32_t left, int32_t right, uint32_t rank, int32_t merged);
  // The rule, or null.
  const Rule* find(int32_t left, int32_t right) const {
    uint64_t pair = key(left, right);
    for (size_t i = slot(pair);; i = (i + 1) & mask_) {
      const Rule& rule = rules_[i];
      if (rule.pair == pair) return &rule;
      if (rule.pair == kNone) return nullptr;
    }
  }
  // Calls visit(rule) for every rule, in no order.
  template <class Visit>
  void for_each(Visit visit) const {
    for (const Rule& rule : rules_) {
      if (rule.pair != kNone) visit(rule);
    }
  }

 private:
  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot(uint64_t pair) const { return (pair * factor_) >> shift_; }

  std::vector<Rule> rules_;
  size_t mask_;
  uint64_t factor_;  // odd and random, so that a file cannot aim for collisions
  int shift_;
};

struct BpeOptions {
  bool byte_level = false;     // symbols are bytes and the vocabulary's form is kBytes; otherwise characters and kText
  bool byte_fallback = false;  // a character without a token becomes the tokens <0x00> to <0xFF> of its bytes
  bool ignore_merges = false;  // a word that is a token is that token, whatever merging would give
  bool fuse_unk = false;       // neighbouring unknown characters are one unknown token
  std::string unk_token;       // empty: unknown characters disappear
};

class Bpe {
 public:
  struct Scratch {
    struct Symbol {
      int32_t id;
      uint32_t previous;
      uint32_t next;
    };
    std::vector<int32_t> ids;
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;
  };

  // REQUIRES a complete vocabulary that outlives this. `where` opens error messages.
  Bpe(const Vocab& vocab, MergeTable merges, BpeOptions options, std::string where);

  // Appends the ids of one word. REQUIRES fewer than 2^32 bytes; valid UTF-8 unless byte_level. Throws kCorrupt when
  // the vocabulary lacks the unknown token and it is needed.
  void encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  void encode_part(std::string_view word, bool whole_token_counts, Scratch& scratch, std::vector<int32_t>& out) const;
  void split_symbols(std::string_view word, std::vector<int32_t>& ids) const;
  bool append_bytes(std::string_view symbol, std::vector<int32_t>& ids) const;
  int32_t unknown() const;
  void merge_short(std::vector<int32_t>& ids) const;
  void merge_long(Scratch& scratch) const;
  bool no_merge_enters_metaspace() const;

  const Vocab& vocab_;
  MergeTable merges_;
  BpeOptions options_;
  std::string where_;
  Vocab::Form form_;
  std::array<int32_t, 256> symbol_ids_;  // of bytes, or of ASCII characters
  std::array<int32_t, 256> byte_ids_;    // of <0x00> to <0xFF>
  int32_t unk_id_ = -1;
  bool split_at_metaspace_ = false;
  // For each token: does merging its own string give the token back? Found when first needed, the same for every
  // thread.
  enum class SelfMerge : uint8_t { kUnknown, kYes, kNo };
  std::unique_ptr<std::atomic<SelfMerge>[]> self_merge_;
};

}  // namespace tessera

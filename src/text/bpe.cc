#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <random>

#include "core/error.h"
#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace tessera {
namespace {

constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581, SentencePiece's mark for a space
constexpr size_t kShortWord = 64;  // symbols; up to here scanning for the lowest rank beats keeping a heap
constexpr uint32_t kNoRank = UINT32_MAX;
constexpr uint32_t kEnd = UINT32_MAX;

// Where the next word of SentencePiece begins: a mark that does not follow a mark.
size_t next_metaspace_word(std::string_view text, size_t from) {
  for (size_t at = text.find(kMetaspace, from); at != std::string_view::npos;
       at = text.find(kMetaspace, at + kMetaspace.size())) {
    if (at > 0 && !text.substr(0, at).ends_with(kMetaspace)) return at;
  }
  return text.size();
}

}  // namespace

MergeTable::MergeTable(size_t expected_rules) {
  size_t slots = std::bit_ceil(expected_rules * 2 + 16);
  rules_.resize(slots);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  std::random_device device;
  factor_ = (static_cast<uint64_t>(device()) << 32 | device()) | 1;
}

void MergeTable::set(int32_t left, int32_t right, uint32_t rank, int32_t merged) {
  uint64_t pair = key(left, right);
  size_t i = slot(pair);
  while (rules_[i].pair != pair && rules_[i].pair != kNone) i = (i + 1) & mask_;
  rules_[i] = {pair, rank, merged};
}

Bpe::Bpe(const Vocab& vocab, MergeTable merges, BpeOptions options, std::string where)
    : vocab_(vocab),
      merges_(std::move(merges)),
      options_(std::move(options)),
      where_(std::move(where)),
      form_(options_.byte_level ? Vocab::Form::kBytes : Vocab::Form::kText) {
  for (int i = 0; i < 256; ++i) {
    auto index = static_cast<size_t>(i);
    char byte = static_cast<char>(i);
    bool symbol = options_.byte_level || i < 128;
    symbol_ids_[index] = symbol ? vocab_.find({&byte, 1}, form_) : -1;
    std::string name = fmt::format("<0x{:02X}>", i);
    std::string raw;
    if (options_.byte_level && byte_alphabet_decode(name, raw)) name = raw;
    byte_ids_[index] = options_.byte_fallback ? vocab_.find(name, form_) : -1;
  }
  if (!options_.unk_token.empty()) {
    std::string raw;
    bool bytes = options_.byte_level && byte_alphabet_decode(options_.unk_token, raw);
    unk_id_ = bytes ? vocab_.find(raw, Vocab::Form::kBytes) : vocab_.find(options_.unk_token, Vocab::Form::kText);
  }
  split_at_metaspace_ = !options_.byte_level && vocab_.find(kMetaspace, form_) >= 0 && no_merge_enters_metaspace();
  self_merge_ = std::make_unique<std::atomic<SelfMerge>[]>(static_cast<size_t>(vocab_.id_limit()));
}

// True when no merge makes a token with a mark after anything but a mark. Then no merge reaches over the start of a
// SentencePiece word, and a text may be cut there before merging, with the same result.
bool Bpe::no_merge_enters_metaspace() const {
  bool none = true;
  merges_.for_each([&](const MergeTable::Rule& rule) {
    std::string_view token = vocab_.bytes(rule.merged);
    none = none && next_metaspace_word(token, 0) == token.size();
  });
  return none;
}

int32_t Bpe::unknown() const {
  if (unk_id_ < 0)
    fail(ErrorCode::kCorrupt, "{}: the unknown token \"{}\" is not in the vocabulary", where_, options_.unk_token);
  return unk_id_;
}

// All bytes of the symbol as byte tokens, or nothing.
bool Bpe::append_bytes(std::string_view symbol, std::vector<int32_t>& ids) const {
  for (char c : symbol) {
    if (byte_ids_[static_cast<uint8_t>(c)] < 0) return false;
  }
  for (char c : symbol) ids.push_back(byte_ids_[static_cast<uint8_t>(c)]);
  return true;
}

void Bpe::split_symbols(std::string_view word, std::vector<int32_t>& ids) const {
  ids.clear();
  bool pending_unknown = false;
  std::string spelled;
  for (size_t at = 0; at < word.size();) {
    size_t length = options_.byte_level ? 1 : static_cast<size_t>(utf8_length(word[at]));
    std::string_view symbol = word.substr(at, length);
    at += length;
    int32_t id = length == 1 ? symbol_ids_[static_cast<uint8_t>(symbol[0])] : vocab_.find(symbol, form_);
    if (id >= 0) {
      if (pending_unknown) ids.push_back(unknown());
      pending_unknown = false;
      ids.push_back(id);
      continue;
    }
    if (options_.byte_fallback) {
      if (options_.byte_level) {
        spelled.clear();
        byte_alphabet_encode(symbol, spelled);
        symbol = spelled;
      }
      if (append_bytes(symbol, ids)) continue;
    }
    if (options_.unk_token.empty()) continue;
    if (pending_unknown && !options_.fuse_unk) ids.push_back(unknown());
    pending_unknown = true;
  }
  if (pending_unknown) ids.push_back(unknown());
}

void Bpe::merge_short(std::vector<int32_t>& ids) const {
  size_t n = ids.size();
  int32_t id[kShortWord];
  int32_t merged[kShortWord];
  uint32_t rank[kShortWord];  // of the pair that begins here
  auto look_up = [&](size_t i) {
    const MergeTable::Rule* rule = merges_.find(id[i], id[i + 1]);
    rank[i] = rule != nullptr ? rule->rank : kNoRank;
    merged[i] = rule != nullptr ? rule->merged : -1;
  };
  std::copy(ids.begin(), ids.end(), id);
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) best = rank[i] < rank[best] ? i : best;
    if (rank[best] == kNoRank) break;
    id[best] = merged[best];
    std::copy(id + best + 2, id + n, id + best + 1);
    if (best + 2 < n) {
      std::copy(rank + best + 2, rank + n - 1, rank + best + 1);
      std::copy(merged + best + 2, merged + n - 1, merged + best + 1);
    }
    --n;
    if (best + 1 < n) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids.assign(id, id + n);
}

// A linked list of symbols and a heap of (rank, position). An entry is stale when the pair now at its position has
// another rank: ranks belong to one pair each.
void Bpe::merge_long(Scratch& scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch.symbols;
  std::vector<uint64_t>& heap = scratch.heap;
  auto n = static_cast<uint32_t>(scratch.ids.size());
  symbols.resize(n);
  heap.clear();
  auto rule_at = [&](uint32_t i) { return merges_.find(symbols[i].id, symbols[symbols[i].next].id); };
  for (uint32_t i = 0; i < n; ++i) symbols[i] = {scratch.ids[i], i == 0 ? kEnd : i - 1, i + 1 == n ? kEnd : i + 1};
  for (uint32_t i = 0; i + 1 < n; ++i) {
    if (const MergeTable::Rule* rule = rule_at(i)) heap.push_back(static_cast<uint64_t>(rule->rank) << 32 | i);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  auto push = [&](uint32_t i) {
    const MergeTable::Rule* rule = rule_at(i);
    if (rule == nullptr) return;
    heap.push_back(static_cast<uint64_t>(rule->rank) << 32 | i);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    uint64_t top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    auto i = static_cast<uint32_t>(top);
    Scratch::Symbol& left = symbols[i];
    if (left.id < 0 || left.next == kEnd) continue;
    const MergeTable::Rule* rule = rule_at(i);
    if (rule == nullptr || rule->rank != static_cast<uint32_t>(top >> 32)) continue;
    Scratch::Symbol& right = symbols[left.next];
    left.id = rule->merged;
    left.next = right.next;
    right.id = -1;
    if (left.next != kEnd) {
      symbols[left.next].previous = i;
      push(i);
    }
    if (left.previous != kEnd) push(left.previous);
  }
  scratch.ids.clear();
  for (uint32_t i = 0; i != kEnd; i = symbols[i].next) scratch.ids.push_back(symbols[i].id);
}

void Bpe::encode_part(std::string_view word, bool whole_token_counts, Scratch& scratch,
                      std::vector<int32_t>& out) const {
  int32_t whole = vocab_.find(word, form_);
  if (whole >= 0) {
    SelfMerge self = self_merge_[static_cast<size_t>(whole)].load(std::memory_order_relaxed);
    if (whole_token_counts || self == SelfMerge::kYes) return out.push_back(whole);
  }
  std::vector<int32_t>& ids = scratch.ids;
  split_symbols(word, ids);
  if (ids.size() <= kShortWord) {
    if (ids.size() > 1) merge_short(ids);
  } else {
    merge_long(scratch);
  }
  if (whole >= 0) {
    bool same = ids.size() == 1 && ids[0] == whole;
    self_merge_[static_cast<size_t>(whole)].store(same ? SelfMerge::kYes : SelfMerge::kNo, std::memory_order_relaxed);
  }
  out.insert(out.end(), ids.begin(), ids.end());
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (!split_at_metaspace_) return encode_part(word, options_.ignore_merges, scratch, out);
  if (options_.ignore_merges) {
    int32_t whole = vocab_.find(word, form_);
    if (whole >= 0) return out.push_back(whole);
  }
  for (size_t begin = 0; begin < word.size();) {
    size_t end = next_metaspace_word(word, begin + 1);
    encode_part(word.substr(begin, end - begin), /*whole_token_counts=*/false, scratch, out);
    begin = end;
  }
}

}  // namespace tessera

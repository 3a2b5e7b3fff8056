#include "text/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/utf8.h"

namespace tessera {
namespace {

// \w of Rust's regex crate: Alphabetic, marks, decimal digits, connectors, joiners.
bool is_word(char32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // the circled letters are Alphabetic too
      return code == 0x200C || code == 0x200D || (code >= 0x24B6 && code <= 0x24E9) ||
             (code >= 0x1F130 && code <= 0x1F149) || (code >= 0x1F150 && code <= 0x1F169) ||
             (code >= 0x1F170 && code <= 0x1F189);
  }
}

bool touches_word(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && is_word(utf8_back(text.substr(0, begin)))) ||
         (end < text.size() && is_word(utf8_front(text.substr(end))));
}

size_t strip_left(std::string_view text, size_t begin, size_t floor) {
  while (begin > floor) {
    std::string_view before = text.substr(0, begin);
    char32_t code = utf8_back(before);
    if (!is_white_space(code)) break;
    do {
      --begin;
    } while (begin > floor && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80);
  }
  return begin;
}

size_t strip_right(std::string_view text, size_t end) {
  while (end < text.size() && is_white_space(utf8_front(text.substr(end))))
    end += static_cast<size_t>(utf8_length(text[end]));
  return end;
}

bool touches(std::span<const TextRange> ranges, size_t begin, size_t end) {
  auto first =
      std::lower_bound(ranges.begin(), ranges.end(), begin, [](const TextRange& r, size_t at) { return r.end <= at; });
  return first != ranges.end() && first->begin < end;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens, std::vector<std::string> patterns) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!patterns[i].empty()) patterns_.push_back({std::move(patterns[i]), std::move(tokens[i])});
  }
  auto by_text = [](const Pattern& a, const Pattern& b) { return a.text < b.text; };
  auto same_text = [](const Pattern& a, const Pattern& b) { return a.text == b.text; };
  std::stable_sort(patterns_.begin(), patterns_.end(), by_text);
  patterns_.erase(std::unique(patterns_.begin(), patterns_.end(), same_text), patterns_.end());
  for (const Pattern& pattern : patterns_) starts_[static_cast<uint8_t>(pattern.text[0])] = true;
}

// Narrows the sorted patterns to those that share one more byte with the text, until none is left.
const AddedTokenMatcher::Pattern* AddedTokenMatcher::match_at(std::string_view text, size_t at, size_t& length) const {
  const Pattern* best = nullptr;
  auto low = patterns_.begin();
  auto high = patterns_.end();
  for (size_t depth = 0; at + depth < text.size(); ++depth) {
    auto byte = static_cast<uint8_t>(text[at + depth]);
    auto before = [depth](const Pattern& pattern, uint8_t value) {
      return pattern.text.size() <= depth || static_cast<uint8_t>(pattern.text[depth]) < value;
    };
    auto after = [depth](uint8_t value, const Pattern& pattern) {
      return pattern.text.size() > depth && value < static_cast<uint8_t>(pattern.text[depth]);
    };
    low = std::lower_bound(low, high, byte, before);
    high = std::upper_bound(low, high, byte, after);
    if (low == high) break;
    if (low->text.size() == depth + 1) {
      best = &*low;
      length = depth + 1;
    }
  }
  return best;
}

void AddedTokenMatcher::split(std::string_view text, bool parse_special, std::span<const TextRange> plain,
                              std::vector<Piece>& pieces) const {
  size_t done = 0;  // everything before is in a piece
  size_t at = 0;
  size_t stripped_to = 0;  // the white space before was all passed by the last rstrip
  while (!patterns_.empty() && at < text.size()) {
    if (!starts_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    size_t length = 0;
    const Pattern* match = match_at(text, at, length);
    if (match == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at += length;
    const AddedToken& token = match->token;
    if (token.special && (!parse_special || touches(plain, begin, end))) continue;
    if (token.single_word && touches_word(text, begin, end)) continue;
    if (token.lstrip) begin = std::max(strip_left(text, begin, std::min(begin, done)), done);
    if (token.rstrip) end = stripped_to = end <= stripped_to ? stripped_to : strip_right(text, end);
    if (done < begin) pieces.push_back({-1, done, begin});
    // A token whose own characters went with the rstrip of the one before is dropped; without lstrip it counts, and the
    // text after it is read again: both as Hugging Face's library has it.
    if (begin < end) pieces.push_back({token.id, begin, end});
    done = end;
  }
  if (done < text.size()) pieces.push_back({-1, done, text.size()});
}

}  // namespace tessera

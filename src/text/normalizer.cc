#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "core/error.h"
#include "text/utf8.h"

namespace tessera {
namespace {

// Replacing can multiply a text; a file could chain such steps.
void check_size(size_t bytes) {
  if (bytes > Normalizer::kMaxBytes) {
    fail(ErrorCode::kInvalidArgument, "the normalizers turn this text into more than {} bytes; split it",
         Normalizer::kMaxBytes);
  }
}

// True when NFC leaves the character as it is whatever follows or precedes: it is a starter, has no decomposition and
// is never the second half of a composition. Code points below U+0300 may only combine with what follows them.
bool is_nfc_inert(char32_t code) {
  if (code < 0x300) return true;
  if (code >= 0x1100 && code <= 0x11FF) return false;  // Hangul letters compose by arithmetic, not by table
  if (code >= 0xAC00 && code <= 0xD7A3) return true;
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(code));
  constexpr uint16_t kNone = UINT16_MAX;
  constexpr uint16_t kSecondHalf = 0x8000;  // utf8proc's flag in comb_index; kNone has it too
  bool second_half = property->comb_index != kNone && (property->comb_index & kSecondHalf) != 0;
  return property->combining_class == 0 && property->decomp_seqindex == kNone && !second_half;
}

// Decomposes, orders and composes. The ordering is a stable sort for each run of marks; utf8proc's own takes quadratic
// time on long runs, which a text of a stranger may have.
void append_normalized(std::string_view text, UnicodeForm::Form form, std::string& out) {
  bool composed = form == UnicodeForm::Form::kNfc || form == UnicodeForm::Form::kNfkc;
  bool compatible = form == UnicodeForm::Form::kNfkc || form == UnicodeForm::Form::kNfkd;
  auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  for (size_t at = 0; at < text.size(); at += static_cast<size_t>(utf8_length(text[at]))) {
    constexpr utf8proc_ssize_t kLongest = 32;  // no character decomposes into more than 18
    utf8proc_int32_t parts[kLongest];
    int boundary = UTF8PROC_BOUNDCLASS_START;
    utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(utf8_front(text.substr(at))), parts,
                                                 kLongest, options, &boundary);
    TS_CHECK(n >= 0 && n <= kLongest, "a character decomposes into {} code points", n);
    codes.insert(codes.end(), parts, parts + n);
  }
  auto rank = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
  for (size_t i = 0; i < codes.size(); ++i) {
    size_t end = i;
    while (end < codes.size() && rank(codes[end]) != 0) ++end;
    if (end - i > 1) {
      std::stable_sort(codes.begin() + static_cast<std::ptrdiff_t>(i), codes.begin() + static_cast<std::ptrdiff_t>(end),
                       [&](utf8proc_int32_t a, utf8proc_int32_t b) { return rank(a) < rank(b); });
    }
    if (end > i) i = end;
  }
  auto n = static_cast<utf8proc_ssize_t>(codes.size());
  if (composed)
    n = utf8proc_normalize_utf32(codes.data(), n, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  TS_CHECK(n >= 0, "utf8proc cannot compose valid code points");
  for (utf8proc_ssize_t i = 0; i < n; ++i) utf8_append(out, static_cast<char32_t>(codes[static_cast<size_t>(i)]));
}

// Only the stretches that could change go through utf8proc: each begins with the starter before the first character
// that is not inert and ends before the next inert one.
bool compose(std::string_view text, std::string& out) {
  size_t copied = 0;
  size_t previous = 0;  // where the character before `at` begins
  bool changed = false;
  for (size_t at = 0; at < text.size();) {
    if (is_nfc_inert(utf8_front(text.substr(at)))) {
      previous = at;
      at += static_cast<size_t>(utf8_length(text[at]));
      continue;
    }
    size_t end = at;
    while (end < text.size() && !is_nfc_inert(utf8_front(text.substr(end))))
      end += static_cast<size_t>(utf8_length(text[end]));
    out += text.substr(copied, previous - copied);
    append_normalized(text.substr(previous, end - previous), UnicodeForm::Form::kNfc, out);
    copied = previous = at = end;
    changed = true;
  }
  if (changed) out += text.substr(copied);
  return changed;
}

bool is_ascii(std::string_view text) {
  for (char c : text) {
    if (static_cast<uint8_t>(c) >= 0x80) return false;
  }
  return true;
}

std::string_view strip(std::string_view text, const StripSpace& sides) {
  while (sides.left && !text.empty() && is_white_space(utf8_front(text))) {
    text.remove_prefix(static_cast<size_t>(utf8_length(text[0])));
  }
  while (sides.right && !text.empty() && is_white_space(utf8_back(text))) {
    size_t size = text.size() - 1;
    while ((static_cast<uint8_t>(text[size]) & 0xC0) == 0x80) --size;
    text = text.substr(0, size);
  }
  return text;
}

// One step: returns the new text, in `out` or as a part of `text`.
struct Apply {
  std::string_view text;
  std::string& out;
  Regex::Scratch& scratch;

  std::string_view operator()(const UnicodeForm& step) const {
    if (is_ascii(text)) return text;
    if (step.form == UnicodeForm::Form::kNfc) return compose(text, out) ? std::string_view(out) : text;
    append_normalized(text, step.form, out);
    return out;
  }
  std::string_view operator()(const PrependText& step) const {
    if (text.empty()) return text;
    out.reserve(step.text.size() + text.size());
    out += step.text;
    out += text;
    return out;
  }
  std::string_view operator()(const ReplaceText& step) const {
    if (text.find(step.pattern) == std::string_view::npos) return text;
    replace_text(text, step, out);
    return out;
  }
  std::string_view operator()(const ReplaceMatches& step) const {
    replace_matches(text, step, scratch, out);
    return out;
  }
  std::string_view operator()(const StripSpace& step) const { return strip(text, step); }
};

}  // namespace

void replace_text(std::string_view text, const ReplaceText& replace, std::string& out) {
  size_t copied = 0;
  for (size_t at; (at = text.find(replace.pattern, copied)) != std::string_view::npos;) {
    out += text.substr(copied, at - copied);
    out += replace.content;
    check_size(out.size());
    copied = at + replace.pattern.size();
  }
  out += text.substr(copied);
}

void replace_matches(std::string_view text, const ReplaceMatches& replace, Regex::Scratch& scratch, std::string& out) {
  if (text.empty()) return;
  size_t copied = 0;
  RegexMatches matches(replace.pattern, text, scratch);
  for (Regex::Match match; matches.next(match);) {
    out += text.substr(copied, match.begin - copied);
    out += replace.content;
    check_size(out.size());
    copied = match.end;
  }
  out += text.substr(copied);
}

std::string_view Normalizer::apply(std::string_view text, Buffers& buffers, Regex::Scratch& scratch) const {
  std::string* out = &buffers.first;
  std::string* other = &buffers.second;
  for (const Step& step : steps_) {
    out->clear();
    text = std::visit(Apply{text, *out, scratch}, step);
    check_size(text.size());
    // `text` may now be a view of *out, which the next step must not overwrite.
    if (text.data() >= out->data() && text.data() < out->data() + out->size()) std::swap(out, other);
  }
  return text;
}

}  // namespace tessera

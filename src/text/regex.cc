#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "text/utf8.h"

namespace tessera {
namespace {

// From each character a match may first cost this many backtracking steps. Ordinary patterns need about ten; only runs
// of thousands of characters need more. A match that wants more is tried again with twice as many, paid from the text's
// allowance, so that a pattern that backtracks without end gives an error and not a standstill.
constexpr uint32_t kFirstLimit = 2000;
constexpr uint64_t kAllowanceBase = 100'000'000;
constexpr uint64_t kAllowancePerByte = 100;
constexpr uint32_t kHeapLimitKiB = 256 * 1024;  // the interpreter's, where PCRE2 has no just-in-time compiler
constexpr size_t kJitStackStart = 32 * 1024;
constexpr size_t kJitStackMax = 16 * 1024 * 1024;

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<char*>(buffer);
}

template <class T>
T* need(T* pointer) {
  if (pointer == nullptr) fail(ErrorCode::kOutOfMemory, "no memory for a regular expression's working space");
  return pointer;
}

}  // namespace

struct Regex::Scratch::State {
  struct Free {
    void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
    void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
    void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
  };

  State()
      : data(need(pcre2_match_data_create(1, nullptr))),
        context(need(pcre2_match_context_create(nullptr))),
        stack(need(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr))) {
    pcre2_set_match_limit(context.get(), kFirstLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKiB);
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }

  std::unique_ptr<pcre2_match_data, Free> data;
  std::unique_ptr<pcre2_match_context, Free> context;
  std::unique_ptr<pcre2_jit_stack, Free> stack;
  uint64_t allowance = kAllowanceBase;
};

Regex::Scratch::Scratch() : state_(std::make_unique<State>()) {}
Regex::Scratch::~Scratch() = default;
Regex::Scratch::Scratch(Scratch&&) noexcept = default;
Regex::Scratch& Regex::Scratch::operator=(Scratch&&) noexcept = default;

void Regex::Scratch::begin_text(size_t text_bytes) {
  state_->allowance = kAllowanceBase + kAllowancePerByte * static_cast<uint64_t>(text_bytes);
}

void Regex::Free::operator()(pcre2_real_code_8* code) const {
  pcre2_code_free(code);
}

Regex::Regex(std::string_view pattern, std::string where) : where_(std::move(where)) {
  if (pattern.size() > kMaxPatternBytes) {
    fail(ErrorCode::kUnsupported, "{}: a pattern of {} bytes is longer than the {} supported", where_, pattern.size(),
         kMaxPatternBytes);
  }
  std::string translated = translate_oniguruma(pattern, where_);
  auto compile = [&](uint32_t options) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), options, &error,
                            &offset, nullptr));
    if (!code)
      fail(ErrorCode::kUnsupported, "{}: pattern \"{}\" does not compile: {}", where_, pattern, pcre2_message(error));
    // Without a just-in-time compiler on this machine, pcre2_match() interprets: same matches, slower.
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
    return code;
  };
  search_ = compile(PCRE2_UTF | PCRE2_UCP);
  anchored_ = compile(PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED);
}

int Regex::match(const Code& code, std::string_view text, size_t from, Scratch::State& state) const {
  return pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, PCRE2_NO_UTF_CHECK,
                     state.data.get(), state.context.get());
}

// The search hit the limit of steps somewhere: goes from character to character, so that each pays for itself.
int Regex::find_slowly(std::string_view text, size_t from, Scratch::State& state) const {
  while (true) {
    int found = match(anchored_, text, from, state);
    uint64_t limit = kFirstLimit;
    while (found == PCRE2_ERROR_MATCHLIMIT && limit * 2 <= std::min<uint64_t>(state.allowance, UINT32_MAX)) {
      limit *= 2;
      state.allowance -= limit;
      pcre2_set_match_limit(state.context.get(), static_cast<uint32_t>(limit));
      found = match(anchored_, text, from, state);
      pcre2_set_match_limit(state.context.get(), kFirstLimit);
    }
    if (found != PCRE2_ERROR_NOMATCH || from >= text.size()) return found;
    from += static_cast<size_t>(utf8_length(text[from]));
  }
}

bool Regex::find(std::string_view text, size_t from, Scratch& scratch, Match& match) const {
  Scratch::State& state = *scratch.state_;
  int found = this->match(search_, text, from, state);
  if (found == PCRE2_ERROR_MATCHLIMIT) found = find_slowly(text, from, state);
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) {
    fail(ErrorCode::kUnsupported, "{}: the pattern cannot be matched against a text of {} bytes at byte {}: {}", where_,
         text.size(), from, pcre2_message(found));
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(state.data.get());
  match = {ends[0], ends[1]};
  // \K inside a lookaround could end a match before it begins; the translation refuses \K.
  if (match.end < match.begin || match.begin < from)
    fail(ErrorCode::kUnsupported, "{}: a match runs backwards", where_);
  return true;
}

bool RegexMatches::next(Regex::Match& match) {
  while (position_ <= text_.size() && regex_.find(text_, position_, scratch_, match)) {
    if (match.begin == match.end && match.end == last_end_) {
      position_ += position_ < text_.size() ? static_cast<size_t>(utf8_length(text_[position_])) : 1;
      continue;
    }
    position_ = last_end_ = match.end;
    return true;
  }
  return false;
}

}  // namespace tessera

// Regular expressions of tokenizer.json. The files are written for Oniguruma's Ruby dialect; the pattern is translated
// to PCRE2's, and whatever would mean something else there is refused. A Regex is immutable and thread-safe; each
// thread matches with its own Scratch. Unicode classes are those of the linked PCRE2 (10.42: Unicode 14).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;

namespace tessera {

// The same pattern for PCRE2. Throws kUnsupported; `where` opens the message.
std::string translate_oniguruma(std::string_view pattern, const std::string& where);

class Regex {
 public:
  static constexpr size_t kMaxPatternBytes = 16384;

  struct Match {
    size_t begin = 0;
    size_t end = 0;
  };

  // What one thread needs to match, reusable for any Regex. Also holds what is left of the work that one text may cost.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(Scratch&&) noexcept;
    Scratch& operator=(Scratch&&) noexcept;
    // Call before each text: a fresh allowance of backtracking steps, in proportion to the text.
    void begin_text(size_t text_bytes);

   private:
    friend class Regex;
    struct State;
    std::unique_ptr<State> state_;
  };

  // A pattern of tokenizer.json. Throws kUnsupported or kCorrupt; `where` opens each message, also that of find().
  Regex(std::string_view pattern, std::string where);

  // The first match that begins at or after `from`; false when there is none. REQUIRES valid UTF-8 and `from` at a
  // character boundary. Throws kUnsupported when the pattern needs more steps than a text is allowed.
  bool find(std::string_view text, size_t from, Scratch& scratch, Match& match) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  using Code = std::unique_ptr<pcre2_real_code_8, Free>;
  int match(const Code& code, std::string_view text, size_t from, Scratch::State& state) const;
  int find_slowly(std::string_view text, size_t from, Scratch::State& state) const;

  Code search_;
  Code anchored_;  // the same pattern, matching only where it is told to begin
  std::string where_;
};

// All matches in order, as Oniguruma's users iterate: an empty match right after another match is skipped.
class RegexMatches {
 public:
  RegexMatches(const Regex& regex, std::string_view text, Regex::Scratch& scratch)
      : regex_(regex), text_(text), scratch_(scratch) {}
  bool next(Regex::Match& match);

 private:
  const Regex& regex_;
  std::string_view text_;
  Regex::Scratch& scratch_;
  size_t position_ = 0;
  size_t last_end_ = static_cast<size_t>(-1);
};

}  // namespace tessera

// Pre-tokenizers of tokenizer.json: how a text is cut into the words that byte-pair encoding sees. A PreTokenizer is
// immutable and thread-safe; each thread runs it with its own Scratch.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace tessera {

// What becomes of the parts of a text that a pattern matches.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStage {
  std::variant<Regex, std::string> pattern;  // a string is taken literally and is not empty
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // matches and what lies between them change roles
};
// Puts a space before a piece that does not begin with one.
struct PrefixSpaceStage {};
// Replaces spaces by a mark and puts one in front, as SentencePiece does.
struct MetaspaceStage {
  enum class Prepend { kFirst, kNever, kAlways };  // kFirst: only where the text itself begins
  std::string mark;
  Prepend prepend = Prepend::kAlways;
};

class PreTokenizer {
 public:
  using Stage = std::variant<SplitStage, PrefixSpaceStage, MetaspaceStage>;
  using Sink = std::function<void(std::string_view word)>;

  struct Part {
    size_t begin;
    size_t end;
    bool matched;
  };
  struct Scratch {
    std::string text;         // one for each stage
    std::vector<Part> parts;  // likewise
  };

  void add(Stage stage) { stages_.push_back(std::move(stage)); }
  size_t stages() const { return stages_.size(); }
  bool has_metaspace() const {
    return std::any_of(stages_.begin(), stages_.end(),
                       [](const Stage& s) { return std::holds_alternative<MetaspaceStage>(s); });
  }

  // Calls sink for each word of `text` in order; no word is empty. `at_start` says that the user's text begins here.
  // REQUIRES valid UTF-8. Throws kUnsupported when a pattern needs too many steps.
  void run(std::string_view text, bool at_start, std::vector<Scratch>& scratch, Regex::Scratch& regex,
           const Sink& sink) const;

 private:
  struct Context;
  void run_stage(size_t stage, std::string_view text, bool at_start, Context& context) const;
  void split(const SplitStage& split, size_t stage, std::string_view text, bool at_start, Context& context) const;

  std::vector<Stage> stages_;
};

}  // namespace tessera

// Decoders of tokenizer.json: how token strings become text again. Works on a stream: text leaves as soon as no later
// token can change it, and the pieces joined are exactly what decoding all tokens at once gives. A Decoder is immutable
// and thread-safe; a State belongs to one stream.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/normalizer.h"
#include "text/regex.h"
#include "text/utf8_lossy.h"

namespace tessera {

// Tokens written in the byte-level alphabet become bytes, all of them together UTF-8; what is invalid there becomes
// U+FFFD.
struct ByteLevelStage {};
// A run of tokens <0x00> to <0xFF> becomes the text of these bytes or, when they are not UTF-8, one U+FFFD for each.
// The stream waits for the end of a run: only then is it known which.
struct ByteFallbackStage {};
// All tokens become one: the stages after it see the whole text.
struct FuseStage {};
// Removes up to `start` times `content` from the front and up to `stop` times from the back of each token.
struct StripTokenStage {
  std::string content;  // one character
  int64_t start = 0;
  int64_t stop = 0;
};
// Marks become spaces; in the first token they disappear when the encoder had put one there.
struct MetaspaceDecodeStage {
  std::string mark;
  bool prepended = true;
};
// A space between tokens: what Hugging Face's library does for a file without a decoder.
struct JoinStage {};

class Decoder {
 public:
  using Stage = std::variant<ReplaceText, ReplaceMatches, ByteLevelStage, ByteFallbackStage, FuseStage, StripTokenStage,
                             MetaspaceDecodeStage, JoinStage>;

  struct StageState {
    std::string held;      // ByteFallback: the run of bytes; a stage that needs the whole text: what came so far
    int64_t tokens = 0;    // that this stage has seen
    int64_t stripped = 0;  // Strip on fused text: characters removed so far
    bool past_start = false;
    Utf8Lossy lossy;
  };
  struct State {
    std::vector<StageState> stages;
    std::unique_ptr<Regex::Scratch> regex;
  };

  void add(Stage stage);
  size_t stages() const { return stages_.size(); }
  State start() const;

  // Appends the text that is certain after one more token. REQUIRES valid UTF-8. Throws kUnsupported when a pattern
  // needs too many steps.
  void push(std::string_view token, State& state, std::string& out) const { feed(0, token, state, out); }
  // True when push_bytes() may be used.
  bool starts_with_byte_level() const;
  // The same for a token given as bytes instead of in the byte-level alphabet.
  void push_bytes(std::string_view bytes, State& state, std::string& out) const;
  // Appends what was held back, and is ready for another stream.
  void flush(State& state, std::string& out) const;

  // What a token stands for in the middle of a text, before invalid UTF-8 is replaced.
  std::string token_bytes(std::string_view token) const;

 private:
  struct Entry {
    Stage stage;
    bool fused;  // the stage's input is one text that arrives in chunks
    bool waits;  // fused, and the stage can only work on the whole of it
  };
  void feed(size_t index, std::string_view token, State& state, std::string& out) const;
  void apply(size_t index, std::string_view token, State& state, std::string& out) const;

  struct Apply;
  std::vector<Entry> stages_;
};

}  // namespace tessera

// A tokenizer as its tokenizer.json describes it: text to token ids and back. Byte-level BPE (gpt-oss, Llama 3, Qwen3,
// Mistral Nemo) and byte-fallback BPE (Llama 2, Mistral v1, Gemma), the same ids and text as Hugging Face's
// `tokenizers`. A Tokenizer is immutable after loading and thread-safe; a StreamDecoder belongs to one stream.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/decoder.h"

namespace tessera {

struct TokenizerParts;

class Tokenizer {
 public:
  // Longer texts are refused: positions are 32-bit numbers inside.
  static constexpr size_t kMaxTextBytes = size_t{1} << 30;

  // Throws kNotFound or kIo for the file; kCorrupt when its content is wrong; kUnsupported when a component is not one
  // of those implemented here, naming it and them. `truncation` and `padding` in the file are ignored, as by
  // `transformers`.
  static Tokenizer from_file(const std::string& path);
  // `name` stands for the file in messages.
  static Tokenizer from_json(std::string_view json, const std::string& name);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  struct EncodeOptions {
    bool add_special_tokens = false;  // what the file's post-processor puts around a text, such as <s>
    bool parse_special = true;        // false: the text of a special token is plain text (for text from strangers)
    // Parts of the text, in order, from strangers: special tokens that touch one are plain text.
    std::span<const TextRange> plain_ranges = {};
  };
  // Invalid UTF-8 is read as if each maximal invalid part were U+FFFD. Throws kInvalidArgument when the text is longer
  // than kMaxTextBytes; kUnsupported when a pattern of the file needs unreasonably many steps on this text; kCorrupt
  // when the file names an unknown token, the text needs it and the vocabulary lacks it.
  std::vector<int32_t> encode(std::string_view text, EncodeOptions options) const;
  std::vector<int32_t> encode(std::string_view text) const { return encode(text, EncodeOptions{}); }

  // Always valid UTF-8. Ids that have no token are left out.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // The id of a token as tokenizer.json writes it ("Ġhello", "<0x0A>", "<|end|>").
  std::optional<int32_t> token_to_id(std::string_view token) const;
  // The token as tokenizer.json writes it; empty for an id without one.
  std::string id_to_token(int32_t id) const;
  // The bytes a token adds in the middle of a text: not always valid UTF-8 alone. Empty for an id without a token.
  std::string token_bytes(int32_t id) const;
  bool is_special(int32_t id) const;
  // One past the highest id.
  int32_t vocab_size() const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(TokenizerParts parts);

  std::unique_ptr<const Impl> impl_;
};

// Decodes ids as they are generated. Every push returns text that later ids cannot change, so it may be empty; all
// returned texts joined equal Tokenizer::decode() of all ids. REQUIRES that the tokenizer outlives it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false);
  std::string push(int32_t id);
  // The stream has ended: what was held back, with U+FFFD for an incomplete character. Ready for another stream
  // afterwards.
  std::string flush();

 private:
  const Tokenizer::Impl* tokenizer_;
  Decoder::State state_;
  bool skip_special_;
};

}  // namespace tessera

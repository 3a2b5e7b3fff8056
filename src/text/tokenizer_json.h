// Reads tokenizer.json into the parts of a Tokenizer. The file is foreign: every count, length and id in it is checked
// here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/vocab.h"

namespace tessera {

struct TokenizerParts {
  static constexpr int64_t kMaxFileBytes = int64_t{128} << 20;  // published files have up to 34 MB
  static constexpr int64_t kMaxMerges = 1 << 21;                // published files have up to about 600,000

  std::string name;  // of the file, for messages
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  Vocab vocab{0};
  MergeTable merges{0};
  BpeOptions bpe;
  std::vector<AddedToken> added;  // each id and each content once
  std::vector<int32_t> prefix;    // what the post-processor puts before a text, and after it
  std::vector<int32_t> suffix;
};

// Throws kCorrupt or kUnsupported, as Tokenizer::from_file says.
TokenizerParts parse_tokenizer_json(std::string_view json, const std::string& name);

}  // namespace tessera

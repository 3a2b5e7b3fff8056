#include "text/tokenizer.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>

#include "core/error.h"
#include "core/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/byte_alphabet.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"
#include "text/utf8_lossy.h"

namespace tessera {
namespace {

// What one encode() needs. Kept between calls, as its regular-expression stack and buffers are costly to make.
struct Workspace {
  Bpe::Scratch bpe;
  Regex::Scratch regex;
  std::vector<PreTokenizer::Scratch> stages;
  Normalizer::Buffers buffers;
  std::vector<AddedTokenMatcher::Piece> outer;
  std::vector<AddedTokenMatcher::Piece> inner;
};

constexpr size_t kKeepTextBytes = size_t{1} << 20;  // a workspace that served a longer text is too big to keep
constexpr size_t kKeepWorkspaces = 64;

class WorkspacePool {
 public:
  std::unique_ptr<Workspace> take() {
    std::lock_guard lock(mutex_);
    if (free_.empty()) return std::make_unique<Workspace>();
    std::unique_ptr<Workspace> workspace = std::move(free_.back());
    free_.pop_back();
    return workspace;
  }
  void give_back(std::unique_ptr<Workspace> workspace) {
    std::lock_guard lock(mutex_);
    if (free_.size() < kKeepWorkspaces) free_.push_back(std::move(workspace));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> free_;
};

// A text made valid UTF-8, each range and each part between ranges on its own, and where the ranges are then.
struct Repaired {
  std::string text;
  std::vector<TextRange> plain;
};
Repaired repair(std::string_view text, std::span<const TextRange> plain) {
  Repaired result;
  size_t done = 0;
  auto copy_to = [&](size_t end) {
    end = std::clamp(end, done, text.size());
    result.text += utf8_lossy(text.substr(done, end - done));
    done = end;
    return result.text.size();
  };
  for (const TextRange& range : plain) {
    size_t begin = copy_to(range.begin);
    result.plain.push_back({begin, copy_to(range.end)});
  }
  copy_to(text.size());
  return result;
}

// How the added tokens appear to the decoder: normalized, where they are searched normalized.
std::vector<std::string> decoded_forms(const std::vector<AddedToken>& added, const Normalizer& normalizer) {
  std::vector<std::string> forms;
  Normalizer::Buffers buffers;
  Regex::Scratch scratch;
  for (const AddedToken& token : added) {
    scratch.begin_text(token.content.size());
    forms.emplace_back(token.normalized ? normalizer.apply(token.content, buffers, scratch) : token.content);
  }
  return forms;
}

AddedTokenMatcher matcher_of(const std::vector<AddedToken>& added, const std::vector<std::string>& decoded,
                             bool normalized) {
  std::vector<AddedToken> tokens;
  std::vector<std::string> patterns;
  for (size_t i = 0; i < added.size(); ++i) {
    if (added[i].normalized != normalized) continue;
    tokens.push_back(added[i]);
    patterns.push_back(decoded[i]);
  }
  return {std::move(tokens), std::move(patterns)};
}

}  // namespace

struct Tokenizer::Impl {
  struct Added {
    std::string decoded;
    bool special;
    bool skipped;  // left out by decode(skip_special)
  };

  explicit Impl(TokenizerParts&& parts) : Impl(std::move(parts), decoded_forms(parts.added, parts.normalizer)) {}
  Impl(TokenizerParts&& parts, std::vector<std::string> decoded);

  void encode_piece(std::string_view text, bool at_start, bool parse_special, Workspace& work,
                    std::vector<int32_t>& out) const;
  // The token as the decoder sees it; false for an id without one, or one to skip.
  bool token_text(int32_t id, bool skip_special, std::string& text) const;
  void decode_token(int32_t id, bool skip_special, Decoder::State& state, std::string& out) const;

  std::string name;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  Vocab vocab;
  bool byte_level;
  bool decodes_bytes;  // the vocabulary's bytes go to the decoder as they are
  Bpe bpe;
  AddedTokenMatcher raw_matcher;
  AddedTokenMatcher normalized_matcher;
  std::unordered_map<int32_t, Added> added;
  std::map<std::string, int32_t, std::less<>> added_ids;  // ordered: no file can aim for collisions
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
  int32_t id_limit;
  mutable WorkspacePool pool;
};

Tokenizer::Impl::Impl(TokenizerParts&& parts, std::vector<std::string> decoded)
    : name(std::move(parts.name)),
      normalizer(std::move(parts.normalizer)),
      pre_tokenizer(std::move(parts.pre_tokenizer)),
      decoder(std::move(parts.decoder)),
      vocab(std::move(parts.vocab)),
      byte_level(parts.bpe.byte_level),
      decodes_bytes(byte_level && decoder.starts_with_byte_level()),
      bpe(vocab, std::move(parts.merges), std::move(parts.bpe), name),
      raw_matcher(matcher_of(parts.added, decoded, false)),
      normalized_matcher(matcher_of(parts.added, decoded, true)),
      prefix(std::move(parts.prefix)),
      suffix(std::move(parts.suffix)),
      id_limit(vocab.id_limit()) {
  std::map<std::string_view, bool> special;  // by content, as decoding skips by string
  for (const AddedToken& token : parts.added) special[token.content] = token.special;
  for (size_t i = 0; i < decoded.size(); ++i) {
    const AddedToken& token = parts.added[i];
    auto found = special.find(decoded[i]);
    bool skipped = found != special.end() && found->second;
    id_limit = std::max(id_limit, token.id + 1);
    added_ids.emplace(token.content, token.id);
    added.emplace(token.id, Added{std::move(decoded[i]), token.special, skipped});
  }
}

void Tokenizer::Impl::encode_piece(std::string_view text, bool at_start, bool parse_special, Workspace& work,
                                   std::vector<int32_t>& out) const {
  text = normalizer.apply(text, work.buffers, work.regex);
  work.inner.clear();
  normalized_matcher.split(text, parse_special, {}, work.inner);
  PreTokenizer::Sink sink = [&](std::string_view word) { bpe.encode(word, work.bpe, out); };
  for (const AddedTokenMatcher::Piece& piece : work.inner) {
    if (piece.id >= 0) {
      out.push_back(piece.id);
    } else {
      std::string_view part = text.substr(piece.begin, piece.end - piece.begin);
      pre_tokenizer.run(part, at_start && piece.begin == 0, work.stages, work.regex, sink);
    }
  }
}

bool Tokenizer::Impl::token_text(int32_t id, bool skip_special, std::string& text) const {
  text.clear();
  if (auto found = added.find(id); found != added.end()) {
    if (skip_special && found->second.skipped) return false;
    text = found->second.decoded;
    return true;
  }
  if (!vocab.has(id)) return false;
  if (vocab.form(id) == Vocab::Form::kBytes) {
    byte_alphabet_encode(vocab.bytes(id), text);
  } else {
    text = vocab.bytes(id);
  }
  return true;
}

void Tokenizer::Impl::decode_token(int32_t id, bool skip_special, Decoder::State& state, std::string& out) const {
  // Of the tokens in kText form a byte-level vocabulary has, none is written in the alphabet: their bytes pass too.
  if (decodes_bytes && vocab.has(id) && (added.empty() || !added.contains(id))) {
    return decoder.push_bytes(vocab.bytes(id), state, out);
  }
  std::string text;
  if (token_text(id, skip_special, text)) decoder.push(text, state, out);
}

Tokenizer Tokenizer::from_file(const std::string& path) {
  return Tokenizer(parse_tokenizer_json(read_text_file(path, TokenizerParts::kMaxFileBytes), path));
}

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& name) {
  return Tokenizer(parse_tokenizer_json(json, name));
}

Tokenizer::Tokenizer(TokenizerParts parts) : impl_(std::make_unique<const Impl>(std::move(parts))) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > kMaxTextBytes) {
    fail(ErrorCode::kInvalidArgument,
         "{}: a text of {} bytes is longer than the {} that can be encoded at once; split it", impl_->name, text.size(),
         kMaxTextBytes);
  }
  Repaired repaired;
  if (!utf8_is_valid(text)) {
    repaired = repair(text, options.plain_ranges);
    text = repaired.text;
    options.plain_ranges = repaired.plain;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (options.add_special_tokens) ids = impl_->prefix;
  std::unique_ptr<Workspace> work = impl_->pool.take();
  work->regex.begin_text(text.size());
  work->outer.clear();
  impl_->raw_matcher.split(text, options.parse_special, options.plain_ranges, work->outer);
  for (const AddedTokenMatcher::Piece& piece : work->outer) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      std::string_view part = text.substr(piece.begin, piece.end - piece.begin);
      // A special token that is searched in the normalized text cannot be told by its place: with ranges it is plain
      // text.
      impl_->encode_piece(part, piece.begin == 0, options.parse_special && options.plain_ranges.empty(), *work, ids);
    }
  }
  if (options.add_special_tokens) ids.insert(ids.end(), impl_->suffix.begin(), impl_->suffix.end());
  if (text.size() <= kKeepTextBytes) impl_->pool.give_back(std::move(work));
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string text;
  text.reserve(ids.size() * 5);
  Decoder::State state = impl_->decoder.start();
  for (int32_t id : ids) impl_->decode_token(id, skip_special, state, text);
  impl_->decoder.flush(state, text);
  return text;
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  if (auto found = impl_->added_ids.find(token); found != impl_->added_ids.end()) return found->second;
  std::string raw;
  bool bytes = impl_->byte_level && utf8_is_valid(token) && byte_alphabet_decode(token, raw);
  int32_t id = bytes ? impl_->vocab.find(raw, Vocab::Form::kBytes) : impl_->vocab.find(token, Vocab::Form::kText);
  if (id < 0) return std::nullopt;
  return id;
}

std::string Tokenizer::id_to_token(int32_t id) const {
  std::string text;
  impl_->token_text(id, /*skip_special=*/false, text);
  return text;
}

std::string Tokenizer::token_bytes(int32_t id) const {
  std::string text;
  if (!impl_->token_text(id, /*skip_special=*/false, text)) return {};
  return impl_->decoder.token_bytes(text);
}

bool Tokenizer::is_special(int32_t id) const {
  auto found = impl_->added.find(id);
  return found != impl_->added.end() && found->second.special;
}

int32_t Tokenizer::vocab_size() const {
  return impl_->id_limit;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer.impl_.get()), state_(tokenizer_->decoder.start()), skip_special_(skip_special) {}

std::string StreamDecoder::push(int32_t id) {
  std::string text;
  tokenizer_->decode_token(id, skip_special_, state_, text);
  return text;
}

std::string StreamDecoder::flush() {
  std::string text;
  tokenizer_->decoder.flush(state_, text);
  return text;
}

}  // namespace tessera

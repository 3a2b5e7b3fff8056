#include "text/decoder.h"

#include <cctype>

#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace tessera {
namespace {

// The byte of a token like <0x0A>, or -1. Exactly two hexadecimal digits; no sign, no space.
int byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (char c : token.substr(3, 2)) {
    auto digit = static_cast<unsigned char>(c);
    if (std::isxdigit(digit) == 0) return -1;
    value = value * 16 + (std::isdigit(digit) != 0 ? digit - '0' : (digit | 0x20) - 'a' + 10);
  }
  return value;
}

std::string alphabet_bytes(std::string_view token) {
  std::string bytes;
  if (!byte_alphabet_decode(token, bytes)) bytes = token;
  return bytes;
}

std::string_view strip_token(std::string_view token, const StripTokenStage& stage) {
  for (int64_t i = 0; i < stage.start && token.starts_with(stage.content); ++i)
    token.remove_prefix(stage.content.size());
  for (int64_t i = 0; i < stage.stop && token.ends_with(stage.content); ++i) token.remove_suffix(stage.content.size());
  return token;
}

}  // namespace

void Decoder::add(Stage stage) {
  bool fused = false;
  for (const Entry& entry : stages_) {
    fused =
        fused || std::holds_alternative<FuseStage>(entry.stage) || std::holds_alternative<ByteLevelStage>(entry.stage);
  }
  const auto* strip = std::get_if<StripTokenStage>(&stage);
  bool by_chunks = std::holds_alternative<FuseStage>(stage) || std::holds_alternative<MetaspaceDecodeStage>(stage) ||
                   (strip != nullptr && strip->stop == 0);
  stages_.push_back({std::move(stage), fused, fused && !by_chunks});
}

bool Decoder::starts_with_byte_level() const {
  return !stages_.empty() && std::holds_alternative<ByteLevelStage>(stages_[0].stage);
}

Decoder::State Decoder::start() const {
  State state;
  state.stages.resize(stages_.size());
  for (const Entry& entry : stages_) {
    if (std::holds_alternative<ReplaceMatches>(entry.stage) && !state.regex)
      state.regex = std::make_unique<Regex::Scratch>();
  }
  return state;
}

// One stage at work on one token, or on one chunk of the fused text.
struct Decoder::Apply {
  const Decoder& decoder;
  size_t index;
  std::string_view token;
  State& state;
  std::string& out;

  StageState& own() const { return state.stages[index]; }
  void next(std::string_view text) const { decoder.feed(index + 1, text, state, out); }

  void operator()(const ReplaceText& stage) const {
    std::string text;
    replace_text(token, stage, text);
    next(text);
  }
  void operator()(const ReplaceMatches& stage) const {
    std::string text;
    state.regex->begin_text(token.size());
    replace_matches(token, stage, *state.regex, text);
    next(text);
  }
  void operator()(const ByteLevelStage&) const {
    std::string text;
    own().lossy.push(alphabet_bytes(token), text);
    next(text);
  }
  void operator()(const ByteFallbackStage&) const {
    int byte = byte_of(token);
    if (byte >= 0) return own().held.push_back(static_cast<char>(byte));
    end_run();
    next(token);
  }
  void end_run() const {
    std::string run;
    run.swap(own().held);
    if (run.empty()) return;
    if (utf8_is_valid(run)) return next(run);
    for (size_t i = 0; i < run.size(); ++i) next(kReplacementCharacter);
  }
  void operator()(const FuseStage&) const { next(token); }
  void operator()(const StripTokenStage& stage) const {
    if (!decoder.stages_[index].fused || decoder.stages_[index].waits) return next(strip_token(token, stage));
    StageState& strip = own();
    std::string_view rest = token;
    while (!strip.past_start && !rest.empty()) {
      strip.past_start = strip.stripped == stage.start || !rest.starts_with(stage.content);
      if (strip.past_start) break;
      rest.remove_prefix(stage.content.size());
      ++strip.stripped;
    }
    next(rest);
  }
  void operator()(const MetaspaceDecodeStage& stage) const {
    bool first = decoder.stages_[index].fused || own().tokens++ == 0;
    std::string text;
    replace_text(token, {stage.mark, first && stage.prepended ? "" : " "}, text);
    next(text);
  }
  void operator()(const JoinStage&) const {
    if (own().tokens++ > 0) next(" ");
    next(token);
  }
};

void Decoder::apply(size_t index, std::string_view token, State& state, std::string& out) const {
  std::visit(Apply{*this, index, token, state, out}, stages_[index].stage);
}

void Decoder::feed(size_t index, std::string_view token, State& state, std::string& out) const {
  if (index == stages_.size()) {
    out += token;
  } else if (stages_[index].waits) {
    state.stages[index].held += token;
  } else {
    apply(index, token, state, out);
  }
}

void Decoder::push_bytes(std::string_view bytes, State& state, std::string& out) const {
  if (stages_.size() == 1) return state.stages[0].lossy.push(bytes, out);
  std::string text;
  state.stages[0].lossy.push(bytes, text);
  feed(1, text, state, out);
}

void Decoder::flush(State& state, std::string& out) const {
  for (size_t i = 0; i < stages_.size(); ++i) {
    StageState& own = state.stages[i];
    if (stages_[i].waits) {
      std::string whole;
      whole.swap(own.held);
      apply(i, whole, state, out);
    }
    if (std::holds_alternative<ByteFallbackStage>(stages_[i].stage)) Apply{*this, i, {}, state, out}.end_run();
    std::string rest;
    own.lossy.flush(rest);
    if (!rest.empty()) feed(i + 1, rest, state, out);
    own = StageState{};
  }
}

std::string Decoder::token_bytes(std::string_view token) const {
  std::string bytes(token);
  bool is_text = true;  // false once the bytes may not be UTF-8
  for (const Entry& entry : stages_) {
    std::string next;
    if (const auto* text = std::get_if<ReplaceText>(&entry.stage)) {
      replace_text(bytes, *text, next);
    } else if (const auto* matches = std::get_if<ReplaceMatches>(&entry.stage); matches != nullptr && is_text) {
      Regex::Scratch scratch;
      replace_matches(bytes, *matches, scratch, next);
    } else if (std::holds_alternative<ByteLevelStage>(entry.stage) && is_text) {
      next = alphabet_bytes(bytes);
      is_text = false;
    } else if (std::holds_alternative<ByteFallbackStage>(entry.stage) && byte_of(bytes) >= 0) {
      return std::string(1, static_cast<char>(byte_of(bytes)));
    } else if (const auto* mark = std::get_if<MetaspaceDecodeStage>(&entry.stage)) {
      replace_text(bytes, {mark->mark, " "}, next);
    } else if (const auto* strip = std::get_if<StripTokenStage>(&entry.stage); strip != nullptr && !entry.fused) {
      next = strip_token(bytes, *strip);
    } else {
      continue;
    }
    bytes = std::move(next);
  }
  return bytes;
}

}  // namespace tessera

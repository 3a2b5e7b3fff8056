#include "text/tokenizer_property.h"

#include <fmt/format.h>

#include "tessera/error.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace tessera {
namespace {

std::string stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  std::string text;
  StreamDecoder decoder(tokenizer, skip_special);
  for (int32_t id : ids) {
    std::string piece = decoder.push(id);
    if (!utf8_is_valid(piece)) return "a piece of the stream that is not UTF-8";
    text += piece;
  }
  return text + decoder.flush();
}

std::string check_decoding(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  for (bool skip_special : {false, true}) {
    std::string whole = tokenizer.decode(ids, skip_special);
    if (!utf8_is_valid(whole)) return "decode() gives invalid UTF-8";
    if (stream(tokenizer, ids, skip_special) != whole)
      return fmt::format("the stream differs from decode() = \"{}\"", whole);
  }
  for (int32_t id : ids) {
    tokenizer.token_bytes(id);
    tokenizer.is_special(id);
    if (!utf8_is_valid(tokenizer.id_to_token(id))) return fmt::format("token {} is not UTF-8", id);
  }
  return {};
}

}  // namespace

std::string check_tokenizer(std::string_view json, std::string_view text) {
  try {
    Tokenizer tokenizer = Tokenizer::from_json(json, "input");
    for (Tokenizer::EncodeOptions options : {Tokenizer::EncodeOptions{}, Tokenizer::EncodeOptions{true, false}}) {
      std::vector<int32_t> ids = tokenizer.encode(text, options);
      if (tokenizer.encode(text, options) != ids) return "encoding again gives other ids";
      for (int32_t id : ids) {
        if (id < 0 || id >= tokenizer.vocab_size()) return fmt::format("id {} is out of range", id);
      }
      if (std::string problem = check_decoding(tokenizer, ids); !problem.empty()) return problem;
    }
    // Any ids at all: the bytes of the text as numbers, some below zero and some too high.
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(static_cast<signed char>(c) * 7 % 601);
    return check_decoding(tokenizer, ids);
  } catch (const Error&) {
    return {};
  }
}

}  // namespace tessera

// Gathers one request's tokens into a Generation: text as it becomes certain, stop strings, log-probabilities. Not
// thread-safe.
#pragma once

#include <optional>

#include "api/text_stream.h"
#include "engine/request.h"
#include "tessera/llm.h"
#include "text/tokenizer.h"

namespace tessera {

class AnswerText {
 public:
  // Without a tokenizer only ids are gathered. The tokenizer must outlive this object.
  AnswerText(const Tokenizer* tokenizer, const std::vector<std::string>& stop, TextCallback on_text);

  // False when the answer is to end: a stop string, or the callback's wish.
  bool push(int32_t id, const TokenLogprob* logprob);
  Generation finish(const RequestResult& result);

 private:
  void emit(const std::string& piece);

  const Tokenizer* tokenizer_;
  std::optional<StreamDecoder> decoder_;
  TextStream stream_;
  TextCallback on_text_;
  Generation out_;
  bool wanted_ = true;
};

}  // namespace tessera

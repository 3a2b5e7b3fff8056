#include "api/answer_text.h"

namespace tessera {

AnswerText::AnswerText(const Tokenizer* tokenizer, const std::vector<std::string>& stop, TextCallback on_text)
    : tokenizer_(tokenizer), stream_(stop), on_text_(std::move(on_text)) {
  if (tokenizer_) decoder_.emplace(*tokenizer_, /*skip_special=*/true);
}

void AnswerText::emit(const std::string& piece) {
  if (piece.empty()) return;
  out_.text += piece;
  if (on_text_ && !on_text_(piece)) wanted_ = false;
}

bool AnswerText::push(int32_t id, const TokenLogprob* logprob) {
  out_.ids.push_back(id);
  if (logprob) {
    out_.logprobs.push_back(*logprob);
    if (tokenizer_) out_.logprobs.back().bytes = tokenizer_->token_bytes(id);
  }
  if (decoder_) emit(stream_.push(decoder_->push(id)));
  return wanted_ && !stream_.stopped();
}

Generation AnswerText::finish(const RequestResult& result) {
  if (decoder_) {
    emit(stream_.push(decoder_->flush()));
    emit(stream_.finish());
  }
  const bool began = result.completion_tokens > 0;
  out_.finish_reason = wanted_ ? result.reason : FinishReason::kCancelled;
  out_.usage = {.prompt_tokens = result.prompt_tokens,
                .completion_tokens = result.completion_tokens,
                .prefill_seconds = (began ? result.first_token : result.ended) - result.created,
                .decode_seconds = began ? result.ended - result.first_token : 0};
  return std::move(out_);
}

}  // namespace tessera

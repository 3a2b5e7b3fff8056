#include "api/answer_stream.h"

#include <utility>

namespace tessera {

AnswerStream::AnswerStream(const Tokenizer& tokenizer, const AnswerRules& rules)
    : tokenizer_(tokenizer), rules_(rules), stop_(rules.stop) {
  if (rules.chat) {
    parser_ = make_reply_parser(tokenizer);
  } else {
    decoder_.emplace(tokenizer, /*skip_special=*/true);
  }
}

void AnswerStream::take(const ReplyPiece& piece, std::vector<AnswerPiece>& out) {
  if (ended_) return;
  switch (piece.part) {
    case ReplyPart::kReasoning:
      if (!piece.text.empty())
        out.push_back({.part = piece.part, .message = piece.message, .text = std::string(piece.text)});
      return;
    case ReplyPart::kAnswer:
      return take_answer(piece.message, piece.text, out);
    case ReplyPart::kToolCall:
      break;
  }
  if (piece.message != call_message_) {
    if (rules_.one_call && calls_ > 0) {
      ended_ = true;
      return;
    }
    call_message_ = piece.message;
    ++calls_;
    out.push_back({.part = piece.part, .message = piece.message, .call_begins = true, .name = std::string(piece.name)});
  }
  if (!piece.text.empty())
    out.push_back({.part = piece.part, .message = piece.message, .text = std::string(piece.text)});
}

// A stop string lies within one message.
void AnswerStream::take_answer(int64_t message, std::string_view text, std::vector<AnswerPiece>& out) {
  if (message != answer_message_) {
    give_answer(stop_.finish(), out);
    stop_ = TextStream(rules_.stop);
    answer_message_ = message;
  }
  seen_ += text.size();
  give_answer(stop_.push(text), out);
  if (stop_.stopped()) ended_ = true;
}

void AnswerStream::give_answer(std::string text, std::vector<AnswerPiece>& out) {
  given_ += text.size();
  if (!text.empty()) out.push_back({.message = answer_message_, .text = std::move(text)});
}

bool AnswerStream::push(int32_t id, const TokenLogprob* logprob, std::vector<AnswerPiece>& out) {
  if (ended_) return false;
  if (parser_) {
    parser_->push(id, [&](const ReplyPiece& piece) { take(piece, out); });
  } else {
    take_answer(0, decoder_->push(id), out);
  }
  const bool of_answer = parser_ ? parser_->part() == ReplyPart::kAnswer : !tokenizer_.is_special(id);
  if (logprob != nullptr && of_answer) {
    waiting_.push_back({seen_, *logprob});
    waiting_.back().logprob.bytes = tokenizer_.token_bytes(id);
  }
  size_t certain = 0;
  while (certain < waiting_.size() && waiting_[certain].end <= given_) ++certain;
  if (certain > 0) {
    if (out.empty() || out.back().part != ReplyPart::kAnswer) out.push_back({.message = answer_message_});
    for (size_t i = 0; i < certain; ++i) out.back().logprobs.push_back(std::move(waiting_[i].logprob));
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<long>(certain));
  }
  return !ended_;
}

AnswerEnd AnswerStream::finish(const RequestResult& result, std::vector<AnswerPiece>& out) {
  if (parser_) {
    parser_->finish([&](const ReplyPiece& piece) { take(piece, out); });
  } else if (!ended_) {
    take_answer(0, decoder_->flush(), out);
  }
  if (!stop_.stopped()) {
    give_answer(stop_.finish(), out);
    if (!waiting_.empty()) {
      if (out.empty() || out.back().part != ReplyPart::kAnswer) out.push_back({.message = answer_message_});
      for (Waiting& w : waiting_) out.back().logprobs.push_back(std::move(w.logprob));
      waiting_.clear();
    }
  }
  AnswerEnd end{.result = result, .reason = result.reason};
  if (parser_) end.reasoning_tokens = parser_->parts().reasoning_tokens;
  if (stop_.stopped()) {
    end.stop = stop_.found();
    end.reason = FinishReason::kStop;
  }
  if (calls_ > 0 && end.reason == FinishReason::kStop) end.reason = FinishReason::kToolCall;
  return end;
}

}  // namespace tessera

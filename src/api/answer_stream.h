// One answer while it is made: token ids in, pieces of reasoning, text and tool calls out, with stop strings and
// log-probabilities. Total: any sequence of ids gives well-formed pieces (whole UTF-8; a call begins with its name; the
// pieces of a message lie together). Not thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/reply_parser.h"
#include "api/text_stream.h"
#include "engine/request.h"

namespace tessera {

struct AnswerPiece {
  ReplyPart part = ReplyPart::kAnswer;
  int64_t message = 0;       // grows; pieces of one message have the same
  bool call_begins = false;  // of a tool call: `name` says whose, and there is no text
  std::string text;
  std::string name;
  std::vector<TokenLogprob> logprobs;  // of the answer's tokens that `text` completes
  int64_t tokens = 0;                  // of the whole answer so far, up to this piece; set by Service
};

struct AnswerEnd {
  RequestResult result;  // `reason` in it is the engine's
  FinishReason reason = FinishReason::kStop;
  std::optional<std::string> stop;  // the stop string that was found
  int64_t reasoning_tokens = 0;
};

struct AnswerRules {
  bool chat = false;  // sorted by channels or tags; otherwise all text is answer
  std::vector<std::string> stop;
  bool one_call = false;  // a second tool call ends the answer before it begins
};

class AnswerStream {
 public:
  // The tokenizer must outlive the stream.
  AnswerStream(const Tokenizer& tokenizer, const AnswerRules& rules);

  // Appends pieces to `out`; false when the answer is to end here.
  bool push(int32_t id, const TokenLogprob* logprob, std::vector<AnswerPiece>& out);
  AnswerEnd finish(const RequestResult& result, std::vector<AnswerPiece>& out);

 private:
  void take(const ReplyPiece& piece, std::vector<AnswerPiece>& out);
  void take_answer(int64_t message, std::string_view text, std::vector<AnswerPiece>& out);
  void give_answer(std::string text, std::vector<AnswerPiece>& out);

  const Tokenizer& tokenizer_;
  AnswerRules rules_;
  std::unique_ptr<ReplyParser> parser_;   // of a chat
  std::optional<StreamDecoder> decoder_;  // of a completion
  TextStream stop_;
  int64_t answer_message_ = 0, call_message_ = -1;
  int64_t calls_ = 0;
  bool ended_ = false;
  size_t seen_ = 0, given_ = 0;  // bytes of answer from the parser, and given out
  struct Waiting {
    size_t end;  // of the token's text, counted as seen_
    TokenLogprob logprob;
  };
  std::vector<Waiting> waiting_;  // log-probabilities of text that may yet be cut by a stop string
};

}  // namespace tessera

// How an answer is shown while it arrives, and told as JSON afterwards: shared by chat, generate and eval.
#pragma once

#include <string>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "tessera/chat.h"

namespace tessera::cli {

// Streams a reply to standard output: reasoning dimmed, then the answer. Tool calls are shown by show_calls().
class AnswerPrinter {
 public:
  AnswerPrinter(Output& out, bool show_reasoning);
  // A ReplyCallback's body: false once standard output is gone.
  bool piece(ReplyPart part, std::string_view text);
  // Ends the line that is open, and the dimming.
  void finish();
  void show_calls(const std::vector<ToolCall>& calls);

 private:
  bool put(std::string_view text);

  Output& out_;
  Style style_;
  bool terminal_;
  bool show_reasoning_;
  ReplyPart part_ = ReplyPart::kAnswer;
  bool anything_ = false;
  bool line_open_ = false;
};

OrderedJson usage_json(const Usage& usage);
OrderedJson reply_json(const Reply& reply);
OrderedJson logprobs_json(const Llm& llm, const std::vector<TokenLogprob>& logprobs);

// Tokens and tokens per second of both phases, one line on standard error.
void print_stats(const Usage& usage);
// On a terminal, says when an answer was cut by a limit.
void note_cut(const Generation& generation);

}  // namespace tessera::cli

#include "cli/answer.h"

#include <fmt/format.h>

#include <cstdio>

namespace tessera::cli {

AnswerPrinter::AnswerPrinter(Output& out, bool show_reasoning)
    : out_(out), style_(Style::of_stdout()), terminal_(stdout_is_terminal()), show_reasoning_(show_reasoning) {}

bool AnswerPrinter::put(std::string_view text) {
  return out_.put(terminal_ ? printable(text) : std::string(text));
}

bool AnswerPrinter::piece(ReplyPart part, std::string_view text) {
  if (part == ReplyPart::kToolCall || (part == ReplyPart::kReasoning && !show_reasoning_) || text.empty()) return true;
  if (part != part_ || !anything_) {
    if (anything_) finish();
    if (part == ReplyPart::kReasoning) out_.put(style_.dim);
    part_ = part;
    anything_ = true;
  }
  line_open_ = text.back() != '\n';
  return put(text);
}

void AnswerPrinter::finish() {
  if (anything_ && part_ == ReplyPart::kReasoning) out_.put(style_.off);
  if (line_open_) out_.put("\n");
  line_open_ = anything_ = false;
}

void AnswerPrinter::show_calls(const std::vector<ToolCall>& calls) {
  for (const ToolCall& call : calls) {
    out_.put(style_.bold);
    put(fmt::format("call {}({})", call.name, call.arguments));
    out_.put(style_.off);
    out_.put("\n");
  }
}

OrderedJson usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"reasoning_tokens", usage.reasoning_tokens},
          {"prefill_seconds", usage.prefill_seconds},
          {"decode_seconds", usage.decode_seconds}};
}

OrderedJson reply_json(const Reply& reply) {
  OrderedJson calls = OrderedJson::array();
  for (const ToolCall& call : reply.tool_calls) {
    calls.push_back({{"id", call.id}, {"name", call.name}, {"arguments", call.arguments}});
  }
  return {{"text", reply.text},
          {"reasoning", reply.reasoning},
          {"tool_calls", calls},
          {"finish_reason", finish_reason_name(reply.generation.finish_reason)},
          {"usage", usage_json(reply.generation.usage)}};
}

OrderedJson logprobs_json(const Llm& llm, const std::vector<TokenLogprob>& logprobs) {
  OrderedJson rows = OrderedJson::array();
  for (const TokenLogprob& token : logprobs) {
    OrderedJson top = OrderedJson::array();
    for (auto [id, logprob] : token.top) {
      top.push_back({{"id", id}, {"token", llm.decode({id}, false)}, {"logprob", logprob}});
    }
    rows.push_back({{"id", token.id},
                    {"token", token.bytes},
                    {"bytes", std::vector<uint8_t>(token.bytes.begin(), token.bytes.end())},
                    {"logprob", token.logprob},
                    {"top", top}});
  }
  return rows;
}

void print_stats(const Usage& usage) {
  auto rate = [](double tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0.0; };
  // The first generated token comes out of the prefill.
  auto decoded = static_cast<double>(std::max<int64_t>(usage.completion_tokens - 1, 0));
  fmt::print(stderr, "prompt {} tokens, {:.2f} s, {:.1f} tok/s; answer {} tokens, {:.2f} s, {:.1f} tok/s\n",
             usage.prompt_tokens, usage.prefill_seconds,
             rate(static_cast<double>(usage.prompt_tokens), usage.prefill_seconds), usage.completion_tokens,
             usage.decode_seconds, rate(decoded, usage.decode_seconds));
}

void note_cut(const Generation& generation) {
  if (generation.finish_reason == FinishReason::kLength && stderr_is_terminal()) {
    fmt::print(stderr, "(cut after {} tokens: --max-tokens or the end of the context)\n",
               generation.usage.completion_tokens);
  }
}

}  // namespace tessera::cli

#include "api/reply_parser.h"

#include <algorithm>
#include <iterator>

#include "api/chat_prompt.h"
#include "core/error.h"
#include "core/json.h"
#include "text/harmony_chat.h"
#include "text/harmony_parse.h"

namespace tessera {

std::string tool_call_id(int64_t number) {
  return "call_" + std::to_string(number);
}

namespace {

class HarmonyReply final : public ReplyParser {
 public:
  HarmonyReply(const Tokenizer& tokenizer, HarmonyTokens tokens)
      : tokenizer_(tokenizer), parser_(std::move(tokens), HarmonyRole::kAssistant) {}

  void push(int32_t id, const Emit& emit) override {
    const bool special = tokenizer_.is_special(id);
    handle(parser_.push(id, special ? std::string() : tokenizer_.token_bytes(id)), emit);
    const HarmonyParsed* current = special ? nullptr : parser_.current();
    part_ = current ? reply_part(*current) : std::nullopt;
    if (parser_.current() && reply_part(*parser_.current()) == ReplyPart::kReasoning) ++parts_.reasoning_tokens;
  }

  std::optional<ReplyPart> part() const override { return part_; }

  void finish(const Emit& emit) override {
    handle(parser_.finish(), emit);
    for (const HarmonyParsed& parsed : parser_.messages()) {
      switch (harmony_part(parsed)) {
        case HarmonyPart::kReasoning:
          append(parts_.reasoning, parsed.text());
          break;
        case HarmonyPart::kAnswer:
          append(parts_.answer, parsed.text());
          break;
        case HarmonyPart::kToolCall:
          parts_.tool_calls.push_back(
              {.id = {}, .name = harmony_call_name(parsed.message), .arguments = parsed.text()});
          break;
        case HarmonyPart::kNone:
          break;
      }
    }
  }

 private:
  static void append(std::string& to, const std::string& text) {
    if (!to.empty() && !text.empty()) to += kMessageBreak;
    to += text;
  }

  static std::optional<ReplyPart> reply_part(const HarmonyParsed& parsed) {
    switch (harmony_part(parsed)) {
      case HarmonyPart::kReasoning:
        return ReplyPart::kReasoning;
      case HarmonyPart::kAnswer:
        return ReplyPart::kAnswer;
      case HarmonyPart::kToolCall:
        return ReplyPart::kToolCall;
      case HarmonyPart::kNone:
        break;
    }
    return std::nullopt;
  }

  void handle(const std::vector<HarmonyEvent>& events, const Emit& emit) {
    for (const HarmonyEvent& event : events) {
      const HarmonyParsed& parsed = parser_.messages()[event.message];
      const std::optional<ReplyPart> part = reply_part(parsed);
      if (!part || event.kind == HarmonyEvent::Kind::kEnded) continue;
      const std::string name = *part == ReplyPart::kToolCall ? harmony_call_name(parsed.message) : std::string();
      if (event.kind == HarmonyEvent::Kind::kDelta || *part == ReplyPart::kToolCall)
        emit({*part, event.delta, static_cast<int64_t>(event.message), name});
    }
  }

  const Tokenizer& tokenizer_;
  HarmonyParser parser_;
  std::optional<ReplyPart> part_;
};

// Text with <think>...</think> and <tool_call>{"name": ..., "arguments": ...}</tool_call>, as Qwen3 writes. A tag that
// the tokenizer has a token for is that token: the same characters in other tokens are text.
class TaggedReply final : public ReplyParser {
 public:
  explicit TaggedReply(const Tokenizer& tokenizer) : tokenizer_(tokenizer), decoder_(tokenizer, /*skip_special=*/true) {
    for (size_t i = 0; i < std::size(kTags); ++i) ids_[i] = tokenizer.token_to_id(kTags[i].text).value_or(-1);
  }

  void push(int32_t id, const Emit& emit) override {
    if (const Tag* tag = tag_of(id)) {
      held_ += decoder_.flush();
      drain(emit, true);
      enter(emit, tag->to);
    } else if (std::find(std::begin(ids_), std::end(ids_), id) == std::end(ids_)) {
      held_ += decoder_.push(id);
      drain(emit, false);
    }
    if (part_ == ReplyPart::kReasoning) ++parts_.reasoning_tokens;
  }

  std::optional<ReplyPart> part() const override { return part_; }

  void finish(const Emit& emit) override {
    held_ += decoder_.flush();
    drain(emit, true);
    if (part_ == ReplyPart::kToolCall) close_call(emit);
    trim(parts_.reasoning);
    trim(parts_.answer);
  }

 private:
  struct Tag {
    std::string_view text;
    ReplyPart from, to;
  };
  static constexpr Tag kTags[] = {{"<think>", ReplyPart::kAnswer, ReplyPart::kReasoning},
                                  {"</think>", ReplyPart::kReasoning, ReplyPart::kAnswer},
                                  {"</think>", ReplyPart::kAnswer, ReplyPart::kAnswer},  // the prompt may open it
                                  {"<tool_call>", ReplyPart::kAnswer, ReplyPart::kToolCall},
                                  {"</tool_call>", ReplyPart::kToolCall, ReplyPart::kAnswer}};

  // The tag that a token is where the text stands now.
  const Tag* tag_of(int32_t id) const {
    for (size_t i = 0; i < std::size(kTags); ++i)
      if (ids_[i] == id && kTags[i].from == part_) return &kTags[i];
    return nullptr;
  }

  void enter(const Emit& emit, ReplyPart part) {
    if (part_ == ReplyPart::kToolCall) close_call(emit);
    if (part_ != part) ++message_;
    part_ = part;
  }

  void drain(const Emit& emit, bool last) {
    for (;;) {
      const Tag* next = nullptr;
      size_t at = std::string::npos, keep = 0;
      for (size_t i = 0; i < std::size(kTags); ++i) {
        const Tag& tag = kTags[i];
        if (tag.from != part_ || ids_[i] >= 0) continue;
        size_t found = held_.find(tag.text);
        if (found < at) at = found, next = &tag;
        for (size_t n = std::min(tag.text.size() - 1, held_.size()); n > keep; --n)
          if (std::string_view(held_).ends_with(tag.text.substr(0, n))) keep = n;
      }
      size_t out = next ? at : held_.size() - (last ? 0 : keep);
      give(emit, held_.substr(0, out));
      held_.erase(0, next ? at + next->text.size() : out);
      if (!next) return;
      enter(emit, next->to);
    }
  }

  void give(const Emit& emit, std::string text) {
    std::string& to = part_ == ReplyPart::kReasoning ? parts_.reasoning
                      : part_ == ReplyPart::kAnswer  ? parts_.answer
                                                     : call_;
    if (to.empty()) text.erase(0, text.find_first_not_of("\n\r\t "));  // the newlines that follow a tag
    if (text.empty()) return;
    to += text;
    if (part_ != ReplyPart::kToolCall) emit({part_, text, message_, {}});
  }

  // A call is told when it is whole: its name may come last. What is no call stays in the answer, as it was written.
  void close_call(const Emit& emit) {
    OrderedJson call = OrderedJson::parse(call_, nullptr, /*allow_exceptions=*/false);
    if (call.is_object() && call.contains("name") && call["name"].is_string()) {
      const OrderedJson arguments = call.value("arguments", OrderedJson::object());
      const ToolCall& out = parts_.tool_calls.emplace_back(ToolCall{
          .name = call["name"].get<std::string>(),
          .arguments = arguments.is_string() ? arguments.get<std::string>()
                                             : arguments.dump(-1, ' ', false, OrderedJson::error_handler_t::replace)});
      emit({ReplyPart::kToolCall, {}, message_, out.name});
      if (!out.arguments.empty()) emit({ReplyPart::kToolCall, out.arguments, message_, out.name});
    } else {
      const std::string text = "<tool_call>" + call_ + "</tool_call>";
      parts_.answer += text;
      emit({ReplyPart::kAnswer, text, ++message_, {}});
    }
    call_.clear();
  }

  static void trim(std::string& text) { text.erase(text.find_last_not_of("\n\r\t ") + 1); }

  const Tokenizer& tokenizer_;
  StreamDecoder decoder_;
  int32_t ids_[std::size(kTags)];  // of the tags that are tokens; -1: text
  ReplyPart part_ = ReplyPart::kAnswer;
  int64_t message_ = 0;
  std::string held_;  // may begin a tag
  std::string call_;
};

}  // namespace

std::unique_ptr<ReplyParser> make_reply_parser(const Tokenizer& tokenizer) {
  if (std::optional<HarmonyTokens> tokens = harmony_tokens_of(tokenizer))
    return std::make_unique<HarmonyReply>(tokenizer, std::move(*tokens));
  return std::make_unique<TaggedReply>(tokenizer);
}

}  // namespace tessera

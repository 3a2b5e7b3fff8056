#include "server/messages_format.h"

namespace tessera::server {

namespace {

class MessagesFormatter final : public Formatter {
 public:
  explicit MessagesFormatter(MessagesFormat format) : format_(std::move(format)), id_(random_id("msg_")) {}

  void open(std::string& out) override { event("message_start", {{"message", message()}}, out); }

  void piece(int, AnswerPiece& piece, std::string& out) override {
    if (piece.part == ReplyPart::kReasoning && !format_.thinking) return;
    if (!open_block_ || piece.part != part_ || piece.message != message_ || piece.call_begins) {
      if (piece.text.empty() && !piece.call_begins) return;
      close_block(out);
      begin_block(piece, out);
    }
    if (piece.text.empty()) return;
    text_ += piece.text;
    OrderedJson delta =
        part_ == ReplyPart::kToolCall    ? OrderedJson{{"type", "input_json_delta"}, {"partial_json", piece.text}}
        : part_ == ReplyPart::kReasoning ? OrderedJson{{"type", "thinking_delta"}, {"thinking", piece.text}}
                                         : OrderedJson{{"type", "text_delta"}, {"text", piece.text}};
    event("content_block_delta", {{"index", content_.size()}, {"delta", std::move(delta)}}, out);
  }

  void end(int, const AnswerEnd& end, std::string& out) override {
    close_block(out);
    const RequestResult& r = end.result;
    usage_ = {{"input_tokens", r.prompt_tokens - r.cached_tokens},
              {"cache_creation_input_tokens", 0},
              {"cache_read_input_tokens", r.cached_tokens},
              {"output_tokens", r.completion_tokens}};
    stop_reason_ = end.stop                                ? "stop_sequence"
                   : end.reason == FinishReason::kToolCall ? "tool_use"
                   : end.reason == FinishReason::kLength   ? "max_tokens"
                                                           : "end_turn";
    if (end.stop) stop_sequence_ = *end.stop;
  }

  void close(std::string& out) override {
    event("message_delta",
          {{"delta", {{"stop_reason", stop_reason_}, {"stop_sequence", stop_sequence_}}}, {"usage", usage_}}, out);
    event("message_stop", OrderedJson::object(), out);
  }

  std::string body() override { return dump(message()); }

  void fail(const HttpError& error, std::string& out) override {
    if (format_.stream) out += "event: error\ndata: " + error_json(Dialect::kAnthropic, error) + "\n\n";
  }

 private:
  OrderedJson message() const {
    return {{"id", id_},
            {"type", "message"},
            {"role", "assistant"},
            {"model", format_.model},
            {"content", content_},
            {"stop_reason", stop_reason_},
            {"stop_sequence", stop_sequence_},
            {"usage", usage_}};
  }

  void event(const char* type, OrderedJson fields, std::string& out) const {
    if (!format_.stream) return;
    OrderedJson data = {{"type", type}};
    data.update(fields);
    append_event(out, data, type);
  }

  void begin_block(const AnswerPiece& piece, std::string& out) {
    open_block_ = true;
    part_ = piece.part;
    message_ = piece.message;
    text_.clear();
    switch (part_) {
      case ReplyPart::kToolCall:
        block_ = {
            {"type", "tool_use"}, {"id", random_id("toolu_")}, {"name", piece.name}, {"input", OrderedJson::object()}};
        break;
      case ReplyPart::kReasoning:
        block_ = {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}};
        break;
      case ReplyPart::kAnswer:
        block_ = {{"type", "text"}, {"text", ""}};
        break;
    }
    event("content_block_start", {{"index", content_.size()}, {"content_block", block_}}, out);
  }

  void close_block(std::string& out) {
    if (!open_block_) return;
    open_block_ = false;
    event("content_block_stop", {{"index", content_.size()}}, out);
    if (part_ == ReplyPart::kToolCall) {
      // The shape asks for an object; what the model wrote instead is kept inside one.
      OrderedJson input = OrderedJson::parse(text_, nullptr, /*allow_exceptions=*/false);
      block_["input"] = input.is_object() ? std::move(input) : OrderedJson{{"invalid_json", text_}};
    } else {
      block_[part_ == ReplyPart::kReasoning ? "thinking" : "text"] = text_;
    }
    content_.push_back(std::move(block_));
  }

  const MessagesFormat format_;
  const std::string id_;
  OrderedJson content_ = OrderedJson::array();
  OrderedJson stop_reason_, stop_sequence_;
  OrderedJson usage_ = {{"input_tokens", 0}, {"output_tokens", 0}};

  bool open_block_ = false;  // the block that is being written
  OrderedJson block_;
  ReplyPart part_ = ReplyPart::kAnswer;
  int64_t message_ = -1;
  std::string text_;
};

}  // namespace

std::unique_ptr<Formatter> make_messages_formatter(MessagesFormat format) {
  return std::make_unique<MessagesFormatter>(std::move(format));
}

}  // namespace tessera::server

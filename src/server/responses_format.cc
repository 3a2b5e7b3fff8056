#include "server/responses_format.h"

#include "server/chat_format.h"

namespace tessera::server {

namespace {

class ResponsesFormatter final : public Formatter {
 public:
  explicit ResponsesFormatter(ResponsesFormat format)
      : format_(std::move(format)), id_(random_id("resp_")), created_(std::time(nullptr)) {}

  void open(std::string& out) override {
    if (!format_.stream) return;
    event("response.created", {{"response", response("in_progress")}}, out);
    event("response.in_progress", {{"response", response("in_progress")}}, out);
  }

  void piece(int, AnswerPiece& piece, std::string& out) override {
    if (!open_item_ || piece.part != part_ || piece.message != message_ || piece.call_begins) {
      if (piece.text.empty() && !piece.call_begins) return;
      close_item(out);
      begin_item(piece, out);
    }
    if (piece.text.empty()) return;
    text_ += piece.text;
    OrderedJson delta = place();
    delta["delta"] = piece.text;
    if (part_ == ReplyPart::kToolCall) return event("response.function_call_arguments.delta", std::move(delta), out);
    if (part_ == ReplyPart::kReasoning) return event("response.reasoning_text.delta", std::move(delta), out);
    OrderedJson logprobs = OrderedJson::array();
    if (format_.logprobs)
      for (const TokenLogprob& t : piece.logprobs) logprobs.push_back(logprob_json(*format_.service, t));
    for (const OrderedJson& entry : logprobs) logprobs_.push_back(entry);
    delta["logprobs"] = std::move(logprobs);
    event("response.output_text.delta", std::move(delta), out);
  }

  void end(int, const AnswerEnd& end, std::string& out) override {
    incomplete_ = end.reason == FinishReason::kLength;
    close_item(out);
    const RequestResult& r = end.result;
    usage_ = {{"input_tokens", r.prompt_tokens},
              {"input_tokens_details", {{"cached_tokens", r.cached_tokens}}},
              {"output_tokens", r.completion_tokens},
              {"output_tokens_details", {{"reasoning_tokens", end.reasoning_tokens}}},
              {"total_tokens", r.prompt_tokens + r.completion_tokens}};
  }

  void close(std::string& out) override {
    whole_ = response(incomplete_ ? "incomplete" : "completed");
    if (format_.store) store();
    if (!format_.stream) return;
    event(incomplete_ ? "response.incomplete" : "response.completed", {{"response", whole_}}, out);
  }

  std::string body() override { return dump(whole_); }

  void fail(const HttpError& error, std::string& out) override {
    if (!format_.stream) return;
    OrderedJson failed = response("failed");
    failed["error"] = {{"code", error.code().empty() ? "server_error" : error.code()}, {"message", error.what()}};
    event("response.failed", {{"response", std::move(failed)}}, out);
  }

 private:
  OrderedJson response(const char* status) const {
    OrderedJson out = {{"id", id_},        {"object", "response"}, {"created_at", created_},
                       {"status", status}, {"error", nullptr},     {"incomplete_details", nullptr}};
    if (std::string_view(status) == "incomplete") out["incomplete_details"] = {{"reason", "max_output_tokens"}};
    out.update(format_.request);
    out["output"] = output_;
    out["usage"] = usage_;
    return out;
  }

  void event(const char* type, OrderedJson fields, std::string& out) {
    if (!format_.stream) return;
    OrderedJson data = {{"type", type}, {"sequence_number", sequence_++}};
    data.update(fields);
    append_event(out, data, type);
  }

  // Where an event of the open item belongs.
  OrderedJson place() const {
    OrderedJson out = {{"item_id", item_["id"]}, {"output_index", output_.size()}};
    if (part_ != ReplyPart::kToolCall) out["content_index"] = 0;
    return out;
  }

  OrderedJson content_part(const std::string& text) const {
    if (part_ == ReplyPart::kReasoning) return {{"type", "reasoning_text"}, {"text", text}};
    return {{"type", "output_text"},
            {"text", text},
            {"annotations", OrderedJson::array()},
            {"logprobs", text.empty() ? OrderedJson::array() : logprobs_}};
  }

  void begin_item(const AnswerPiece& piece, std::string& out) {
    open_item_ = true;
    part_ = piece.part;
    message_ = piece.message;
    text_.clear();
    logprobs_ = OrderedJson::array();
    switch (part_) {
      case ReplyPart::kToolCall:
        item_ = {{"id", random_id("fc_")}, {"type", "function_call"},       {"status", "in_progress"},
                 {"name", piece.name},     {"call_id", random_id("call_")}, {"arguments", ""}};
        break;
      case ReplyPart::kReasoning:
        item_ = {{"id", random_id("rs_")},
                 {"type", "reasoning"},
                 {"status", "in_progress"},
                 {"summary", OrderedJson::array()},
                 {"content", OrderedJson::array()}};
        break;
      case ReplyPart::kAnswer:
        item_ = {{"id", random_id("msg_")},
                 {"type", "message"},
                 {"status", "in_progress"},
                 {"role", "assistant"},
                 {"content", OrderedJson::array()}};
        break;
    }
    event("response.output_item.added", {{"output_index", output_.size()}, {"item", item_}}, out);
    if (part_ == ReplyPart::kToolCall) return;
    OrderedJson added = place();
    added["part"] = content_part("");
    event("response.content_part.added", std::move(added), out);
  }

  void close_item(std::string& out) {
    if (!open_item_) return;
    open_item_ = false;
    OrderedJson done = place();
    if (part_ == ReplyPart::kToolCall) {
      item_["arguments"] = text_;
      done["name"] = item_["name"];
      done["arguments"] = text_;
      event("response.function_call_arguments.done", std::move(done), out);
    } else {
      item_["content"].push_back(content_part(text_));
      OrderedJson part = done;
      done["text"] = text_;
      if (part_ == ReplyPart::kAnswer) done["logprobs"] = logprobs_;
      event(part_ == ReplyPart::kReasoning ? "response.reasoning_text.done" : "response.output_text.done",
            std::move(done), out);
      part["part"] = item_["content"][0];
      event("response.content_part.done", std::move(part), out);
    }
    item_["status"] = incomplete_ ? "incomplete" : "completed";
    event("response.output_item.done", {{"output_index", output_.size()}, {"item", item_}}, out);
    output_.push_back(std::move(item_));
  }

  // The conversation goes on with this answer when a later request names its id.
  void store() {
    OrderedJson messages = format_.messages;
    OrderedJson turn = {{"role", "assistant"}, {"content", ""}};
    auto append = [](std::string to, const std::string& text) { return to.empty() ? text : to + "\n\n" + text; };
    for (const OrderedJson& item : output_) {
      if (item["type"] == "function_call") {
        turn["tool_calls"].push_back({{"id", item["call_id"]},
                                      {"type", "function"},
                                      {"function", {{"name", item["name"]}, {"arguments", item["arguments"]}}}});
        continue;
      }
      const char* key = item["type"] == "reasoning" ? "reasoning_content" : "content";
      turn[key] = append(string_or(turn, key, ""), item["content"][0]["text"]);
    }
    messages.push_back(std::move(turn));
    format_.state.responses.put(id_, {dump(messages), dump(whole_)});
  }

  const ResponsesFormat format_;
  const std::string id_;
  const std::time_t created_;
  int64_t sequence_ = 0;
  OrderedJson output_ = OrderedJson::array();
  OrderedJson usage_;
  OrderedJson whole_;
  bool incomplete_ = false;

  bool open_item_ = false;  // the item that is being written
  OrderedJson item_;
  ReplyPart part_ = ReplyPart::kAnswer;
  int64_t message_ = -1;
  std::string text_;
  OrderedJson logprobs_ = OrderedJson::array();
};

}  // namespace

std::unique_ptr<Formatter> make_responses_formatter(ResponsesFormat format) {
  return std::make_unique<ResponsesFormatter>(std::move(format));
}

}  // namespace tessera::server

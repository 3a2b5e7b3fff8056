#include "server/chat_format.h"

#include <algorithm>
#include <cmath>

#include "server/sampling_fields.h"
#include "text/utf8_lossy.h"

namespace tessera::server {

double finite_logprob(float logprob) {
  return std::isfinite(logprob) ? std::max(static_cast<double>(logprob), -9999.0) : -9999.0;  // as vLLM writes it
}

namespace {

OrderedJson token_json(const std::string& bytes, float logprob) {
  OrderedJson array = OrderedJson::array();
  for (char c : bytes) array.push_back(static_cast<unsigned char>(c));
  return {{"token", utf8_lossy(bytes)}, {"logprob", finite_logprob(logprob)}, {"bytes", std::move(array)}};
}

class ChatFormatter final : public Formatter {
 public:
  explicit ChatFormatter(ChatFormat format)
      : format_(std::move(format)),
        id_(random_id("chatcmpl-")),
        created_(std::time(nullptr)),
        choices_(static_cast<size_t>(format_.choices)) {}

  void open(std::string& out) override {
    if (!format_.stream) return;
    for (int k = 0; k < format_.choices; ++k) chunk(k, {{"role", "assistant"}, {"content", ""}}, out);
  }

  void piece(int answer, AnswerPiece& piece, std::string& out) override {
    Choice& choice = choices_[static_cast<size_t>(answer)];
    choice.tokens = piece.tokens;
    if (piece.part == ReplyPart::kToolCall) return call(answer, piece, out);
    const bool reasoning = piece.part == ReplyPart::kReasoning;
    std::string& text = reasoning ? choice.reasoning : choice.content;
    int64_t& message = reasoning ? choice.reasoning_message : choice.content_message;
    if (message >= 0 && message != piece.message && !piece.text.empty()) piece.text.insert(0, kMessageBreak);
    message = piece.message;
    OrderedJson logprobs;
    if (format_.logprobs && !piece.logprobs.empty()) {
      for (const TokenLogprob& t : piece.logprobs) logprobs.push_back(logprob_json(*format_.service, t));
    }
    if (!format_.stream) {
      text += piece.text;
      for (OrderedJson& entry : logprobs) choice.logprobs.push_back(std::move(entry));
      return;
    }
    OrderedJson delta = {{reasoning ? "reasoning_content" : "content", piece.text}};
    if (reasoning) delta["reasoning"] = piece.text;  // the name that other clients look for
    chunk(answer, std::move(delta), out, std::move(logprobs));
  }

  void end(int answer, const AnswerEnd& end, std::string& out) override {
    const RequestResult& r = end.result;
    prompt_ = r.prompt_tokens;
    cached_ = std::max(cached_, r.cached_tokens);
    completion_ += r.completion_tokens;
    reasoning_ += end.reasoning_tokens;
    choices_[static_cast<size_t>(answer)].finish = end.reason;
    choices_[static_cast<size_t>(answer)].tokens = r.completion_tokens;
    if (format_.stream) chunk(answer, OrderedJson::object(), out, {}, finish_reason_name(end.reason));
  }

  void close(std::string& out) override {
    if (!format_.stream) return;
    if (format_.usage.at_end) {
      OrderedJson last = frame("chat.completion.chunk");
      last["choices"] = OrderedJson::array();
      last["usage"] = usage();
      append_event(out, last);
    }
    out += "data: [DONE]\n\n";
  }

  std::string body() override {
    OrderedJson out = frame("chat.completion");
    out["choices"] = OrderedJson::array();
    for (size_t k = 0; k < choices_.size(); ++k) {
      Choice& choice = choices_[k];
      OrderedJson message = {{"role", "assistant"}, {"content", choice.content}, {"refusal", nullptr}};
      if (choice.content.empty() && !choice.calls.empty()) message["content"] = nullptr;
      for (const char* name : {"reasoning_content", "reasoning"})
        if (!choice.reasoning.empty()) message[name] = choice.reasoning;
      if (!choice.calls.empty()) message["tool_calls"] = std::move(choice.calls);
      OrderedJson logprobs;
      if (format_.logprobs) logprobs = {{"content", std::move(choice.logprobs)}, {"refusal", nullptr}};
      out["choices"].push_back({{"index", k},
                                {"message", std::move(message)},
                                {"logprobs", std::move(logprobs)},
                                {"finish_reason", finish_reason_name(choice.finish)}});
    }
    out["usage"] = usage();
    return dump(out);
  }

  void fail(const HttpError& error, std::string& out) override {
    out += "data: " + error_json(Dialect::kOpenAi, error) + "\n\ndata: [DONE]\n\n";
  }

 private:
  struct Choice {
    std::string reasoning, content;
    int64_t reasoning_message = -1, content_message = -1;
    OrderedJson calls = OrderedJson::array();
    int64_t call_count = 0, tokens = 0;
    OrderedJson logprobs = OrderedJson::array();
    FinishReason finish = FinishReason::kStop;
  };

  void call(int answer, AnswerPiece& piece, std::string& out) {
    Choice& choice = choices_[static_cast<size_t>(answer)];
    if (piece.call_begins) {
      OrderedJson call = {
          {"id", random_id("call_")}, {"type", "function"}, {"function", {{"name", piece.name}, {"arguments", ""}}}};
      ++choice.call_count;
      if (!format_.stream) return choice.calls.push_back(std::move(call));
      OrderedJson delta = {{"index", choice.call_count - 1}};
      delta.update(call);
      return chunk(answer, {{"tool_calls", OrderedJson::array({std::move(delta)})}}, out);
    }
    if (!format_.stream) {
      auto& arguments = choice.calls.back()["function"]["arguments"].get_ref<std::string&>();
      arguments += piece.text;
      return;
    }
    OrderedJson delta = {{"index", choice.call_count - 1}, {"function", {{"arguments", piece.text}}}};
    chunk(answer, {{"tool_calls", OrderedJson::array({std::move(delta)})}}, out);
  }

  OrderedJson frame(const char* object) const {
    return {{"id", id_}, {"object", object}, {"created", created_}, {"model", format_.model}};
  }

  void chunk(int answer, OrderedJson delta, std::string& out, OrderedJson logprobs = {},
             const char* finish_reason = nullptr) {
    OrderedJson event = frame("chat.completion.chunk");
    OrderedJson choice = {{"index", answer}, {"delta", std::move(delta)}, {"logprobs", nullptr}};
    if (!logprobs.is_null()) choice["logprobs"] = {{"content", std::move(logprobs)}, {"refusal", nullptr}};
    choice["finish_reason"] = finish_reason ? OrderedJson(finish_reason) : OrderedJson();
    event["choices"] = OrderedJson::array({std::move(choice)});
    if (format_.usage.always) {
      int64_t tokens = 0;
      for (const Choice& c : choices_) tokens += c.tokens;
      event["usage"] = usage_json(format_.prompt_tokens, cached_, tokens, reasoning_);
    } else if (format_.usage.at_end) {
      event["usage"] = nullptr;
    }
    append_event(out, event);
  }

  OrderedJson usage() const { return usage_json(prompt_, cached_, completion_, reasoning_); }

  const ChatFormat format_;
  const std::string id_;
  const std::time_t created_;
  std::vector<Choice> choices_;
  int64_t prompt_ = 0, cached_ = 0, completion_ = 0, reasoning_ = 0;
};

}  // namespace

OrderedJson logprob_json(const Service& service, const TokenLogprob& t) {
  OrderedJson entry = token_json(t.bytes, t.logprob);
  entry["top_logprobs"] = OrderedJson::array();
  for (auto [id, logprob] : t.top) entry["top_logprobs"].push_back(token_json(service.token_bytes(id), logprob));
  return entry;
}

std::unique_ptr<Formatter> make_chat_formatter(ChatFormat format) {
  return std::make_unique<ChatFormatter>(std::move(format));
}

}  // namespace tessera::server

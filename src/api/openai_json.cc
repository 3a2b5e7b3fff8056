#include "api/openai_json.h"

#include <charconv>
#include <limits>

#include "api/llm_impl.h"
#include "api/reply_parser.h"
#include "api/text_stream.h"
#include "core/error.h"

namespace tessera {

namespace {

[[noreturn]] void bad(const char* key, const char* expected) {
  fail(ErrorCode::kInvalidArgument, "'{}': expected {}", key, expected);
}

// The value under `key`, or nullptr when it is absent or null.
const OrderedJson* find(const OrderedJson& body, const char* key) {
  auto it = body.find(key);
  return it == body.end() || it->is_null() ? nullptr : &*it;
}

double number(const OrderedJson& body, const char* key, double otherwise) {
  const OrderedJson* v = find(body, key);
  if (!v) return otherwise;
  if (!v->is_number()) bad(key, "a number");
  return v->get<double>();
}

int64_t integer(const OrderedJson& body, const char* key, int64_t otherwise) {
  const OrderedJson* v = find(body, key);
  if (!v) return otherwise;
  if (!v->is_number_integer() || (v->is_number_unsigned() && v->get<uint64_t>() > INT64_MAX))
    bad(key, "a whole number");
  return v->get<int64_t>();
}

int small_integer(const OrderedJson& body, const char* key, int otherwise) {
  const int64_t v = integer(body, key, otherwise);
  if (v < std::numeric_limits<int>::min() || v > std::numeric_limits<int>::max()) bad(key, "a smaller number");
  return static_cast<int>(v);
}

bool boolean(const OrderedJson& body, const char* key, bool otherwise) {
  const OrderedJson* v = find(body, key);
  if (!v) return otherwise;
  if (!v->is_boolean()) bad(key, "true or false");
  return v->get<bool>();
}

std::string text(const OrderedJson& body, const char* key, const std::string& otherwise) {
  const OrderedJson* v = find(body, key);
  if (!v) return otherwise;
  if (!v->is_string()) bad(key, "a string");
  return v->get<std::string>();
}

std::vector<std::string> texts(const OrderedJson& body, const char* key) {
  const OrderedJson* v = find(body, key);
  if (!v) return {};
  if (v->is_string()) return {v->get<std::string>()};
  if (!v->is_array()) bad(key, "a string or an array of strings");
  std::vector<std::string> out;
  for (const OrderedJson& s : *v) {
    if (!s.is_string()) bad(key, "a string or an array of strings");
    out.push_back(s.get<std::string>());
  }
  return out;
}

std::vector<int32_t> token_ids(const OrderedJson& value, const char* key) {
  std::vector<int32_t> ids;
  for (const OrderedJson& id : value) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) bad(key, "token ids");
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

OrderedJson token_json(Llm& llm, int32_t id, std::string_view bytes, float logprob) {
  OrderedJson array = OrderedJson::array();
  for (char c : bytes) array.push_back(static_cast<unsigned char>(c));
  return {{"token", llm.decode({id}, false)}, {"logprob", logprob}, {"bytes", array}};
}

OrderedJson logprobs_json(Llm& llm, const Generation& generation) {
  OrderedJson content = OrderedJson::array();
  for (const TokenLogprob& t : generation.logprobs) {
    OrderedJson entry = token_json(llm, t.id, t.bytes, t.logprob);
    entry["top_logprobs"] = OrderedJson::array();
    for (auto [id, logprob] : t.top)
      entry["top_logprobs"].push_back(token_json(llm, id, llm.impl().text().token_bytes(id), logprob));
    content.push_back(std::move(entry));
  }
  return {{"content", content}};
}

// A chat's answer, sorted into channels. Stop strings cut the answer.
OrderedJson chat_choice(Llm& llm, const OpenAiRequest& request, const BatchOutput& output, int64_t& reasoning_tokens) {
  std::unique_ptr<ReplyParser> parser = make_reply_parser(llm.impl().text());
  TextStream stop(request.stop);
  std::string answer;
  int64_t last = -1;  // the message that wrote last
  auto emit = [&](const ReplyPiece& piece) {
    if (piece.part != ReplyPart::kAnswer) return;
    if (last >= 0 && last != piece.message) answer += stop.push(kMessageBreak);
    last = piece.message;
    answer += stop.push(piece.text);
  };
  for (int32_t id : output.generation.ids) parser->push(id, emit);
  parser->finish(emit);
  answer += stop.finish();
  const ReplyParser::Parts& parts = parser->parts();
  reasoning_tokens += parts.reasoning_tokens;

  OrderedJson message = {{"role", "assistant"}, {"content", answer}};
  if (!parts.reasoning.empty()) message["reasoning_content"] = parts.reasoning;
  FinishReason reason = output.generation.finish_reason;
  if (stop.stopped()) reason = FinishReason::kStop;
  int64_t calls = 0;
  for (const ToolCall& call : parts.tool_calls) {
    message["tool_calls"].push_back({{"id", tool_call_id(++calls)},
                                     {"type", "function"},
                                     {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  if (calls > 0 && reason == FinishReason::kStop) reason = FinishReason::kToolCall;
  return {{"index", output.sample},
          {"message", message},
          {"logprobs", nullptr},
          {"finish_reason", finish_reason_name(reason)}};
}

}  // namespace

OpenAiReader::OpenAiReader(Llm& llm) : llm_(llm) {}

SamplingParams OpenAiReader::sampling(const OrderedJson& body) const {
  SamplingParams p = llm_.default_sampling();
  p.temperature = number(body, "temperature", p.temperature);
  p.top_p = number(body, "top_p", p.top_p);
  p.min_p = number(body, "min_p", p.min_p);
  p.top_k = small_integer(body, "top_k", p.top_k);
  p.repetition_penalty = number(body, "repetition_penalty", p.repetition_penalty);
  p.frequency_penalty = number(body, "frequency_penalty", p.frequency_penalty);
  p.presence_penalty = number(body, "presence_penalty", p.presence_penalty);
  p.max_tokens = integer(body, "max_completion_tokens", integer(body, "max_tokens", 0));
  p.ignore_eos = boolean(body, "ignore_eos", false);
  if (find(body, "seed")) p.seed = static_cast<uint64_t>(integer(body, "seed", 0));
  if (const OrderedJson* bias = find(body, "logit_bias")) {
    if (!bias->is_object()) bad("logit_bias", "an object from token ids to numbers");
    for (const auto& [key, value] : bias->items()) {
      int32_t id = -1;
      auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size() || !value.is_number())
        bad("logit_bias", "an object from token ids to numbers");
      p.logit_bias[id] = value.get<float>();
    }
  }
  if (const OrderedJson* ids = find(body, "stop_token_ids")) {
    if (!ids->is_array()) bad("stop_token_ids", "an array of token ids");
    p.stop_token_ids = token_ids(*ids, "stop_token_ids");
  }
  return p;
}

OpenAiRequest OpenAiReader::common(const OrderedJson& body) const {
  if (!body.is_object()) fail(ErrorCode::kInvalidArgument, "the body must be a JSON object");
  if (const OrderedJson* format = find(body, "response_format"); format && text(*format, "type", "text") != "text")
    fail(ErrorCode::kUnsupported, "'response_format': only {{\"type\": \"text\"}} can be asked for");
  OpenAiRequest r;
  r.model = text(body, "model", "");
  r.request.params = sampling(body);
  r.request.samples = small_integer(body, "n", 1);
  r.request.priority = small_integer(body, "priority", 0);
  return r;
}

OpenAiRequest OpenAiReader::chat_completion(const OrderedJson& body) {
  OpenAiRequest r = common(body);
  r.chat = true;
  r.stop = texts(body, "stop");
  r.logprobs = boolean(body, "logprobs", false);
  if (r.logprobs) r.request.params.logprobs = small_integer(body, "top_logprobs", 0);
  if (!chat_) chat_.emplace(llm_);
  ChatOptions& options = chat_->options();
  options.tools = find(body, "tools") ? body["tools"].dump() : "";
  options.reasoning_effort = text(body, "reasoning_effort", "medium");
  options.template_kwargs = find(body, "chat_template_kwargs") ? body["chat_template_kwargs"].dump() : "";
  if (!find(body, "messages")) bad("messages", "an array of messages");
  chat_->set_messages(body["messages"].dump());
  r.request.prompt = chat_->prompt_ids();
  return r;
}

OpenAiRequest OpenAiReader::completion(const OrderedJson& body) {
  OpenAiRequest r = common(body);
  r.request.params.stop = texts(body, "stop");
  const OrderedJson* prompt = find(body, "prompt");
  if (prompt && prompt->is_string()) {
    r.request.prompt = llm_.encode(prompt->get<std::string>(), /*parse_special=*/false, /*add_special=*/true);
  } else if (prompt && prompt->is_array() && !prompt->empty() && (*prompt)[0].is_number()) {
    r.request.prompt = token_ids(*prompt, "prompt");
  } else {
    bad("prompt", "a string or an array of token ids");
  }
  if (find(body, "logprobs")) {
    r.logprobs = true;
    r.request.params.logprobs = small_integer(body, "logprobs", 0);
  }
  return r;
}

OrderedJson openai_response(Llm& llm, const OpenAiRequest& request, const std::vector<BatchOutput>& outputs,
                            const std::string& id, int64_t created) {
  OrderedJson choices = OrderedJson::array();
  int64_t completion = 0, reasoning = 0;
  for (const BatchOutput& out : outputs) {
    completion += out.generation.usage.completion_tokens;
    OrderedJson choice = request.chat
                             ? chat_choice(llm, request, out, reasoning)
                             : OrderedJson{{"index", out.sample},
                                           {"text", out.generation.text},
                                           {"logprobs", nullptr},
                                           {"finish_reason", finish_reason_name(out.generation.finish_reason)}};
    if (request.logprobs) choice["logprobs"] = logprobs_json(llm, out.generation);
    choices.push_back(std::move(choice));
  }
  const int64_t prompt = outputs[0].generation.usage.prompt_tokens;
  return {{"id", id},
          {"object", request.chat ? "chat.completion" : "text_completion"},
          {"created", created},
          {"model", request.model},
          {"choices", choices},
          {"usage",
           {{"prompt_tokens", prompt},
            {"completion_tokens", completion},
            {"total_tokens", prompt + completion},
            {"prompt_tokens_details", {{"cached_tokens", outputs[0].cached_tokens}}},
            {"completion_tokens_details", {{"reasoning_tokens", reasoning}}}}}};
}

OrderedJson openai_error(const std::string& message, const char* type) {
  return {{"error", {{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}}}};
}

}  // namespace tessera

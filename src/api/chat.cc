#include "tessera/chat.h"

#include <array>
#include <cstdio>
#include <ctime>

#include "api/chat_prompt.h"
#include "api/llm_impl.h"
#include "api/reply_parser.h"
#include "api/text_stream.h"
#include "core/error.h"
#include "core/json.h"

namespace tessera {

namespace {

[[noreturn]] void bad_message(size_t index, const char* what) {
  fail(ErrorCode::kInvalidArgument, "message {}: {}", index, what);
}

void check_messages(const OrderedJson& messages) {
  if (!messages.is_array()) fail(ErrorCode::kInvalidArgument, "messages must be a JSON array");
  for (size_t i = 0; i < messages.size(); ++i) {
    const OrderedJson& m = messages[i];
    if (!m.is_object() || !m.contains("role") || !m["role"].is_string())
      bad_message(i, "expected an object with a \"role\"");
    const std::string role = m["role"];
    if (role != "system" && role != "developer" && role != "user" && role != "assistant" && role != "tool")
      bad_message(i, "role must be system, developer, user, assistant or tool");
    const bool has_calls = m.contains("tool_calls") && m["tool_calls"].is_array() && !m["tool_calls"].empty();
    const bool has_content = m.contains("content") && m["content"].is_string();
    if (!has_content && !(role == "assistant" && has_calls)) bad_message(i, "\"content\" must be a string");
    if (!has_calls) continue;
    for (const OrderedJson& call : m["tool_calls"]) {
      if (!call.is_object() || !call.contains("function") || !call["function"].is_object() ||
          !call["function"].contains("name") || !call["function"]["name"].is_string())
        bad_message(i, "each tool call needs a \"function\" with a \"name\"");
    }
  }
}

OrderedJson parse_tools(const std::string& text) {
  if (text.empty()) return OrderedJson();
  OrderedJson tools = OrderedJson::parse(text, nullptr, /*allow_exceptions=*/false);
  if (tools.is_object()) tools = OrderedJson::array({tools});
  if (!tools.is_array()) fail(ErrorCode::kInvalidArgument, "tools must be a JSON array of function tools");
  for (const OrderedJson& tool : tools) {
    if (!tool.is_object() || !tool.contains("function") || !tool["function"].is_object() ||
        !tool["function"].contains("name") || !tool["function"]["name"].is_string()) {
      fail(ErrorCode::kInvalidArgument,
           "a tool must look like {{\"type\": \"function\", \"function\": {{\"name\": ..., \"parameters\": ...}}}}");
    }
  }
  return tools;
}

// The caller's date at noon, or the clock.
std::time_t conversation_time(const std::string& date) {
  if (date.empty()) return std::time(nullptr);
  std::tm when{};
  char rest = 0;
  if (std::sscanf(date.c_str(), "%4d-%2d-%2d%c", &when.tm_year, &when.tm_mon, &when.tm_mday, &rest) != 3 ||
      when.tm_mon < 1 || when.tm_mon > 12 || when.tm_mday < 1 || when.tm_mday > 31) {
    fail(ErrorCode::kInvalidArgument, "the date \"{}\" is not of the form YYYY-MM-DD", date);
  }
  when.tm_year -= 1900;
  when.tm_mon -= 1;
  when.tm_hour = 12;
  when.tm_isdst = -1;
  return std::mktime(&when);
}

}  // namespace

struct Chat::Impl {
  Impl(Llm& model, ChatOptions chat_options)
      : llm(model),
        options(std::move(chat_options)),
        prompts(model.impl().checkpoint.folder(), model.impl().text()) {}  // fails early without a tokenizer

  std::vector<ChatSegment> render() const {
    ConversationInput input;
    input.messages = OrderedJson::array();
    if (!options.system.empty()) input.messages.push_back({{"role", "system"}, {"content", options.system}});
    for (const OrderedJson& m : messages) input.messages.push_back(m);
    input.tools = parse_tools(options.tools);
    input.now = conversation_time(options.current_date);
    if (!options.template_kwargs.empty()) {
      input.template_kwargs = OrderedJson::parse(options.template_kwargs, nullptr, /*allow_exceptions=*/false);
      if (!input.template_kwargs.is_object())
        fail(ErrorCode::kInvalidArgument, "template_kwargs must be a JSON object");
    }
    input.reasoning_effort = options.reasoning_effort;
    return prompts.segments(input);
  }

  std::vector<int32_t> prompt_ids() const { return prompts.segment_ids(render()); }

  Reply answer(const ReplyCallback& on_piece);

  Llm& llm;
  ChatOptions options;
  ChatPrompt prompts;
  OrderedJson messages = OrderedJson::array();
  int64_t calls = 0;
};

Reply Chat::Impl::answer(const ReplyCallback& on_piece) {
  const std::vector<int32_t> prompt = prompt_ids();
  SamplingParams params = options.sampling;
  params.validate(llm.vocab_size());
  TextStream stop(std::move(params.stop));  // stop strings end the answer, not the reasoning
  params.stop.clear();
  std::unique_ptr<ReplyParser> parser = make_reply_parser(llm.impl().text());
  bool wanted = true;
  std::string answer;
  auto give = [&](ReplyPart part, std::string_view piece) {
    if (!piece.empty() && on_piece && !on_piece(part, piece)) wanted = false;
  };
  std::array<int64_t, 3> last_message{-1, -1, -1};  // by ReplyPart: what wrote last
  auto emit = [&](const ReplyPiece& piece) {
    auto& last = last_message[static_cast<size_t>(piece.part)];
    const bool another = last >= 0 && last != piece.message;
    last = piece.message;
    const std::string text = (another ? std::string(kMessageBreak) : "") + std::string(piece.text);
    if (piece.part != ReplyPart::kAnswer) return give(piece.part, text);
    std::string certain = stop.push(text);
    answer += certain;
    give(piece.part, certain);
  };
  Reply reply;
  // Cancelling takes effect after the token at hand.
  reply.generation = llm.impl().generate(prompt, params, {}, [&](int32_t id) {
    parser->push(id, emit);
    if (!wanted || stop.stopped()) llm.cancel();
  });
  parser->finish(emit);
  std::string rest = stop.finish();
  answer += rest;
  give(ReplyPart::kAnswer, rest);

  reply.reasoning = parser->parts().reasoning;
  reply.text = std::move(answer);
  reply.tool_calls = parser->parts().tool_calls;
  reply.generation.usage.reasoning_tokens = parser->parts().reasoning_tokens;
  if (stop.stopped()) reply.generation.finish_reason = FinishReason::kStop;
  if (!reply.tool_calls.empty() && reply.generation.finish_reason == FinishReason::kStop)
    reply.generation.finish_reason = FinishReason::kToolCall;

  OrderedJson message = {{"role", "assistant"}, {"content", reply.text}};
  if (!reply.reasoning.empty()) message["reasoning_content"] = reply.reasoning;
  for (ToolCall& call : reply.tool_calls) {
    call.id = tool_call_id(++calls);
    message["tool_calls"].push_back(
        {{"id", call.id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  messages.push_back(std::move(message));
  return reply;
}

Chat::Chat(Llm& llm) : Chat(llm, ChatOptions{.sampling = llm.default_sampling()}) {}
Chat::Chat(Llm& llm, ChatOptions options) : impl_(std::make_unique<Impl>(llm, std::move(options))) {}
Chat::Chat(Chat&&) noexcept = default;
Chat& Chat::operator=(Chat&&) noexcept = default;
Chat::~Chat() = default;

Reply Chat::say(std::string_view user, const ReplyCallback& on_piece) {
  impl_->messages.push_back({{"role", "user"}, {"content", std::string(user)}});
  try {
    return impl_->answer(on_piece);
  } catch (...) {
    impl_->messages.erase(impl_->messages.size() - 1);  // a refused message leaves the conversation as it was
    throw;
  }
}

void Chat::tool_result(const ToolCall& call, std::string_view result) {
  impl_->messages.push_back(
      {{"role", "tool"}, {"name", call.name}, {"tool_call_id", call.id}, {"content", std::string(result)}});
}

Reply Chat::resume(const ReplyCallback& on_piece) {
  return impl_->answer(on_piece);
}

void Chat::reset() {
  impl_->messages = OrderedJson::array();
}

ChatOptions& Chat::options() {
  return impl_->options;
}

std::string Chat::messages_json() const {
  return impl_->messages.dump(2, ' ', false, OrderedJson::error_handler_t::replace);
}

void Chat::set_messages(const std::string& json) {
  OrderedJson messages = OrderedJson::parse(json, nullptr, /*allow_exceptions=*/false);
  if (messages.is_discarded()) fail(ErrorCode::kInvalidArgument, "messages are not valid JSON");
  check_messages(messages);
  impl_->messages = std::move(messages);
}

std::string Chat::prompt() const {
  std::string text;
  for (const ChatSegment& segment : impl_->render()) text += segment.text;
  return text;
}

std::vector<int32_t> Chat::prompt_ids() const {
  return impl_->prompt_ids();
}

}  // namespace tessera

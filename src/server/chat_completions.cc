// POST /v1/chat/completions.
#include "server/chat_format.h"
#include "server/chat_input.h"
#include "server/sampling_fields.h"
#include "server/tables.h"

namespace tessera::server {

namespace {

constexpr Field kChatRows[] = {
    {"messages", kArray, "the conversation", Support::kYes, 0, -1, nullptr, true},
    {"model", kString, "the served model's name"},
    {"max_completion_tokens", kInteger, "tokens of the answer, reasoning included", Support::kYes, 1, 1e9},
    {"max_tokens", kInteger, "older name of max_completion_tokens", Support::kYes, 1, 1e9},
    {"logprobs", kBoolean, "log-probabilities of the content's tokens"},
    {"top_logprobs", kInteger, "and of so many alternatives", Support::kYes, 0, 20},
    {"reasoning_effort", kString, "", Support::kYes, 0, -1, R"(["low", "medium", "high"])"},
    {"tools", kArray, "functions that the model may call"},
    {"tool_choice", kString | kObject, "none, auto, required or a function"},
    {"parallel_tool_calls", kBoolean, "false: at most one call an answer"},
    {"response_format", kObject, "text, json_object or json_schema"},
    {"structured_outputs", kObject, "json, regex or grammar"},
    {"chat_template_kwargs", kObject, "further variables of the chat template"},
    {"store", kBoolean, "can be asked for; use /v1/responses", Support::kOnly, 0, -1, "[false]"},
    {"modalities", kArray, "can be asked for", Support::kOnly, 0, -1, R"([["text"]])"},
    {"verbosity", kString, "can be asked for", Support::kOnly, 0, -1, R"(["medium"])"},
    {"audio", kObject, "this model writes text only", Support::kRefused},
    {"prediction", kObject, "not supported", Support::kRefused},
    {"web_search_options", kObject, "there is no web search", Support::kRefused},
    {"functions", kArray, "use tools", Support::kRefused},
    {"function_call", kString | kObject, "use tool_choice", Support::kRefused},
};
const std::span<const Field> kChatParts[] = {kChatRows, kSamplingFields, kPenaltyFields, kExtensionFields,
                                             kLabelFields};

}  // namespace

const FieldTable kChatTable = kChatParts;

int64_t read_max_tokens(const OrderedJson& body) {
  const int64_t newer = integer_or(body, "max_completion_tokens", 0), older = integer_or(body, "max_tokens", newer);
  if (newer != 0 && older != newer) bad_value("max_tokens", "max_completion_tokens says otherwise; give one of them");
  return older;
}

std::unique_ptr<Job> handle_chat_completions(RouteCall& call) {
  Service& service = *call.service;
  OrderedJson body = parse_body(call.request.body);
  call.request.body = {};
  check_fields(body, kChatTable);
  GenerationPlan plan;
  ChatFormat format{.service = call.service, .model = read_model(call.state, body)};
  plan.stream = format.stream = boolean_or(body, "stream", false);
  format.usage = read_usage_options(body);
  format.logprobs = boolean_or(body, "logprobs", false);
  format.choices = static_cast<int>(integer_or(body, "n", 1));

  Question question;
  question.params = read_sampling(service, body);
  question.params.max_tokens = read_max_tokens(body);
  if (format.logprobs) question.params.logprobs = static_cast<int>(integer_or(body, "top_logprobs", 0));
  if (!format.logprobs && find(body, "top_logprobs")) bad_value("top_logprobs", "needs 'logprobs': true");
  question.rules = {.chat = true, .stop = read_stop(body, "stop")};
  question.samples = format.choices;
  question.priority = static_cast<int>(integer_or(body, "priority", 0));
  question.timeout_seconds = read_timeout(body);

  OrderedJson tools;
  if (body.contains("tools")) tools = read_tools(body["tools"]);
  ReplyShape shape = read_shape(body, std::move(tools));
  ConversationInput input{.messages = read_chat_messages(body["messages"]),
                          .reasoning_effort = string_or(body, "reasoning_effort", "")};
  if (body.contains("chat_template_kwargs")) input.template_kwargs = std::move(body["chat_template_kwargs"]);
  ask_chat(service, question, input, shape);
  format.prompt_tokens = static_cast<int64_t>(question.prompt.size());
  plan.questions.push_back(std::move(question));
  plan.formatter = make_chat_formatter(std::move(format));
  return generate(call, std::move(plan));
}

void ask_chat(Service& service, Question& question, ConversationInput& input, ReplyShape& shape) {
  input.tools = shape.tools.empty() ? OrderedJson() : shape.tools;
  try {
    question.prompt = service.chat_prompt(input);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kInvalidArgument) throw;
    throw HttpError(400, e.what(), "messages", "invalid_value");
  }
  check_context(service, question, "messages");
  question.rules.one_call = !shape.parallel_tool_calls;
  try {
    question.constraint = service.constraint(shape, question.prompt, /*chat=*/true);
  } catch (const Error& e) {
    throw shape_error(e, shape);
  }
}

void check_context(const Service& service, const Question& question, const char* param) {
  const auto prompt = static_cast<int64_t>(question.prompt.size());
  if (prompt >= service.max_context()) {
    throw HttpError(400,
                    fmt::format("This model's maximum context length is {} tokens, and the prompt has {}.",
                                service.max_context(), prompt),
                    param, "context_length_exceeded");
  }
}

}  // namespace tessera::server

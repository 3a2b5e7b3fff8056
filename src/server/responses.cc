// /v1/responses: POST, and GET and DELETE of what is stored.
#include "server/responses_format.h"
#include "server/responses_input.h"
#include "server/sampling_fields.h"
#include "server/tables.h"

namespace tessera::server {

namespace {

constexpr Field kResponseRows[] = {
    {"input", kString | kArray, "text, or items", Support::kYes, 0, -1, nullptr, true},
    {"model", kString, "the served model's name"},
    {"instructions", kString, "of the developer; not carried to the next response"},
    {"previous_response_id", kString, "the conversation to go on with"},
    {"max_output_tokens", kInteger, "tokens of the answer, reasoning included", Support::kYes, 1, 1e9},
    {"reasoning", kObject, "effort: low, medium or high"},
    {"tools", kArray, "functions that the model may call"},
    {"tool_choice", kString | kObject, "none, auto, required or a function"},
    {"parallel_tool_calls", kBoolean, "false: at most one call an answer"},
    {"text", kObject, "format: text, json_object or json_schema"},
    {"top_logprobs", kInteger, "log-probabilities of so many alternatives", Support::kYes, 0, 20},
    {"store", kBoolean, "keep the response for previous_response_id; true when absent"},
    {"include", kArray, "message.output_text.logprobs; reasoning comes in any case"},
    {"truncation", kString, "can be asked for", Support::kOnly, 0, -1, R"(["disabled"])"},
    {"background", kBoolean, "can be asked for", Support::kOnly, 0, -1, "[false]"},
    {"seed", kInteger, "the same seed gives the same answer"},
    {"stream_options", kObject, "include_obfuscation: false"},
    {"max_tool_calls", kInteger, "tools are called by the client", Support::kRefused},
    {"conversation", kString | kObject, "use previous_response_id", Support::kRefused},
    {"prompt", kObject, "there are no stored prompts", Support::kRefused},
};
const std::span<const Field> kResponseParts[] = {kResponseRows, kSamplingFields, kExtensionFields, kLabelFields};
constexpr Field kReasoningRows[] = {
    {"effort", kString, "", Support::kYes, 0, -1, R"(["low", "medium", "high"])"},
    {"summary", kString, "reasoning comes whole", Support::kLabel},
    {"generate_summary", kString, "reasoning comes whole", Support::kLabel},
};
const std::span<const Field> kReasoningParts[] = {kReasoningRows};
constexpr Field kStreamRows[] = {
    {"include_obfuscation", kBoolean, "can be asked for", Support::kOnly, 0, -1, "[false]"},
};

HttpError no_response(const std::string& id, const char* param) {
  return {404, "Response with id '" + id + "' not found.", param, "response_not_found"};
}

bool wants_logprobs(const OrderedJson& body) {
  const OrderedJson* include = find(body, "include");
  bool wants = find(body, "top_logprobs") != nullptr;
  for (size_t i = 0; include && i < include->size(); ++i) {
    const OrderedJson& what = (*include)[i];
    if (what == "message.output_text.logprobs") {
      wants = true;
    } else if (what != "reasoning.encrypted_content") {  // plain reasoning says more
      unsupported(fmt::format("include[{}]", i), "only message.output_text.logprobs can be included");
    }
  }
  return wants;
}

// What a response repeats of its request, as OpenAI's does.
OrderedJson repeated(const OrderedJson& body, const std::string& model, const SamplingParams& params) {
  auto given = [&](const char* key, OrderedJson otherwise) {
    const OrderedJson* v = find(body, key);
    return v ? *v : otherwise;
  };
  return {{"model", model},
          {"instructions", given("instructions", nullptr)},
          {"max_output_tokens", given("max_output_tokens", nullptr)},
          {"metadata", given("metadata", OrderedJson::object())},
          {"parallel_tool_calls", given("parallel_tool_calls", true)},
          {"previous_response_id", given("previous_response_id", nullptr)},
          {"reasoning", given("reasoning", {{"effort", "medium"}, {"summary", nullptr}})},
          {"store", given("store", true)},
          {"temperature", params.temperature},
          {"text", given("text", {{"format", {{"type", "text"}}}})},
          {"tool_choice", given("tool_choice", "auto")},
          {"tools", given("tools", OrderedJson::array())},
          {"top_p", params.top_p},
          {"truncation", "disabled"},
          {"background", false},
          {"service_tier", "default"},
          {"user", given("user", nullptr)}};
}

}  // namespace

const FieldTable kResponsesTable = kResponseParts;

std::unique_ptr<Job> handle_responses(RouteCall& call) {
  Service& service = *call.service;
  OrderedJson body = parse_body(call.request.body);
  call.request.body = {};
  check_fields(body, kResponsesTable);
  const std::string model = read_model(call.state, body);
  GenerationPlan plan;
  plan.stream = boolean_or(body, "stream", false);
  if (auto options = body.find("stream_options"); options != body.end()) {
    if (!plan.stream) bad_value("stream_options", "only allowed when 'stream' is true");
    check_rows(*options, kStreamRows, "stream_options");
  }
  Question question;
  question.params = read_sampling(service, body);
  question.params.max_tokens = integer_or(body, "max_output_tokens", 0);
  const bool logprobs = wants_logprobs(body);
  if (logprobs) question.params.logprobs = static_cast<int>(integer_or(body, "top_logprobs", 0));
  question.rules.chat = true;
  question.priority = static_cast<int>(integer_or(body, "priority", 0));
  question.timeout_seconds = read_timeout(body);

  ConversationInput input;
  if (auto reasoning = body.find("reasoning"); reasoning != body.end()) {
    check_fields(*reasoning, kReasoningParts, "reasoning.");
    input.reasoning_effort = string_or(*reasoning, "effort", "");
  }
  OrderedJson messages = OrderedJson::array();
  if (const OrderedJson* previous = find(body, "previous_response_id")) {
    const std::optional<StoredResponse> stored = call.state.responses.get(*previous);
    if (!stored) throw no_response(*previous, "previous_response_id");
    messages = OrderedJson::parse(stored->messages);
  }
  OrderedJson repeat = repeated(body, model, question.params);
  read_input_items(body["input"], messages);
  messages = read_chat_messages(messages, "input");
  input.messages = messages;
  if (const OrderedJson* instructions = find(body, "instructions"))
    input.messages.insert(input.messages.begin(), OrderedJson{{"role", "system"}, {"content", *instructions}});
  OrderedJson tools;
  if (body.contains("tools")) tools = read_response_tools(body["tools"]);
  ReplyShape shape = read_response_shape(body, std::move(tools));
  ask_chat(service, question, input, shape);
  plan.questions.push_back(std::move(question));
  plan.formatter = make_responses_formatter({.state = call.state,
                                             .service = call.service,
                                             .request = std::move(repeat),
                                             .messages = std::move(messages),
                                             .stream = plan.stream,
                                             .store = boolean_or(body, "store", true),
                                             .logprobs = logprobs});
  return generate(call, std::move(plan));
}

std::unique_ptr<Job> handle_get_response(RouteCall& call) {
  const std::optional<StoredResponse> stored = call.state.responses.get(call.request.argument);
  if (!stored) throw no_response(call.request.argument, "response_id");
  return std::make_unique<ReadyJob>(HttpResponse{.body = stored->response + "\n"});
}

std::unique_ptr<Job> handle_delete_response(RouteCall& call) {
  const std::string& id = call.request.argument;
  if (!call.state.responses.erase(id)) throw no_response(id, "response_id");
  return std::make_unique<ReadyJob>(
      HttpResponse{.body = dump({{"id", id}, {"object", "response"}, {"deleted", true}}) + "\n"});
}

}  // namespace tessera::server

// The routes that answer at once: models, tokens, health, metrics.
#include "server/chat_input.h"
#include "server/openapi.h"
#include "server/page/page.h"
#include "server/sampling_fields.h"
#include "server/tables.h"

namespace tessera::server {

namespace {

constexpr Field kTokenizeRows[] = {
    {"model", kString, "the served model's name"},
    {"prompt", kString, "text; or messages"},
    {"messages", kArray, "a conversation, as for chat completions"},
    {"tools", kArray, "with messages"},
    {"reasoning_effort", kString, "with messages", Support::kYes, 0, -1, R"(["low", "medium", "high"])"},
    {"chat_template_kwargs", kObject, "with messages"},
    {"add_special_tokens", kBoolean, "as the tokenizer opens a text; true when absent"},
    {"return_token_strs", kBoolean, "the tokens as text, too"},
};
constexpr Field kDetokenizeRows[] = {
    {"model", kString, "the served model's name"},
    {"tokens", kArray, "token ids", Support::kYes, 0, -1, nullptr, true},
};
const std::span<const Field> kTokenizeParts[] = {kTokenizeRows}, kDetokenizeParts[] = {kDetokenizeRows};

std::unique_ptr<Job> ready(const OrderedJson& body, int status = 200) {
  return std::make_unique<ReadyJob>(HttpResponse{.status = status, .body = dump(body) + "\n"});
}

OrderedJson model_json(const ServerState& state, const Service& service) {
  return {{"id", state.options.model_name},
          {"object", "model"},
          {"created", state.started},
          {"owned_by", "tessera"},
          {"max_model_len", service.max_context()}};
}

}  // namespace

const FieldTable kTokenizeTable = kTokenizeParts, kDetokenizeTable = kDetokenizeParts;

std::unique_ptr<Job> handle_models(RouteCall& call) {
  return ready({{"object", "list"}, {"data", OrderedJson::array({model_json(call.state, *call.service)})}});
}

std::unique_ptr<Job> handle_model(RouteCall& call) {
  read_model(call.state, {{"model", call.request.argument}});
  return ready(model_json(call.state, *call.service));
}

std::unique_ptr<Job> handle_tokenize(RouteCall& call) {
  Service& service = *call.service;
  OrderedJson body = parse_body(call.request.body);
  check_fields(body, kTokenizeTable);
  read_model(call.state, body);
  const bool chat = body.contains("messages");
  if (chat == body.contains("prompt")) bad_value("prompt", "expected either 'prompt' or 'messages'");
  std::vector<int32_t> ids;
  if (chat) {
    ConversationInput input{.messages = read_chat_messages(body["messages"]),
                            .reasoning_effort = string_or(body, "reasoning_effort", "")};
    if (body.contains("tools")) input.tools = read_tools(body["tools"]);
    if (body.contains("chat_template_kwargs")) input.template_kwargs = body["chat_template_kwargs"];
    ids = service.chat_prompt(input);
  } else {
    ids = service.encode(body["prompt"].get_ref<const std::string&>(), /*parse_special=*/true,
                         boolean_or(body, "add_special_tokens", true));
  }
  OrderedJson out = {{"count", ids.size()}, {"max_model_len", service.max_context()}, {"tokens", ids}};
  if (boolean_or(body, "return_token_strs", false)) {
    for (int32_t id : ids) out["token_strs"].push_back(service.decode({id}));
  }
  return ready(out);
}

std::unique_ptr<Job> handle_detokenize(RouteCall& call) {
  OrderedJson body = parse_body(call.request.body);
  check_fields(body, kDetokenizeTable);
  read_model(call.state, body);
  std::vector<int32_t> ids;
  for (const OrderedJson& id : body["tokens"]) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= call.service->vocab_size())
      bad_value("tokens", fmt::format("expected token ids from 0 to {}", call.service->vocab_size() - 1));
    ids.push_back(id.get<int32_t>());
  }
  return ready({{"prompt", call.service->decode(ids)}});
}

std::unique_ptr<Job> handle_health(RouteCall& call) {
  auto unwell = [](const char* status, const std::string& why) {
    return ready({{"status", status}, {"message", why}}, 503);
  };
  if (!call.service) return unwell("loading", "the model is being loaded");
  if (std::string why = call.service->dead(); !why.empty()) return unwell("dead", why);
  if (call.state.draining) return unwell("draining", "the server is shutting down");
  return ready({{"status", "ok"}});
}

std::unique_ptr<Job> handle_metrics(RouteCall& call) {
  return std::make_unique<ReadyJob>(HttpResponse{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                                                 .body = call.state.metrics.text(call.service.get())});
}

std::unique_ptr<Job> handle_page(RouteCall&) {
  return std::make_unique<ReadyJob>(
      HttpResponse{.content_type = "text/html; charset=utf-8",
                   .body = std::string(chat_page()),
                   .headers = {{"Content-Security-Policy", std::string(chat_page_policy())},
                               {"Referrer-Policy", "no-referrer"},
                               {"X-Frame-Options", "DENY"}}});
}

std::unique_ptr<Job> handle_openapi(RouteCall&) {
  return ready(openapi_description());
}

}  // namespace tessera::server

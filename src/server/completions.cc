// POST /v1/completions: text after text, without a chat format.
#include <algorithm>
#include <ctime>

#include "server/chat_format.h"
#include "server/chat_input.h"
#include "server/sampling_fields.h"
#include "server/tables.h"
#include "text/utf8_lossy.h"

namespace tessera::server {

namespace {

constexpr size_t kMaxPrompts = 128;
constexpr int kMaxAnswers = 1024;

constexpr Field kCompletionRows[] = {
    {"prompt", kString | kArray, "text, token ids, or an array of either", Support::kYes, 0, -1, nullptr, true},
    {"model", kString, "the served model's name"},
    {"max_tokens", kInteger, "tokens of the answer; 16 when absent", Support::kYes, 1, 1e9},
    {"logprobs", kInteger, "log-probabilities of the tokens, and so many alternatives", Support::kYes, 0, 20},
    {"response_format", kObject, "text, json_object or json_schema"},
    {"structured_outputs", kObject, "json, regex or grammar"},
    {"echo", kBoolean, "can be asked for", Support::kOnly, 0, -1, "[false]"},
    {"best_of", kInteger, "can be asked for; use n", Support::kOnly, 0, -1, "[1]"},
    {"suffix", kString, "not supported", Support::kRefused},
};
const std::span<const Field> kCompletionParts[] = {kCompletionRows, kSamplingFields, kPenaltyFields, kExtensionFields,
                                                   kLabelFields};

struct TextFormat {
  std::shared_ptr<Service> service;
  std::string model;
  int choices = 1;
  int samples = 1;  // of each prompt
  bool stream = false, logprobs = false;
  UsageOptions usage;
  int64_t prompt_tokens = 0;
};

// The older shape of log-probabilities: parallel arrays.
struct LogprobArrays {
  OrderedJson tokens = OrderedJson::array(), logprobs = OrderedJson::array(), top = OrderedJson::array(),
              offsets = OrderedJson::array();

  void add(const Service& service, const TokenLogprob& t, int64_t& offset) {
    const std::string token = utf8_lossy(t.bytes);
    tokens.push_back(token);
    logprobs.push_back(finite_logprob(t.logprob));
    OrderedJson best = OrderedJson::object();
    for (auto [id, logprob] : t.top) best[utf8_lossy(service.token_bytes(id))] = finite_logprob(logprob);
    top.push_back(t.top.empty() ? OrderedJson() : std::move(best));
    offsets.push_back(offset);
    offset += static_cast<int64_t>(token.size());
  }
  OrderedJson json() {
    return {{"tokens", std::move(tokens)},
            {"token_logprobs", std::move(logprobs)},
            {"top_logprobs", std::move(top)},
            {"text_offset", std::move(offsets)}};
  }
};

class TextFormatter final : public Formatter {
 public:
  explicit TextFormatter(TextFormat format)
      : format_(std::move(format)),
        id_(random_id("cmpl-")),
        created_(std::time(nullptr)),
        choices_(static_cast<size_t>(format_.choices)) {}

  void open(std::string&) override {}

  void piece(int answer, AnswerPiece& piece, std::string& out) override {
    Choice& choice = choices_[static_cast<size_t>(answer)];
    choice.tokens = piece.tokens;
    if (!format_.stream) {
      choice.text += piece.text;
      if (format_.logprobs)
        for (const TokenLogprob& t : piece.logprobs) choice.logprobs.add(*format_.service, t, choice.offset);
      return;
    }
    OrderedJson logprobs;
    if (format_.logprobs && !piece.logprobs.empty()) {
      LogprobArrays arrays;
      for (const TokenLogprob& t : piece.logprobs) arrays.add(*format_.service, t, choice.offset);
      logprobs = arrays.json();
    }
    event(answer, piece.text, std::move(logprobs), nullptr, out);
  }

  void end(int answer, const AnswerEnd& end, std::string& out) override {
    const RequestResult& r = end.result;
    if (answer % format_.samples == 0) {
      prompt_ += r.prompt_tokens;
      cached_ += r.cached_tokens;
    }
    completion_ += r.completion_tokens;
    choices_[static_cast<size_t>(answer)].finish = end.reason;
    choices_[static_cast<size_t>(answer)].tokens = r.completion_tokens;
    if (format_.stream) event(answer, "", {}, finish_reason_name(end.reason), out);
  }

  void close(std::string& out) override {
    if (!format_.stream) return;
    if (format_.usage.at_end) {
      OrderedJson last = frame();
      last["choices"] = OrderedJson::array();
      last["usage"] = usage_json(prompt_, cached_, completion_, 0);
      append_event(out, last);
    }
    out += "data: [DONE]\n\n";
  }

  std::string body() override {
    OrderedJson out = frame();
    out["choices"] = OrderedJson::array();
    for (size_t k = 0; k < choices_.size(); ++k) {
      Choice& choice = choices_[k];
      out["choices"].push_back({{"index", k},
                                {"text", std::move(choice.text)},
                                {"logprobs", format_.logprobs ? choice.logprobs.json() : OrderedJson()},
                                {"finish_reason", finish_reason_name(choice.finish)}});
    }
    out["usage"] = usage_json(prompt_, cached_, completion_, 0);
    return dump(out);
  }

  void fail(const HttpError& error, std::string& out) override {
    out += "data: " + error_json(Dialect::kOpenAi, error) + "\n\ndata: [DONE]\n\n";
  }

 private:
  struct Choice {
    std::string text;
    LogprobArrays logprobs;
    int64_t offset = 0, tokens = 0;
    FinishReason finish = FinishReason::kStop;
  };

  OrderedJson frame() const {
    return {{"id", id_}, {"object", "text_completion"}, {"created", created_}, {"model", format_.model}};
  }

  void event(int answer, const std::string& text, OrderedJson logprobs, const char* finish, std::string& out) {
    OrderedJson e = frame();
    e["choices"] = OrderedJson::array({{{"index", answer},
                                        {"text", text},
                                        {"logprobs", std::move(logprobs)},
                                        {"finish_reason", finish ? OrderedJson(finish) : OrderedJson()}}});
    if (format_.usage.always) {
      int64_t tokens = 0;
      for (const Choice& c : choices_) tokens += c.tokens;
      e["usage"] = usage_json(format_.prompt_tokens, cached_, tokens, 0);
    } else if (format_.usage.at_end) {
      e["usage"] = nullptr;
    }
    append_event(out, e);
  }

  const TextFormat format_;
  const std::string id_;
  const std::time_t created_;
  std::vector<Choice> choices_;
  int64_t prompt_ = 0, cached_ = 0, completion_ = 0;
};

std::vector<int32_t> read_ids(const Service& service, const OrderedJson& ids, const std::string& param) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (const OrderedJson& id : ids) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= service.vocab_size())
      bad_value(param, fmt::format("expected token ids from 0 to {}", service.vocab_size() - 1));
    out.push_back(id.get<int32_t>());
  }
  return out;
}

std::vector<int32_t> read_prompt(const Service& service, const OrderedJson& prompt, const std::string& param) {
  std::vector<int32_t> ids;
  if (prompt.is_string()) {
    ids = service.encode(prompt.get_ref<const std::string&>(), /*parse_special=*/true, /*add_special=*/true);
  } else if (prompt.is_array()) {
    ids = read_ids(service, prompt, param);
  } else {
    bad_type(param, kString | kArray, prompt);
  }
  if (ids.empty()) bad_value(param, "the prompt is empty");
  return ids;
}

}  // namespace

const FieldTable kCompletionTable = kCompletionParts;

std::unique_ptr<Job> handle_completions(RouteCall& call) {
  Service& service = *call.service;
  OrderedJson body = parse_body(call.request.body);
  call.request.body = {};
  check_fields(body, kCompletionTable);
  GenerationPlan plan;
  TextFormat format{.service = call.service, .model = read_model(call.state, body)};
  plan.stream = format.stream = boolean_or(body, "stream", false);
  format.usage = read_usage_options(body);
  format.logprobs = find(body, "logprobs") != nullptr;
  format.samples = static_cast<int>(integer_or(body, "n", 1));

  Question question;
  question.params = read_sampling(service, body);
  question.params.max_tokens = integer_or(body, "max_tokens", 16);
  question.params.logprobs = static_cast<int>(integer_or(body, "logprobs", -1));
  question.rules.stop = read_stop(body, "stop");
  question.samples = format.samples;
  question.priority = static_cast<int>(integer_or(body, "priority", 0));
  question.timeout_seconds = read_timeout(body);

  const OrderedJson& prompt = body["prompt"];
  const bool several = prompt.is_array() && !prompt.empty() && (prompt[0].is_string() || prompt[0].is_array());
  const size_t prompts = several ? prompt.size() : 1;
  if (prompts > kMaxPrompts) bad_value("prompt", fmt::format("expected at most {} prompts", kMaxPrompts));
  format.choices = static_cast<int>(prompts) * format.samples;
  if (format.choices > kMaxAnswers) bad_value("n", fmt::format("at most {} answers can be asked for", kMaxAnswers));
  const ReplyShape shape = read_shape(body, OrderedJson());
  for (size_t i = 0; i < prompts; ++i) {
    Question one = question;
    const std::string param = several ? fmt::format("prompt[{}]", i) : "prompt";
    one.prompt = read_prompt(service, several ? prompt[i] : prompt, param);
    one.first_answer = static_cast<int>(i) * format.samples;
    check_context(service, one, param.c_str());
    format.prompt_tokens += static_cast<int64_t>(one.prompt.size());
    try {
      one.constraint = service.constraint(shape, one.prompt, /*chat=*/false);
    } catch (const Error& e) {
      throw shape_error(e, shape);
    }
    plan.questions.push_back(std::move(one));
  }
  plan.formatter = std::make_unique<TextFormatter>(std::move(format));
  return generate(call, std::move(plan));
}

}  // namespace tessera::server

#include "api/service.h"

#include <algorithm>

#include "core/error.h"

namespace tessera {

namespace {

// The engine's view of one question: lives as long as its callbacks.
struct Asked {
  struct Answer {
    AnswerStream stream;
    double last_token = 0;
    int64_t tokens = 0;
  };

  const Engine& engine;
  ServiceObserver* observer;
  std::shared_ptr<AnswerQueue> queue;
  int first_answer;
  std::vector<Answer> answers;
  std::vector<AnswerPiece> pieces;

  bool on_token(int sample, int32_t id, const TokenLogprob* logprob) {
    Answer& answer = answers[static_cast<size_t>(sample)];
    const double now = engine.now();
    if (observer && answer.last_token > 0) observer->on_next_token(now - answer.last_token);
    answer.last_token = now;
    const bool wanted = answer.stream.push(id, logprob, pieces);
    ++answer.tokens;
    for (AnswerPiece& piece : pieces) piece.tokens = answer.tokens;
    return queue->push(first_answer + sample, pieces) && wanted;
  }

  void on_end(int sample, const RequestResult& result) {
    AnswerEnd end = answers[static_cast<size_t>(sample)].stream.finish(result, pieces);
    for (AnswerPiece& piece : pieces) piece.tokens = answers[static_cast<size_t>(sample)].tokens;
    if (observer) {
      if (result.completion_tokens > 0 && sample == 0)
        observer->on_first_token(result.first_token - result.created, result.started - result.created);
      observer->on_end(end);
    }
    queue->push(first_answer + sample, pieces);
    pieces.clear();
    queue->end(first_answer + sample, std::move(end));
  }
};

}  // namespace

Service::Service(Llm& llm, const BatchOptions& options, ServiceObserver* observer)
    : llm_(llm),
      observer_(observer),
      default_sampling_(llm.default_sampling()),
      constraints_(llm.impl().text(), llm.impl().eos_ids, llm.vocab_size()),
      machine_(llm.impl(), options) {
  try {
    prompts_ = std::make_unique<ChatPrompt>(llm.impl().checkpoint.folder(), llm.impl().text());
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kNotFound || !llm.impl().tokenizer) throw;
    no_chat_ = e.what();
  }
  machine_.runner.warm_up();
  machine_.engine.start();
}

Service::~Service() {
  if (llm_.impl().team) llm_.impl().team->on_loss(this, nullptr);
  machine_.engine.stop();
}

Submission Service::ask(Question question, std::shared_ptr<AnswerQueue> queue) {
  question.params.validate(vocab_size());
  question.params.stop.clear();
  const int samples = std::clamp(question.samples, 0, 128);  // the engine refuses others
  auto asked =
      std::make_shared<Asked>(Asked{machine_.engine, observer_, std::move(queue), question.first_answer, {}, {}});
  for (int k = 0; k < samples; ++k) asked->answers.push_back({AnswerStream(llm_.impl().text(), question.rules)});
  return machine_.engine.submit(
      {.prompt = std::move(question.prompt),
       .params = std::move(question.params),
       .eos_ids = llm_.impl().eos_ids,
       .samples = question.samples,
       .priority = question.priority,
       .timeout_seconds = question.timeout_seconds,
       .constraint = std::move(question.constraint),
       .on_token = [asked](int k, int32_t id, const TokenLogprob* logprob) { return asked->on_token(k, id, logprob); },
       .on_end = [asked](int k, const RequestResult& result) { asked->on_end(k, result); }});
}

void Service::on_death(const std::function<void(const std::string&)>& told) {
  machine_.engine.on_death(told);
  if (llm_.impl().team) llm_.impl().team->on_loss(this, told);
}

std::string Service::dead() const {
  std::string why = machine_.engine.dead();
  const std::unique_ptr<RankTeam>& team = llm_.impl().team;
  return why.empty() && team ? team->lost() : why;
}

std::vector<int32_t> Service::chat_prompt(const ConversationInput& input) const {
  if (!prompts_) fail(ErrorCode::kUnsupported, "this model does not chat: {}", no_chat_);
  return prompts_->ids(input);
}

std::shared_ptr<const TokenConstraint> Service::constraint(const ReplyShape& shape, const std::vector<int32_t>& prompt,
                                                           bool chat) {
  constexpr size_t kPromptEnd = 64;  // tokens: more than any header that a prompt may leave open
  if (!chat) return constraints_.completion(shape);
  const std::vector<int32_t> end(prompt.end() - static_cast<long>(std::min(prompt.size(), kPromptEnd)), prompt.end());
  return constraints_.chat(shape, decode(end));
}

std::vector<int32_t> Service::encode(std::string_view text, bool parse_special, bool add_special) const {
  return llm_.encode(text, parse_special, add_special);
}

}  // namespace tessera

// A loaded model that answers many requests at once: the engine on its own thread, and text on both of its sides. What
// a server talks to. All functions are thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/answer_queue.h"
#include "api/batch_engine.h"
#include "api/chat_prompt.h"
#include "api/reply_constraint.h"

namespace tessera {

// Told on the engine's thread, so it must be quick. Times are seconds.
class ServiceObserver {
 public:
  virtual ~ServiceObserver() = default;
  virtual void on_first_token(double since_submission, double queued) = 0;
  virtual void on_next_token(double since_last) = 0;
  virtual void on_end(const AnswerEnd& end) = 0;
};

struct Question {
  std::vector<int32_t> prompt;
  SamplingParams params;  // its stop strings are rules.stop
  AnswerRules rules;
  std::shared_ptr<const TokenConstraint> constraint;  // null: none
  int samples = 1;
  int first_answer = 0;  // the number of sample 0 in the queue
  int priority = 0;
  double timeout_seconds = 0;
};

class Service {
 public:
  // The Llm must outlive the service, and so must the observer, which may be null. Throws kInvalidArgument and
  // kOutOfMemory; kNotFound without a tokenizer.
  Service(Llm& llm, const BatchOptions& options, ServiceObserver* observer);
  // Ends what runs as cancelled.
  virtual ~Service();
  Service(const Service&) = delete;

  // Pieces and ends go to `queue`, until it is closed. Throws kInvalidArgument for impossible parameters, kIo when the
  // engine is dead. Virtual so that a test can decide what the model says.
  virtual Submission ask(Question question, std::shared_ptr<AnswerQueue> queue);
  // The pages are free when the step at hand has ended. An unknown or ended id is ignored.
  virtual void cancel(int64_t id) { machine_.engine.cancel(id); }

  // Throws kUnsupported when the model has no chat template, kInvalidArgument for messages that it refuses.
  std::vector<int32_t> chat_prompt(const ConversationInput& input) const;
  std::vector<int32_t> encode(std::string_view text, bool parse_special, bool add_special) const;
  // What an answer of that shape, after `prompt`, is held to; null: nothing. Throws kInvalidArgument and kUnsupported
  // with a message that begins with the request's field.
  std::shared_ptr<const TokenConstraint> constraint(const ReplyShape& shape, const std::vector<int32_t>& prompt,
                                                    bool chat);
  std::string decode(const std::vector<int32_t>& ids) const { return llm_.decode(ids, /*skip_special=*/false); }
  std::string token_bytes(int32_t id) const { return llm_.impl().text().token_bytes(id); }

  EngineStats stats() const { return machine_.engine.stats(); }
  // Why no request can be answered any more: a fault of the device, a rank that was lost. Empty: none.
  std::string dead() const;
  // `told` is called, once or more, from any thread, when that begins; at once when it has. Not after the service's
  // end.
  void on_death(const std::function<void(const std::string& why)>& told);
  const SamplingParams& default_sampling() const { return default_sampling_; }
  int64_t vocab_size() const { return llm_.vocab_size(); }
  int64_t max_context() const { return machine_.runner.options().max_context; }
  int64_t cache_bytes() const { return machine_.runner.memory().cache_bytes; }
  // As Llm::describe_kernels().
  std::string describe_kernels() const { return llm_.describe_kernels(); }

 private:
  Llm& llm_;
  ServiceObserver* observer_;
  SamplingParams default_sampling_;
  std::unique_ptr<ChatPrompt> prompts_;  // null: the model has no chat template
  std::string no_chat_;                  // why
  ReplyConstraints constraints_;
  BatchEngine machine_;
};

}  // namespace tessera

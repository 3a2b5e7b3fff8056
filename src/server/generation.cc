#include "server/generation.h"

#include <algorithm>
#include <cmath>

namespace tessera::server {

namespace {

constexpr size_t kWriteBytes = 64 << 10;  // of events in one write

class GenerationJob final : public Job {
 public:
  GenerationJob(std::shared_ptr<Service> service, std::shared_ptr<AnswerQueue> queue, GenerationPlan plan)
      : service_(std::move(service)), queue_(std::move(queue)), plan_(std::move(plan)) {
    for (const Question& question : plan_.questions) open_ += question.samples;
  }

  ~GenerationJob() override {
    queue_->close();
    if (open_ == 0 && !failed_) return;
    for (int64_t id : ids_) service_->cancel(id);
  }

  void ask() {
    for (Question& question : plan_.questions) {
      Submission submission = service_->ask(std::move(question), queue_);
      if (submission.status == Submitted::kAccepted) {
        ids_.push_back(submission.id);
        continue;
      }
      failed_ = true;  // those before it are cancelled
      HttpError error(429, "the queue is full; try again later", {}, "queue_full");
      error.retry_after = retry_after(service_->stats());
      throw error;
    }
    plan_.questions.clear();
  }

  void pump(Exchange& exchange) override {
    if (exchange.busy()) return;
    if (!opened_) {
      opened_ = true;
      plan_.formatter->open(out_);
      if (plan_.stream) exchange.begin_stream("text/event-stream; charset=utf-8");
    }
    while (!done_ && (!plan_.stream || out_.size() < kWriteBytes)) {
      if (at_ == events_.size()) {
        events_ = queue_->take();
        at_ = 0;
        if (events_.empty()) break;
      }
      handle(events_[at_++]);
      if (!plan_.stream) out_.clear();
    }
    if (!plan_.stream) {
      if (done_) exchange.respond(failed_ ? error_response(plan_.dialect, *error_) : whole());
      return;
    }
    if (!out_.empty()) return exchange.write(std::exchange(out_, {}));
    if (done_) exchange.finish_stream();
  }

 private:
  // Waiting requests, at the pace at which requests have been answered.
  static int retry_after(const EngineStats& stats) {
    if (stats.finished == 0 || stats.time <= 0) return 1;
    const double pace = static_cast<double>(stats.finished) / stats.time;
    return static_cast<int>(std::clamp(std::ceil(static_cast<double>(stats.waiting) / pace), 1.0, 60.0));
  }

  void handle(AnswerEvent& event) {
    if (!event.end) return plan_.formatter->piece(event.answer, event.piece, out_);
    --open_;
    if (event.end->result.failed || event.end->reason == FinishReason::kCancelled) {
      failed_ = done_ = true;
      error_.emplace(answer_error(*event.end));
      plan_.formatter->fail(*error_, out_);
      return;
    }
    plan_.formatter->end(event.answer, *event.end, out_);
    if (open_ > 0) return;
    plan_.formatter->close(out_);
    done_ = true;
  }

  HttpResponse whole() { return {.body = plan_.formatter->body() + "\n"}; }

  std::shared_ptr<Service> service_;
  std::shared_ptr<AnswerQueue> queue_;
  GenerationPlan plan_;
  std::vector<int64_t> ids_;
  std::vector<AnswerEvent> events_;
  size_t at_ = 0;  // the next of them
  int open_ = 0;   // answers that have not ended
  bool opened_ = false, done_ = false, failed_ = false;
  std::optional<HttpError> error_;
  std::string out_;
};

}  // namespace

std::unique_ptr<Job> generate(RouteCall& call, GenerationPlan plan) {
  const ServerOptions& options = call.state.options;
  for (Question& question : plan.questions)
    question.timeout_seconds = question.timeout_seconds > 0
                                   ? std::min(question.timeout_seconds, options.request_seconds)
                                   : options.request_seconds;
  auto queue = std::make_shared<AnswerQueue>(static_cast<size_t>(options.max_pending_bytes), std::move(call.wake));
  auto job = std::make_unique<GenerationJob>(call.service, std::move(queue), std::move(plan));
  job->ask();
  return job;
}

HttpError answer_error(const AnswerEnd& end) {
  if (!end.result.failed) return {503, "the server is shutting down", {}, "shutting_down"};
  return to_http_error(Error(end.result.error_code, end.result.error));
}

void append_event(std::string& out, const OrderedJson& data, std::string_view event) {
  if (!event.empty()) out.append("event: ").append(event).append("\n");
  out.append("data: ").append(dump(data)).append("\n\n");
}

}  // namespace tessera::server

// Answers of the engine on their way to a client: a job that takes what the engine has made and gives it to a
// formatter, which knows one API's shapes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/exchange.h"
#include "server/routes.h"

namespace tessera::server {

// One API's shape of a response, streamed or whole. Used by one thread. Functions append server-sent events to `out`;
// where the response is not streamed, `out` is dropped and body() tells it at the end.
class Formatter {
 public:
  virtual ~Formatter() = default;
  virtual void open(std::string& out) = 0;
  virtual void piece(int answer, AnswerPiece& piece, std::string& out) = 0;
  virtual void end(int answer, const AnswerEnd& end, std::string& out) = 0;
  // All answers have ended.
  virtual void close(std::string& out) = 0;
  virtual std::string body() = 0;
  // In place of what would have followed.
  virtual void fail(const HttpError& error, std::string& out) = 0;
};

struct GenerationPlan {
  std::vector<Question> questions;  // one a prompt
  bool stream = false;
  Dialect dialect = Dialect::kOpenAi;
  std::unique_ptr<Formatter> formatter;
};

// Asks the engine. Throws HttpError 429 with Retry-After when its queue is full, and what Service::ask throws.
std::unique_ptr<Job> generate(RouteCall& call, GenerationPlan plan);

// What an answer that ended without success is for its client.
HttpError answer_error(const AnswerEnd& end);

// "data: JSON\n\n", with an event's name where there is one.
void append_event(std::string& out, const OrderedJson& data, std::string_view event = {});

}  // namespace tessera::server

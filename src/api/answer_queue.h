// Carries answers from the engine's thread to whoever writes them out, so that neither waits for the other: the engine
// appends, the writer takes all there is whenever it can write. What piles up meanwhile is merged, and bounded. All
// functions are thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "api/answer_stream.h"

namespace tessera {

struct AnswerEvent {
  int answer = 0;  // which of the request's answers
  AnswerPiece piece;
  std::unique_ptr<AnswerEnd> end;  // set: the last of that answer, and there is no piece
};

class AnswerQueue {
 public:
  // `wake` is called, from the appending thread, when there is something to take and was nothing before; it must
  // return at once. More than max_bytes waiting ends the answers with an error.
  AnswerQueue(size_t max_bytes, std::function<void()> wake) : max_bytes_(max_bytes), wake_(std::move(wake)) {}

  // False: it is read too slowly.
  bool push(int answer, std::vector<AnswerPiece>& pieces);
  void end(int answer, AnswerEnd end);
  std::vector<AnswerEvent> take();
  // The reader has gone: what comes is dropped.
  void close();

 private:
  void append(int answer, AnswerPiece& piece);

  const size_t max_bytes_;
  const std::function<void()> wake_;
  std::mutex mutex_;
  std::vector<AnswerEvent> events_;
  size_t bytes_ = 0;
  bool closed_ = false, overflown_ = false;
};

}  // namespace tessera

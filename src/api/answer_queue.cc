#include "api/answer_queue.h"

#include <iterator>
#include <utility>

namespace tessera {

namespace {

size_t size_of(const AnswerPiece& piece) {
  size_t bytes = piece.text.size() + piece.name.size();
  for (const TokenLogprob& t : piece.logprobs) bytes += sizeof(t) + t.bytes.size() + t.top.size() * sizeof(t.top[0]);
  return bytes;
}

}  // namespace

void AnswerQueue::append(int answer, AnswerPiece& piece) {
  bytes_ += size_of(piece);
  if (!events_.empty() && events_.back().answer == answer && !piece.call_begins) {
    AnswerPiece& last = events_.back().piece;
    if (!events_.back().end && last.part == piece.part && last.message == piece.message && !last.call_begins) {
      last.text += piece.text;
      last.tokens = piece.tokens;
      last.logprobs.insert(last.logprobs.end(), std::make_move_iterator(piece.logprobs.begin()),
                           std::make_move_iterator(piece.logprobs.end()));
      return;
    }
  }
  bytes_ += sizeof(AnswerEvent);
  events_.push_back({answer, std::move(piece), nullptr});
}

bool AnswerQueue::push(int answer, std::vector<AnswerPiece>& pieces) {
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    if (overflown_) return false;
    if (closed_) {
      pieces.clear();
      return true;  // whoever closed it cancels the request
    }
    wake = events_.empty() && !pieces.empty();
    for (AnswerPiece& piece : pieces) append(answer, piece);
    if (bytes_ > max_bytes_) overflown_ = true;
  }
  pieces.clear();
  if (wake) wake_();
  return true;
}

void AnswerQueue::end(int answer, AnswerEnd end) {
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    if (overflown_ && !end.result.failed) {
      end.result.failed = true;
      end.result.error_code = ErrorCode::kCancelled;
      end.result.error = "the answer was read too slowly";
    }
    wake = events_.empty();
    events_.push_back({answer, {}, std::make_unique<AnswerEnd>(std::move(end))});
  }
  if (wake) wake_();
}

std::vector<AnswerEvent> AnswerQueue::take() {
  std::lock_guard lock(mutex_);
  bytes_ = 0;
  return std::exchange(events_, {});
}

void AnswerQueue::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  events_.clear();
}

}  // namespace tessera

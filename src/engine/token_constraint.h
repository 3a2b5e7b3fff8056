// What restricts the next token of a sample: a grammar, a schema, a reply's channels. The engine knows only this face.
// One object belongs to one sample and is used by one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace tessera {

class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  // Which tokens may come next. mask: ceil(V / 32) words, token id at bit id % 32 of word id / 32. All words are
  // written. False, and the mask is unspecified: every token may come. A mask without a bit: the sample cannot go on.
  // Throws kUnsupported when the grammar turns out too ambiguous to follow.
  virtual bool fill_mask(std::span<uint32_t> mask) = 0;
  // The token was chosen. False, and nothing has changed: it was not allowed.
  virtual bool accept(int32_t id) = 0;
  // Takes the last `tokens` accepted tokens back. REQUIRES tokens <= max_rollback() and as many accepted.
  virtual void rollback(int64_t tokens) = 0;
  virtual int64_t max_rollback() const = 0;
  // Nothing may follow: the last token that was accepted ended the answer.
  virtual bool ended() const = 0;
  // An independent constraint in the same state.
  virtual std::unique_ptr<TokenConstraint> clone() const = 0;
};

}  // namespace tessera

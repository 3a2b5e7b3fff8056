// Standard output whose failures are noticed: a reader that went away (EPIPE) ends the command quietly, a full disk
// ends it with a message. Used by one thread.
#pragma once

#include <string_view>

#include "core/json.h"

namespace tessera::cli {

// Thrown by Output when the reader has closed the pipe.
struct PipeClosed {};

class Output {
 public:
  // Writes and flushes; false once writing has failed. Never throws, so streaming callbacks can use it.
  bool put(std::string_view text) noexcept;
  // Throws PipeClosed, or Error(kIo), when an earlier write failed.
  void check() const;

  // put() and check().
  void text(std::string_view text);
  // One object and a newline; bytes that are not UTF-8 become U+FFFD.
  void json(const OrderedJson& object);

 private:
  int error_ = 0;  // errno of the first failure
};

}  // namespace tessera::cli

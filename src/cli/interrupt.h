// Ctrl-C while a model answers: asks the model to stop and lets the program go on.
#pragma once

#include <csignal>

#include "tessera/llm.h"

namespace tessera::cli {

enum class SecondInterrupt { kEndsProgram, kIgnored };

// While it lives, SIGINT cancels `llm` (or does nothing when that is null). Scopes nest; one thread makes them.
class InterruptScope {
 public:
  InterruptScope(Llm* llm, SecondInterrupt second);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  // SIGINT has come since the scope began.
  bool interrupted() const;

 private:
  Llm* outer_;
  bool outer_interrupted_;
  struct sigaction outer_action_;
};

}  // namespace tessera::cli

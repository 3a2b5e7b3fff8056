#include "cli/interrupt.h"

#include <atomic>

namespace tessera::cli {

namespace {
// A signal handler has no other way to its context.
std::atomic<Llm*> g_llm{nullptr};
std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<Llm*>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

void on_interrupt(int) {
  g_interrupted = true;
  if (Llm* llm = g_llm) llm->cancel();
}
}  // namespace

InterruptScope::InterruptScope(Llm* llm, SecondInterrupt second)
    : outer_(g_llm.exchange(llm)), outer_interrupted_(g_interrupted.exchange(false)) {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART | (second == SecondInterrupt::kEndsProgram ? SA_RESETHAND : 0);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &outer_action_);
}

InterruptScope::~InterruptScope() {
  sigaction(SIGINT, &outer_action_, nullptr);
  g_llm = outer_;
  g_interrupted = outer_interrupted_;
}

bool InterruptScope::interrupted() const {
  return g_interrupted;
}

}  // namespace tessera::cli

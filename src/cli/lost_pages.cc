#include "cli/lost_pages.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace tessera::cli {

namespace {

constexpr char kLine[] =
    "tessera: bus error: a file that is mapped into memory was cut while it was in use, or its disk cannot be read; "
    "copy or download the model again\n";

// A signal handler has no other way to know.
std::atomic<bool> g_told{false};
static_assert(std::atomic<bool>::is_always_lock_free);

// One thread tells and ends the process; the others try their access again until then.
void on_lost_page(int) {
  if (g_told.exchange(true)) return;
  const ssize_t nobody_to_tell = write(STDERR_FILENO, kLine, sizeof kLine - 1);
  (void)nobody_to_tell;
  signal(SIGBUS, SIG_DFL);
  raise(SIGBUS);
}

}  // namespace

void explain_lost_pages() {
  struct sigaction action {
  }, before{};
  if (sigaction(SIGBUS, nullptr, &before) != 0 || before.sa_handler != SIG_DFL) return;
  action.sa_handler = on_lost_page;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace tessera::cli

#include "cli/line_editor.h"

#include <histedit.h>
#include <termios.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/env.h"
#include "core/error.h"
#include "core/log.h"

namespace tessera::cli {

namespace {

// The terminal hands Ctrl-C to the editor instead of turning it into a signal, which would also throw away what was
// typed before it; and Ctrl-D, which libedit would miss when it comes between the prompt and the switch to raw mode.
class ControlKeys {
 public:
  ControlKeys() {
    if (tcgetattr(STDIN_FILENO, &before_) != 0) return;
    saved_ = true;
    termios changed = before_;
    changed.c_cc[VINTR] = changed.c_cc[VEOF] = _POSIX_VDISABLE;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &changed);
  }
  ~ControlKeys() {
    if (saved_) tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }

 private:
  termios before_{};
  bool saved_ = false;
};

}  // namespace

struct LineEditor::Impl {
  EditLine* edit = nullptr;
  History* history = nullptr;
  HistEvent event{};
  std::string history_file;
  std::string prompt;
  bool interrupted = false;

  static Impl* of(EditLine* edit) {
    void* data = nullptr;
    el_get(edit, EL_CLIENTDATA, &data);
    return static_cast<Impl*>(data);
  }
  static char* show_prompt(EditLine* edit) { return of(edit)->prompt.data(); }
  // Bound to Ctrl-C: ends the read as Enter would, marked as interrupted.
  static unsigned char interrupt(EditLine* edit, int) {
    of(edit)->interrupted = true;
    return CC_NEWLINE;
  }
};

LineEditor::LineEditor(std::string history_file) : impl_(std::make_unique<Impl>()) {
  // Editing counts characters, not bytes, so it needs a UTF-8 locale even where none is set.
  if (!std::setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  Impl& m = *impl_;
  m.history_file = std::move(history_file);
  m.history = history_init();
  m.edit = el_init("tessera", stdin, stdout, stderr);
  if (!m.edit || !m.history) fail(ErrorCode::kIo, "cannot set up line editing on this terminal");
  el_set(m.edit, EL_CLIENTDATA, &m);
  el_set(m.edit, EL_PROMPT, &Impl::show_prompt);
  el_set(m.edit, EL_EDITOR, "emacs");
  el_set(m.edit, EL_HIST, history, m.history);
  el_set(m.edit, EL_ADDFN, "interrupt", "drop the line", &Impl::interrupt);
  el_set(m.edit, EL_BIND, "^C", "interrupt", nullptr);
  el_set(m.edit, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  history(m.history, &m.event, H_SETSIZE, 1000);
  history(m.history, &m.event, H_SETUNIQUE, 1);
  if (!m.history_file.empty()) history(m.history, &m.event, H_LOAD, m.history_file.c_str());
}

LineEditor::~LineEditor() {
  if (impl_->edit) el_end(impl_->edit);
  if (impl_->history) history_end(impl_->history);
}

LineEditor::Event LineEditor::read(std::string_view prompt, std::string& line) {
  Impl& m = *impl_;
  m.prompt = prompt;
  m.interrupted = false;
  el_resize(m.edit);
  int count = 0;
  const char* text = nullptr;
  {
    ControlKeys while_editing;
    text = el_gets(m.edit, &count);
  }
  if (m.interrupted) return Event::kInterrupted;
  if (!text || count <= 0) return Event::kEnd;
  line.assign(text, static_cast<size_t>(count));
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  return Event::kLine;
}

void LineEditor::remember(const std::string& line) {
  Impl& m = *impl_;
  history(m.history, &m.event, H_ENTER, line.c_str());
  if (m.history_file.empty()) return;
  if (history(m.history, &m.event, H_SAVE, m.history_file.c_str()) < 0) {
    log::warn("{}: cannot write the history", m.history_file);
    m.history_file.clear();
  }
}

std::string default_history_file() {
  std::string state = env_string(Env::kStateHome);
  if (state.empty()) {
    std::string home = env_string(Env::kHome);
    if (home.empty()) return "";
    state = home + "/.local/state";
  }
  std::filesystem::path folder = std::filesystem::path(state) / "tessera";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  return error ? "" : (folder / "history").string();
}

}  // namespace tessera::cli

// What a terminal needs and a pipe does not: dimmed text, a progress bar, harmless control characters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::cli {

bool stdin_is_terminal();
bool stdout_is_terminal();
bool stderr_is_terminal();

// Escape sequences, or nothing when standard output is no terminal or NO_COLOR is set.
struct Style {
  const char* dim = "";
  const char* bold = "";
  const char* off = "";
  static Style of_stdout();
};

// `text` with control characters other than newline and tab made visible, so that no answer can drive the terminal.
std::string printable(std::string_view text);

// A bar on standard error, drawn only when that is a terminal, at most ten times a second.
class Progress {
 public:
  Progress(const char* what, int64_t total);
  ~Progress();  // wipes the bar
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(int64_t done);

 private:
  const char* what_;
  int64_t total_;
  bool shown_;
  double drawn_at_ = 0;
};

}  // namespace tessera::cli

// One edited line at a time from a terminal, with a history that outlives the program (libedit). One thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace tessera::cli {

class LineEditor {
 public:
  enum class Event { kLine, kInterrupted, kEnd };  // Ctrl-C drops the line; Ctrl-D on an empty line, or a lost terminal

  // `history_file` is read now and written when a line is added; empty: history lives in memory only.
  explicit LineEditor(std::string history_file);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // Shows `prompt` and waits. `line` comes without its newline.
  Event read(std::string_view prompt, std::string& line);
  // Throws nothing: a history that cannot be written is logged once.
  void remember(const std::string& line);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// $XDG_STATE_HOME/tessera/history, its folder made when missing; empty when there is no place for it.
std::string default_history_file();

}  // namespace tessera::cli

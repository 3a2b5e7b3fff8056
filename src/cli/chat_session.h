// The interactive chat: reads lines, runs /commands, shows answers. Errors of a turn are printed and the talk goes on.
#pragma once

#include <string>
#include <vector>

#include "cli/answer.h"
#include "cli/line_editor.h"
#include "tessera/chat.h"

namespace tessera::cli {

struct ChatDisplay {
  bool reasoning = true;
  bool stats = false;
};

class ChatSession {
 public:
  // All referenced objects outlive the session.
  ChatSession(Llm& llm, Chat& chat, Output& out, ChatDisplay display);
  // Until /exit or Ctrl-D. Throws only when standard output is gone.
  void run();

 private:
  struct SlashCommand {
    const char* name;
    const char* arguments;
    const char* help;
    void (ChatSession::*run)(const std::string& argument);
  };
  static const std::vector<SlashCommand>& slash_commands();

  bool read_message(LineEditor& editor, std::string& message);
  void handle(const std::string& message);
  void run_slash(const std::string& line);
  template <class Say>
  void answer(Say say);
  void say(const std::string& text) { out_.text(text + "\n"); }

  void help(const std::string&);
  void reset(const std::string&);
  void system(const std::string& text);
  void effort(const std::string& level);
  void tools(const std::string& file);
  void result(const std::string& text);
  void save(const std::string& file);
  void load(const std::string& file);
  void leave(const std::string&) { leaving_ = true; }

  Llm& llm_;
  Chat& chat_;
  Output& out_;
  ChatDisplay display_;
  std::vector<ToolCall> pending_;  // calls that wait for /result, in order
  bool leaving_ = false;
};

// A JSON array of OpenAI function tools from a file, checked as far as the names; throws kInvalidArgument.
std::string read_tools(const std::string& file);
// The functions' names, separated by ", ".
std::string tool_names(const std::string& tools);

}  // namespace tessera::cli

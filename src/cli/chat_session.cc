#include "cli/chat_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "cli/options.h"
#include "core/error.h"

namespace tessera::cli {

namespace {

std::string trimmed(const std::string& text) {
  size_t begin = text.find_first_not_of(" \t"), end = text.find_last_not_of(" \t");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

void need(const std::string& argument, const char* what) {
  if (argument.empty()) fail(ErrorCode::kInvalidArgument, "{}", what);
}

void check_tools(const OrderedJson& tools, const std::string& where) {
  if (!tools.is_array()) {
    fail(ErrorCode::kInvalidArgument, "{}: expected a JSON array of functions, found {}", where, tools.type_name());
  }
  for (size_t i = 0; i < tools.size(); ++i) {
    const OrderedJson& tool = tools[i];
    if (!tool.is_object() || !tool.contains("function") || !tool["function"].is_object() ||
        !tool["function"].contains("name") || !tool["function"]["name"].is_string()) {
      fail(ErrorCode::kInvalidArgument,
           "{}: entry {} is no function; expected {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}", where,
           i);
    }
  }
}

}  // namespace

std::string read_tools(const std::string& file) {
  OrderedJson tools = read_json_input(file);
  check_tools(tools, file);
  return tools.dump();
}

std::string tool_names(const std::string& tools) {
  std::string names;
  if (tools.empty()) return names;
  for (const OrderedJson& tool : OrderedJson::parse(tools)) {
    names += (names.empty() ? "" : ", ") + tool["function"]["name"].get<std::string>();
  }
  return names;
}

ChatSession::ChatSession(Llm& llm, Chat& chat, Output& out, ChatDisplay display)
    : llm_(llm), chat_(chat), out_(out), display_(display) {}

const std::vector<ChatSession::SlashCommand>& ChatSession::slash_commands() {
  static const std::vector<SlashCommand> kRows = {
      {"/help", "", "this list", &ChatSession::help},
      {"/reset", "", "forget the conversation, keep the settings", &ChatSession::reset},
      {"/system", "TEXT", "instructions for the model; without TEXT: show them, with 'off': none",
       &ChatSession::system},
      {"/effort", "low|medium|high", "how much the model reasons", &ChatSession::effort},
      {"/tools", "FILE", "functions the model may call (OpenAI's JSON); without FILE: list them, with 'off': none",
       &ChatSession::tools},
      {"/result", "TEXT", "the result of the function that the model called", &ChatSession::result},
      {"/save", "FILE", "write the conversation as JSON", &ChatSession::save},
      {"/load", "FILE", "go on with a saved conversation", &ChatSession::load},
      {"/exit", "", "leave (or Ctrl-D)", &ChatSession::leave},
  };
  return kRows;
}

void ChatSession::run() {
  InterruptScope idle(nullptr, SecondInterrupt::kIgnored);
  LineEditor editor(default_history_file());
  std::string message;
  while (!leaving_ && read_message(editor, message)) {
    try {
      handle(message);
    } catch (const Error& e) {
      fmt::print(stderr, "tessera: {}\n", printable(e.what()));
    } catch (const std::bad_alloc&) {
      fmt::print(stderr, "tessera: out of memory; /reset frees the conversation\n");
    }
    out_.check();
  }
}

// A message is one line, or several where each but the last ends in a backslash.
bool ChatSession::read_message(LineEditor& editor, std::string& message) {
  message.clear();
  std::string line;
  for (bool more = true; more;) {
    switch (editor.read(message.empty() ? "> " : ". ", line)) {
      case LineEditor::Event::kEnd:
        say("");
        return false;
      case LineEditor::Event::kInterrupted:
        say("^C");
        message.clear();
        continue;
      case LineEditor::Event::kLine:
        break;
    }
    if (!trimmed(line).empty()) editor.remember(line);
    more = line.ends_with('\\');
    if (more) line.back() = '\n';
    message += line;
  }
  return true;
}

void ChatSession::handle(const std::string& message) {
  if (trimmed(message).empty()) return;
  if (trimmed(message)[0] == '/') return run_slash(trimmed(message));
  check_utf8(message, "message");
  if (!pending_.empty()) {
    fail(ErrorCode::kInvalidArgument, "the model waits for the result of {}; give it with /result TEXT, or /reset",
         pending_.front().name);
  }
  answer([&](const ReplyCallback& on_piece) { return chat_.say(message, on_piece); });
}

void ChatSession::run_slash(const std::string& line) {
  size_t space = line.find_first_of(" \t");
  std::string name = line.substr(0, space);
  if (name == "/quit") name = "/exit";
  auto row = std::ranges::find(slash_commands(), name, [](const SlashCommand& c) { return std::string(c.name); });
  if (row == slash_commands().end()) fail(ErrorCode::kInvalidArgument, "no command {}; /help lists them", name);
  (this->*row->run)(space == std::string::npos ? "" : trimmed(line.substr(space)));
}

template <class Say>
void ChatSession::answer(Say say) {
  InterruptScope scope(&llm_, SecondInterrupt::kIgnored);
  AnswerPrinter printer(out_, display_.reasoning);
  Reply reply;
  try {
    reply =
        say([&](ReplyPart part, std::string_view text) { return printer.piece(part, text) && !scope.interrupted(); });
  } catch (...) {
    printer.finish();
    throw;
  }
  printer.finish();
  if (scope.interrupted()) fmt::print(stderr, "(stopped)\n");
  pending_ = reply.tool_calls;
  printer.show_calls(pending_);
  if (!pending_.empty()) fmt::print(stderr, "(answer with /result TEXT)\n");
  note_cut(reply.generation);
  if (display_.stats) print_stats(reply.generation.usage);
}

void ChatSession::help(const std::string&) {
  for (const SlashCommand& c : slash_commands()) {
    say(fmt::format("  {:<24} {}", fmt::format("{} {}", c.name, c.arguments), c.help));
  }
  say("  A line that ends in \\ goes on in the next one. Ctrl-C stops an answer, or drops the line.");
}

void ChatSession::reset(const std::string&) {
  chat_.reset();
  pending_.clear();
}

void ChatSession::system(const std::string& text) {
  if (text.empty()) return say(chat_.options().system.empty() ? "(none)" : printable(chat_.options().system));
  check_utf8(text, "/system");
  chat_.options().system = text == "off" ? "" : text;
}

void ChatSession::effort(const std::string& level) {
  if (level.empty()) return say(chat_.options().reasoning_effort);
  if (level != "low" && level != "medium" && level != "high") {
    fail(ErrorCode::kInvalidArgument, "/effort {}: expected low, medium or high", level);
  }
  chat_.options().reasoning_effort = level;
}

void ChatSession::tools(const std::string& file) {
  if (file == "off") {
    chat_.options().tools.clear();
    return;
  }
  if (!file.empty()) chat_.options().tools = read_tools(file);
  std::string names = tool_names(chat_.options().tools);
  say(names.empty() ? "(none)" : printable(names));
}

void ChatSession::result(const std::string& text) {
  if (pending_.empty()) fail(ErrorCode::kInvalidArgument, "/result: the model has not called a function");
  check_utf8(text, "/result");
  chat_.tool_result(pending_.front(), text);
  pending_.erase(pending_.begin());
  if (!pending_.empty()) return say(fmt::format("(next: the result of {})", printable(pending_.front().name)));
  answer([&](const ReplyCallback& on_piece) { return chat_.resume(on_piece); });
}

void ChatSession::save(const std::string& file) {
  need(file, "/save FILE: which file?");
  const ChatOptions& options = chat_.options();
  OrderedJson object = {{"system", options.system},
                        {"reasoning_effort", options.reasoning_effort},
                        {"tools", options.tools.empty() ? OrderedJson::array() : OrderedJson::parse(options.tools)},
                        {"messages", OrderedJson::parse(chat_.messages_json())}};
  write_text_file(file, object.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

void ChatSession::load(const std::string& file) {
  need(file, "/load FILE: which file?");
  OrderedJson object = read_json_input(file);
  if (object.is_array()) object = {{"messages", std::move(object)}};  // messages alone, as OpenAI's API has them
  if (!object.is_object() || !object.contains("messages") || !object["messages"].is_array()) {
    fail(ErrorCode::kInvalidArgument,
         "{}: expected {{\"messages\": [...]}} as /save writes it, or an array of messages", file);
  }
  ChatOptions options = chat_.options();
  try {
    options.system = object.value("system", options.system);
    options.reasoning_effort = object.value("reasoning_effort", options.reasoning_effort);
  } catch (const OrderedJson::exception& e) {
    fail(ErrorCode::kInvalidArgument, "{}: system and reasoning_effort are texts ({})", file, e.what());
  }
  if (object.contains("tools")) {
    check_tools(object["tools"], file);
    options.tools = object["tools"].empty() ? "" : object["tools"].dump();
  }
  chat_.set_messages(object["messages"].dump());
  chat_.options() = options;
  pending_.clear();
  say(fmt::format("({} messages)", object["messages"].size()));
}

}  // namespace tessera::cli

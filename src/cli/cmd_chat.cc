// tessera chat: a conversation on a terminal, or one question and its answer.
#include <CLI/CLI.hpp>
#include <map>

#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "core/error.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera chat models/glossary                              a conversation; /help lists its commands
  tessera chat models/glossary "What does serendipity mean?"
  echo "Define courage." | tessera chat models/glossary --greedy --json
  tessera chat models/glossary --effort high --stats "What is 347 + 258?"
  tessera chat MODEL --tools tools.json --tool-results results.json "What is the weather in Paris?"

tools.json is an array of functions as in OpenAI's API:
  [{"type": "function", "function": {"name": "get_weather", "description": "...", "parameters": {...}}}]
results.json maps a function's name to what it returns:
  {"get_weather": {"celsius": 21}}
Without it, a call is printed with its arguments and the answer ends there.
In a conversation Ctrl-C stops the answer, not the program, and Ctrl-D leaves.)";

constexpr int kMaxToolRounds = 8;  // a model that only ever calls functions ends here

struct Options {
  ModelOptions model;
  SamplingOptions sampling;
  ChatOptions chat;
  std::vector<std::string> message;
  std::string tools, tool_results;
  bool reasoning = true, stats = false;
};

using ToolResults = std::map<std::string, std::string>;

ToolResults read_tool_results(const std::string& file) {
  OrderedJson object = read_json_input(file);
  if (!object.is_object()) {
    fail(ErrorCode::kInvalidArgument, "{}: expected an object of function names and results, found {}", file,
         object.type_name());
  }
  ToolResults results;
  for (auto& [name, value] : object.items())
    results[name] = value.is_string() ? value.get<std::string>() : value.dump();
  return results;
}

const std::string& result_of(const ToolResults& results, const ToolCall& call) {
  auto found = results.find(call.name);
  if (found == results.end()) {
    fail(ErrorCode::kNotFound, "the model called {}({}), and --tool-results has no '{}'", call.name, call.arguments,
         call.name);
  }
  return found->second;
}

// One question, its answer, and as many rounds of function calls as there are results for.
int answer_once(Invocation& call, const Options& options, Llm& llm, Chat& chat, const std::string& message) {
  ToolResults results;
  if (!options.tool_results.empty()) results = read_tool_results(options.tool_results);
  InterruptScope scope(&llm, SecondInterrupt::kEndsProgram);
  AnswerPrinter printer(call.out, options.reasoning && stdout_is_terminal());
  ReplyCallback on_piece = [&](ReplyPart part, std::string_view text) {
    return (call.json || printer.piece(part, text)) && !scope.interrupted();
  };
  Reply reply = chat.say(message, on_piece);
  for (int round = 0; !reply.tool_calls.empty() && !options.tool_results.empty() && !scope.interrupted(); ++round) {
    printer.finish();
    if (round == kMaxToolRounds) {
      fail(ErrorCode::kUnsupported, "the model called functions {} times in a row without an answer", kMaxToolRounds);
    }
    for (const ToolCall& made : reply.tool_calls) chat.tool_result(made, result_of(results, made));
    if (!call.json) printer.show_calls(reply.tool_calls);
    reply = chat.resume(on_piece);
  }
  printer.finish();
  if (call.json) {
    OrderedJson object = reply_json(reply);
    object["messages"] = OrderedJson::parse(chat.messages_json());
    call.out.json(object);
  } else {
    printer.show_calls(reply.tool_calls);
  }
  note_cut(reply.generation);
  if (options.stats) print_stats(reply.generation.usage);
  return scope.interrupted() ? kInterruptedExit : 0;
}

void add_chat_options(CLI::App& app, Options& options) {
  app.add_option("MESSAGE", options.message, "ask this and leave; without it, and on a terminal: a conversation");
  app.add_option("--system", options.chat.system, "instructions for the model");
  app.add_option("--effort", options.chat.reasoning_effort, "how much the model reasons, where it knows efforts")
      ->check(CLI::IsMember({"low", "medium", "high"}))
      ->capture_default_str();
  app.add_option("--tools", options.tools, "functions the model may call: a JSON file");
  app.add_option("--tool-results", options.tool_results, "what the functions return: a JSON file");
  app.add_option("--date", options.chat.current_date, "the date that the model is told, YYYY-MM-DD; default: today");
  app.add_option("--template-args", options.chat.template_kwargs,
                 "further variables of the chat template, a JSON object: '{\"enable_thinking\": false}'");
  app.add_flag("!--no-reasoning", options.reasoning, "do not show the reasoning (shown on a terminal only)");
  app.add_flag("--stats", options.stats, "print tokens per second on standard error");
}

}  // namespace

int cmd_chat(Invocation& call) {
  CLI::App app{"Talks with a model in its own chat format.", "tessera chat"};
  Options options;
  add_model_options(app, options.model);
  add_rank_options(app, options.model);
  add_cache_option(app, options.model);
  add_chat_options(app, options);
  add_sampling_options(app, options.sampling);
  app.footer(kExamples);
  if (!parse(app, call)) return 0;
  options.sampling.validate();
  if (!options.tools.empty()) options.chat.tools = read_tools(options.tools);
  std::string message = fmt::format("{}", fmt::join(options.message, " "));
  bool once = !options.message.empty() || !stdin_is_terminal();
  if (!once && call.json)
    fail(ErrorCode::kInvalidArgument, "--json answers one question: give a MESSAGE or pipe one in");
  if (options.message.empty() && once) {
    message = read_input("-");
    while (message.ends_with('\n') || message.ends_with('\r')) message.pop_back();
  }
  if (once && message.find_first_not_of(" \t\r\n") == std::string::npos) {
    fail(ErrorCode::kInvalidArgument, "the message is empty; give one as an argument or on standard input");
  }
  check_utf8(message, "message");
  check_utf8(options.chat.system, "--system");

  Llm llm = load_llm(options.model);
  options.chat.sampling = options.sampling.over(llm.default_sampling());
  Chat chat(llm, options.chat);
  if (once) return answer_once(call, options, llm, chat, message);
  call.out.text(fmt::format("{} - /help lists the commands, Ctrl-D leaves\n", options.model.model));
  ChatSession(llm, chat, call.out, {options.reasoning, options.stats}).run();
  return 0;
}

}  // namespace tessera::cli

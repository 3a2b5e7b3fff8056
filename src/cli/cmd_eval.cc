// tessera eval: what a model scores on a text (perplexity) and on questions (exact match).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "core/error.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera eval perplexity MODEL --text heldout.txt
  tessera eval exact-match MODEL --questions words500.json --limit 50)";

constexpr const char* kPerplexityHelp = R"(
The text's tokens, without special tokens, are cut into consecutive windows. Each is computed alone from position 0,
and its tokens from the second on are predicted; an incomplete last window is left out. The perplexity is exp of the
mean negative log-likelihood.

example:
  tessera eval perplexity models/glossary --text heldout.txt --dtype float32 --json)";

constexpr const char* kExactMatchHelp = R"(
Each question opens a fresh conversation, is answered greedily and counts when the answer equals the expected text,
byte for byte. The file is an array: [{"question": "...", "answer": "..."}, ...]. Misses are printed.

example:
  tessera eval exact-match models/glossary --questions words500.json)";

struct PerplexityOptions {
  ModelOptions model;
  std::string text;
  int64_t window = 1024;
};

struct ExactMatchOptions {
  ModelOptions model;
  ChatOptions chat;
  std::string questions;
  int64_t limit = 0;
  int64_t max_tokens = 0;
};

struct Question {
  std::string question, answer;
};

int perplexity(Invocation& call, const PerplexityOptions& options) {
  std::string text = read_input(options.text);
  check_utf8(text, options.text);
  Llm llm = load_llm(options.model);
  std::vector<int32_t> ids = llm.encode(text, false);
  if (options.window > llm.max_context()) {
    fail(ErrorCode::kInvalidArgument, "--window {}: longer than the context of {} tokens", options.window,
         llm.max_context());
  }
  int64_t windows = static_cast<int64_t>(ids.size()) / options.window;
  if (windows == 0) {
    fail(ErrorCode::kInvalidArgument,
         "{}: {} tokens do not fill one window of {}; give a longer text or a smaller --window", options.text,
         ids.size(), options.window);
  }
  std::vector<double> window_nll;
  double sum = 0;
  Progress progress("windows", windows);
  for (int64_t i = 0; i < windows; ++i) {
    auto begin = ids.begin() + i * options.window;
    double nll = llm.negative_log_likelihood({begin, begin + options.window});
    sum += nll;
    window_nll.push_back(nll / static_cast<double>(options.window - 1));
    progress.update(i + 1);
  }
  int64_t predicted = windows * (options.window - 1);
  double mean = sum / static_cast<double>(predicted);
  if (call.json) {
    call.out.json({{"perplexity", std::exp(mean)},
                   {"nll", mean},
                   {"tokens", ids.size()},
                   {"window", options.window},
                   {"windows", windows},
                   {"predicted", predicted},
                   {"window_nll", window_nll}});
  } else {
    call.out.text(fmt::format("perplexity {:.6f} (mean nll {:.8f}; {} predictions in {} windows of {} tokens)\n",
                              std::exp(mean), mean, predicted, windows, options.window));
  }
  return 0;
}

std::vector<Question> read_questions(const std::string& file) {
  OrderedJson rows = read_json_input(file);
  if (!rows.is_array() || rows.empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: expected an array of {{\"question\", \"answer\"}}", file);
  }
  std::vector<Question> questions;
  for (const OrderedJson& row : rows) {
    auto text = [&](const char* key) {
      if (!row.is_object() || !row.contains(key) || !row[key].is_string()) {
        fail(ErrorCode::kInvalidArgument, "{}: entry {} has no text '{}'", file, questions.size(), key);
      }
      return row[key].get<std::string>();
    };
    questions.push_back({text("question"), text("answer")});
  }
  return questions;
}

int exact_match(Invocation& call, ExactMatchOptions& options) {
  std::vector<Question> questions = read_questions(options.questions);
  if (options.limit > 0 && static_cast<size_t>(options.limit) < questions.size()) {
    questions.resize(static_cast<size_t>(options.limit));
  }
  Llm llm = load_llm(options.model);
  options.chat.sampling = llm.default_sampling();
  options.chat.sampling.temperature = 0;
  options.chat.sampling.max_tokens = options.max_tokens;
  OrderedJson misses = OrderedJson::array();
  int64_t done = 0;
  {
    Progress progress("questions", static_cast<int64_t>(questions.size()));
    for (const Question& q : questions) {
      std::string answer = Chat(llm, options.chat).say(q.question).text;
      if (answer != q.answer) misses.push_back({{"question", q.question}, {"expected", q.answer}, {"answer", answer}});
      progress.update(++done);
    }
  }
  size_t exact = questions.size() - misses.size();
  if (call.json) {
    call.out.json({{"questions", questions.size()}, {"exact", exact}, {"misses", misses}});
    return 0;
  }
  for (const OrderedJson& miss : misses) {
    call.out.text(
        printable(fmt::format("miss: {}\n  expected: {}\n  answer:   {}\n", miss["question"].get<std::string>(),
                              miss["expected"].get<std::string>(), miss["answer"].get<std::string>())));
  }
  call.out.text(fmt::format("{} of {} exact\n", exact, questions.size()));
  return 0;
}

}  // namespace

int cmd_eval(Invocation& call) {
  CLI::App app{"Measures a model.", "tessera eval"};
  app.require_subcommand(1);
  app.footer(kExamples);
  PerplexityOptions text;
  CLI::App* perplexity_app = app.add_subcommand("perplexity", "perplexity of a text");
  add_model_options(*perplexity_app, text.model);
  add_rank_options(*perplexity_app, text.model);
  perplexity_app->add_option("--text", text.text, "the text file; - is standard input")->required();
  perplexity_app->add_option("--window", text.window, "tokens in a window")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 31))
      ->capture_default_str();
  perplexity_app->footer(kPerplexityHelp);

  ExactMatchOptions match;
  CLI::App* match_app = app.add_subcommand("exact-match", "answers compared with the expected ones");
  add_model_options(*match_app, match.model);
  add_rank_options(*match_app, match.model);
  match_app->add_option("--questions", match.questions, "the JSON file; - is standard input")->required();
  match_app->add_option("--limit", match.limit, "only the first questions; 0: all")->check(CLI::NonNegativeNumber);
  match_app->add_option("--max-tokens", match.max_tokens, "tokens of an answer at most; 0: until the context is full")
      ->check(CLI::NonNegativeNumber);
  match_app->add_option("--system", match.chat.system, "instructions for the model");
  match_app->add_option("--effort", match.chat.reasoning_effort, "how much the model reasons")
      ->check(CLI::IsMember({"low", "medium", "high"}))
      ->capture_default_str();
  match_app->add_option("--date", match.chat.current_date,
                        "the date that the model is told, YYYY-MM-DD; default: today");
  match_app->footer(kExactMatchHelp);

  if (!parse(app, call)) return 0;
  return perplexity_app->parsed() ? perplexity(call, text) : exact_match(call, match);
}

}  // namespace tessera::cli

// tessera generate: continues a text, streaming it to standard output.
#include <CLI/CLI.hpp>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "core/error.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera generate models/glossary -p "In the beginning" --max-tokens 40 --seed 1
  echo "In the beginning" | tessera generate models/glossary --greedy
  tessera generate MODEL -f prompt.txt --temperature 0.7 --top-p 0.9 --stop $'\n\n'
  tessera generate MODEL --raw -p "<|start|>user<|message|>Hi<|end|><|start|>assistant"
  tessera generate MODEL -p "2 + 2 =" --max-tokens 1 --logprobs 5 --json

The prompt is continued as it stands; 'tessera chat' puts it into the model's chat format.
Ctrl-C stops the generation, keeps what was written and exits with 130.)";

struct Options {
  ModelOptions model;
  SamplingOptions sampling;
  std::string prompt, file;
  bool raw = false, stats = false;
  int logprobs = -1;
};

std::string read_prompt(const Options& options, bool prompt_given) {
  if (!prompt_given && options.file.empty() && stdin_is_terminal()) {
    fail(ErrorCode::kInvalidArgument, "no prompt: give -p TEXT, -f FILE or pipe it in; see 'tessera generate --help'");
  }
  std::string prompt = prompt_given ? options.prompt : read_input(options.file.empty() ? "-" : options.file);
  check_utf8(prompt, "prompt");
  if (prompt.empty()) fail(ErrorCode::kInvalidArgument, "the prompt is empty; give at least one character to continue");
  return prompt;
}

std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

void print_logprobs(Output& out, const Llm& llm, const Generation& generation) {
  for (const TokenLogprob& token : generation.logprobs) {
    std::string line = fmt::format("{:>8} {:9.4f} {}", token.id, token.logprob, quoted(token.bytes));
    for (auto [id, logprob] : token.top) line += fmt::format("  {} {:.4f}", quoted(llm.decode({id}, false)), logprob);
    out.text(line + "\n");
  }
}

}  // namespace

int cmd_generate(Invocation& call) {
  CLI::App app{"Continues a text.", "tessera generate"};
  Options options;
  add_model_options(app, options.model);
  add_rank_options(app, options.model);
  add_cache_option(app, options.model);
  CLI::Option* prompt = app.add_option("-p,--prompt", options.prompt, "the text to continue");
  app.add_option("-f,--file", options.file, "read it from a file; - is standard input")->excludes(prompt);
  app.add_flag("--raw", options.raw, "special tokens in the prompt, such as <|start|>, are tokens and not plain text");
  app.add_option("--logprobs", options.logprobs, "print each token's log-probability, with this many alternatives")
      ->check(CLI::Range(0, 20));
  app.add_flag("--stats", options.stats, "print tokens per second on standard error");
  add_sampling_options(app, options.sampling);
  app.footer(kExamples);
  if (!parse(app, call)) return 0;
  options.sampling.validate();
  std::string text = read_prompt(options, prompt->count() > 0);

  Llm llm = load_llm(options.model);
  SamplingParams params = options.sampling.over(llm.default_sampling());
  params.logprobs = options.logprobs;
  InterruptScope interrupt(&llm, SecondInterrupt::kEndsProgram);
  bool terminal = stdout_is_terminal();
  // Raw text brings its own special tokens, so none are put around it.
  const std::vector<int32_t> ids = llm.encode(text, options.raw, /*add_special=*/!options.raw);
  Generation generation = llm.generate(ids, params, [&](std::string_view piece) {
    if (call.json) return true;
    return call.out.put(terminal ? printable(piece) : std::string(piece));
  });
  call.out.check();
  if (call.json) {
    OrderedJson object = {{"text", generation.text},
                          {"ids", generation.ids},
                          {"finish_reason", finish_reason_name(generation.finish_reason)},
                          {"usage", usage_json(generation.usage)}};
    if (options.logprobs >= 0) object["logprobs"] = logprobs_json(llm, generation.logprobs);
    call.out.json(object);
  } else {
    if (!generation.text.ends_with('\n')) call.out.text("\n");
    print_logprobs(call.out, llm, generation);
  }
  note_cut(generation);
  if (options.stats) print_stats(generation.usage);
  return interrupt.interrupted() ? kInterruptedExit : 0;
}

}  // namespace tessera::cli

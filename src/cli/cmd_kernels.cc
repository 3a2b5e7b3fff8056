// tessera kernels: which kernels this program has, which serve this machine, and which serve a model, and why.
#include <CLI/CLI.hpp>

#include "api/describe.h"
#include "cli/commands.h"
#include "cli/kernel_repo_tools.h"
#include "cli/kernel_tools.h"
#include "cli/options.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera kernels list
  TESSERA_ISA=avx2 tessera kernels list        as on a machine without AVX-512
  tessera kernels explain models/glossary --tokens 32 --sequences 32)";

int list(Invocation& call) {
  const Json ops = describe_kernel_table(Kernels::builtin(cpu_isa_from_env()));
  if (call.json) {
    call.out.json({{"ops", ops}});
    return 0;
  }
  std::string text = "Kernels that serve this machine. The first row of an op that accepts a problem computes it.\n";
  for (const Json& op : ops) {
    text += fmt::format("\n{}\n", op["op"].get<std::string>());
    for (const Json& row : op["rows"]) {
      text += fmt::format("  {:<34} {:<5} {}\n", row["name"].get<std::string>(), row["device"].get<std::string>(),
                          row["summary"].get<std::string>());
    }
  }
  call.out.text(text);
  return 0;
}

int explain(Invocation& call, const ModelOptions& model, int64_t tokens, int64_t sequences) {
  Llm llm = load_llm(model);
  const Json choices = Json::parse(llm.explain_kernels(tokens, sequences));
  if (call.json) {
    call.out.json({{"tokens", tokens}, {"sequences", sequences}, {"choices", choices}});
    return 0;
  }
  std::string text = fmt::format("A step of {} tokens in {} sequences. Each problem once.\n", tokens, sequences);
  for (const Json& choice : choices) {
    const auto row = choice["row"].get<std::string>();
    text += fmt::format("\n{}  {}\n  {}\n", choice["op"].get<std::string>(), choice["problem"].get<std::string>(),
                        row.empty() ? "none: computed by the ops it stands for" : row);
    for (const Json& refused : choice["refused"])
      text += fmt::format("    not {}: {}\n", refused["row"].get<std::string>(), refused["why"].get<std::string>());
  }
  call.out.text(text);
  return 0;
}

}  // namespace

int cmd_kernels(Invocation& call) {
  CLI::App app{"Shows the kernels: how each operation of a model is computed.", "tessera kernels"};
  app.require_subcommand(1);
  CLI::App* list_app = app.add_subcommand("list", "every kernel that serves this machine, in order of preference");
  ModelOptions model;
  int64_t tokens = 1, sequences = 1;
  CLI::App* explain_app = app.add_subcommand("explain", "which kernel computes each operation of a model, and why");
  add_model_options(*explain_app, model);
  explain_app->add_option("--tokens", tokens, "new tokens in the step: 1 while decoding, hundreds in a prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  explain_app->add_option("--sequences", sequences, "sequences that they belong to")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  explain_app->footer(kExamples);
  KernelRepoTools repos;
  repos.add(app, *list_app);
  KernelTools tools;
  tools.add(app);
  app.footer(kExamples);  // last: a subcommand begins with its parent's
  if (!parse(app, call)) return 0;
  if (std::optional<int> code = repos.run(call)) return *code;
  if (std::optional<int> code = tools.run(call)) return *code;
  return explain_app->parsed() ? explain(call, model, tokens, sequences) : list(call);
}

}  // namespace tessera::cli

// tessera kernels: which kernels this program has, and which serve this machine.
#include <CLI/CLI.hpp>

#include "api/describe.h"
#include "cli/commands.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera kernels list
  TESSERA_ISA=avx2 tessera kernels list        as on a machine without AVX-512)";

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

}  // namespace

int cmd_kernels(Invocation& call) {
  CLI::App app{"Shows the kernels: how each operation of a model is computed.", "tessera kernels"};
  app.require_subcommand(1);
  app.footer(kExamples);
  CLI::App* list_app = app.add_subcommand("list", "every kernel that serves this machine, in order of preference");
  list_app->footer(kExamples);
  if (!parse(app, call)) return 0;
  return list(call);
}

}  // namespace tessera::cli

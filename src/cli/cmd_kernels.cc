// tessera kernels: which kernels this program has, which serve this machine, and which ones a model runs on.
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/options.h"
#include "kernels/table.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera kernels list
  tessera kernels explain models/glossary
  TESSERA_ISA=avx2 tessera kernels list        as on a machine without AVX-512)";

const char* device_name(DeviceType device) { return device == DeviceType::kCpu ? "cpu" : "cuda"; }

int list(Invocation& call) {
  OrderedJson ops = OrderedJson::array();
  std::string text = "First row of an op that accepts a problem computes it; only rows that this machine can run are here.\n";
  const Kernels kernels = Kernels::builtin(cpu_isa_from_env());
  kernels.for_each([&](const auto& table) {
    OrderedJson rows = OrderedJson::array();
    text += fmt::format("\n{}\n", table.op);
    for (const auto& row : table.rows) {
      rows.push_back({{"name", row.name}, {"device", device_name(row.device)}, {"summary", row.summary}});
      text += fmt::format("  {:<32} {:<5} {}\n", row.name, device_name(row.device), row.summary);
    }
    ops.push_back({{"op", table.op}, {"rows", rows}});
  });
  if (call.json) {
    call.out.json({{"ops", ops}});
  } else {
    call.out.text(text);
  }
  return 0;
}

int explain(Invocation& call, const ModelOptions& options) {
  Llm llm = load_llm(options);
  OrderedJson object = OrderedJson::parse(llm.describe_kernels());
  call.out.text(call.json ? object.dump(2) + "\n" : as_text(object));
  return 0;
}

}  // namespace

int cmd_kernels(Invocation& call) {
  CLI::App app{"Shows the kernels: how each operation of a model is computed.", "tessera kernels"};
  app.require_subcommand(1);
  app.footer(kExamples);
  CLI::App* list_app = app.add_subcommand("list", "every kernel that serves this machine, in order of preference");
  CLI::App* explain_app = app.add_subcommand("explain", "the kernels a model runs on, and why the others do not serve");
  ModelOptions model;
  add_model_options(*explain_app, model);
  if (!parse(app, call)) return 0;
  return list_app->parsed() ? list(call) : explain(call, model);
}

}  // namespace tessera::cli

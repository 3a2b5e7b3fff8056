// Subcommands of `tessera kernels` for those who write kernels: check, init, build, export; and `try`, which the
// program starts itself.
#pragma once

#include <optional>
#include <string>

#include "cli/commands.h"

namespace tessera::cli {

// The file with this program's own kernels as functions of tvm-ffi's ABI. Throws kNotFound.
std::string own_kernels_library();

class KernelTools {
 public:
  void add(CLI::App& kernels);
  // The exit code, when one of them was asked for.
  std::optional<int> run(Invocation& call) const;

 private:
  int check(Invocation& call) const;
  int init(Invocation& call) const;
  int build(Invocation& call) const;
  int export_ours(Invocation& call) const;

  CLI::App *check_ = nullptr, *init_ = nullptr, *build_ = nullptr, *export_ = nullptr, *try_ = nullptr;
  std::string source_, device_ = "cpu", only_layer_;
  std::vector<std::string> trusted_;
  double timeout_ = 120;
  std::string folder_, out_, floor_ = "manylinux_2_28", floor_of_export_ = "none";
};

}  // namespace tessera::cli

// Trying a hub kernel before it is used: against the reference op, on random operands of a problem's kind, in a process
// of its own, so that one that crashes, hangs or writes where it should not is refused and nothing else happens.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "kernels/hub/layer_abi.h"

namespace tessera::hub_kernels {

// What the process is told, as JSON on its standard input.
struct TrialSpec {
  std::string library, sha256;
  std::string layer;     // of layers()
  std::string function;  // as the library exports it
  std::string device = "cpu";
  Key key{};
  bool timed = false;  // measure it and the built-in kernel too

  Json json() const;
  static TrialSpec parse(const Json& json);  // throws kInvalidArgument
};

struct TrialTime {
  int64_t tokens = 0;
  double hub_us = 0, builtin_us = 0;  // best of many; builtin_us 0: no built-in kernel takes the case
  std::string builtin;                // its row
};

struct TrialResult {
  bool ok = false;
  bool final = true;  // false: the trial could not be made; not remembered
  std::string why;    // it was refused: one line
  std::vector<TrialTime> times;

  Json json() const;
  static TrialResult parse(const Json& json);
};

// In the child: tries, and writes the result's JSON to `out` (a file descriptor), even from a crash.
void run_trial(const TrialSpec& spec, int out);

// Starts `program kernels try`, waits at most `timeout_s` seconds. Never throws for what the kernel did.
TrialResult try_in_child(const TrialSpec& spec, const std::string& program, double timeout_s);

// TESSERA_KERNEL_CHECKER, or this program if it is tessera, or tessera in PATH; empty when there is none.
std::string checker_program();

// Results by the library's hash, the device's name and the kind of problem, in $XDG_CACHE_HOME/tessera/kernels.
class TrialMemory {
 public:
  explicit TrialMemory(std::string folder = "");  // empty: the default
  // Whether a result is there.
  bool find(const TrialSpec& spec, const std::string& device_name, TrialResult& result) const;
  // A full disk is not an error: it is tried again next time.
  void store(const TrialSpec& spec, const std::string& device_name, const TrialResult& result) const;

 private:
  std::string path(const TrialSpec& spec, const std::string& device_name) const;
  std::string folder_;
};

}  // namespace tessera::hub_kernels

#include "core/env.h"

#include <charconv>
#include <cstdlib>

#include "core/error.h"

namespace tessera {

namespace {
constexpr EnvRow kRows[] = {
    {Env::kLog, "TESSERA_LOG", "warn", "log level on stderr: trace, debug, info, warn, error, off"},
    {Env::kThreads, "TESSERA_THREADS", "0", "CPU threads; 0 takes the cores this process may use"},
    {Env::kIsa, "TESSERA_ISA", "auto",
     "CPU kernels: auto, reference, avx2, avx512 (forces a slower one for comparison)"},
    {Env::kNoColor, "NO_COLOR", "", "set to anything: no dimmed text on a terminal"},
    {Env::kStateHome, "XDG_STATE_HOME", "", "where tessera/history is kept (default: $HOME/.local/state)"},
    {Env::kApiKey, "TESSERA_API_KEY", "", "the key that 'tessera serve' asks its clients for"},
    {Env::kHome, "HOME", "", "the user's folder"},
};
const EnvRow& row(Env id) {
  for (const EnvRow& r : kRows)
    if (r.id == id) return r;
  TS_CHECK(false, "environment row missing");
  return kRows[0];
}
}  // namespace

std::span<const EnvRow> env_rows() {
  return kRows;
}

std::string env_string(Env id) {
  const EnvRow& r = row(id);
  const char* value = std::getenv(r.name);
  return value && *value ? value : r.fallback;
}

long env_long(Env id) {
  std::string value = env_string(id);
  long out = 0;
  auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out);
  if (error != std::errc() || end != value.data() + value.size())
    fail(ErrorCode::kInvalidArgument, "{}={} is not a whole number", row(id).name, value);
  return out;
}

}  // namespace tessera

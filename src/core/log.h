// Logging goes to stderr through spdlog, so stdout stays the program's answer. Level: TESSERA_LOG (trace, debug, info,
// warn, error, off), default warn for the command line. Thread-safe.
#pragma once

#include <spdlog/spdlog.h>

#ifndef SPDLOG_COMPILED_LIB
#error "link spdlog::spdlog: without it this file gets a logger of its own, which writes to stdout"
#endif

namespace tessera {

// Sets the sink (stderr, plain one-line pattern) and the level from the environment. Idempotent.
void init_logging();

namespace log = spdlog;

}  // namespace tessera

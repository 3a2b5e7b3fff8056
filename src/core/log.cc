#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include "core/env.h"

namespace tessera {

void init_logging() {
  static const bool once = [] {
    auto logger = spdlog::stderr_color_mt("tessera");
    logger->set_pattern("%^%l%$: %v");
    logger->set_level(spdlog::level::from_str(env_string(Env::kLog)));
    spdlog::set_default_logger(std::move(logger));
    return true;
  }();
  (void)once;
}

}  // namespace tessera

// fail(): throws tessera::Error with a formatted message.  TS_CHECK: programmer's mistake, prints and aborts; never
// reachable from input.  TS_DCHECK: the same, in debug builds only.
#pragma once

#include <fmt/format.h>

#include <utility>

#include "tessera/error.h"

namespace tessera {

template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& detail);

}  // namespace tessera

#define TS_CHECK(condition, ...)                                                              \
  do {                                                                                        \
    if (!(condition)) [[unlikely]]                                                            \
      ::tessera::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
  } while (false)

#ifdef NDEBUG
#define TS_DCHECK(condition, ...) \
  do {                            \
  } while (false)
#else
#define TS_DCHECK(condition, ...) TS_CHECK(condition, __VA_ARGS__)
#endif

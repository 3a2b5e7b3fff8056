#include "cli/output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace tessera::cli {

bool Output::put(std::string_view text) noexcept {
  if (error_) return false;
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    error_ = errno ? errno : EIO;
  }
  return error_ == 0;
}

void Output::check() const {
  if (error_ == EPIPE) throw PipeClosed{};
  if (error_) fail(ErrorCode::kIo, "standard output: {}", std::strerror(error_));
}

void Output::text(std::string_view text) {
  put(text);
  check();
}

void Output::json(const OrderedJson& object) {
  text(object.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

}  // namespace tessera::cli

// The one exception type of tessera: the caller's mistake or a bad world (missing file, corrupt header, unsupported
// shape, no memory at start, bad request). Thrown on cold paths only. The message says where, what was found, what was
// expected and what to do, in one line.
#pragma once

#include <stdexcept>
#include <string>

namespace tessera {

enum class ErrorCode {
  kInvalidArgument,  // the caller asked for something impossible
  kNotFound,         // a file, model or name does not exist
  kCorrupt,          // a file exists and its content is wrong
  kUnsupported,      // well-formed, but this program cannot do it
  kOutOfMemory,      // would not fit; the message says how much was needed
  kIo,               // the operating system refused (permissions, full disk)
  kCancelled,
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace tessera

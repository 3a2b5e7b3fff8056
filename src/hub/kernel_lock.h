// kernels.lock: which commit each kernel is, in the form of Python's client, and beside it kernels.files.lock with the
// SHA-256 of every file of every variant, which that form cannot carry. Foreign bytes; parsing is total or throws.
// Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "hub/kernel_metadata.h"

namespace tessera::hub {

inline constexpr const char* kLockFile = "kernels.lock";
inline constexpr const char* kFilesLockFile = "kernels.files.lock";

struct KernelLock {
  std::string commit;
  // "build/<variant>/<file>" -> SHA-256, 64 digits. Empty: the files are not locked, the commit alone is.
  std::map<std::string, std::string> files;
};
using KernelLocks = std::map<KernelDependency, KernelLock>;

// The text of kernels.lock: today's form (dependency, lock), and the older one (repo_id, sha, variants). Throws
// kCorrupt.
KernelLocks parse_kernel_locks(std::string_view json, const std::string& where);
// Adds what kernels.files.lock says. Throws kCorrupt, also when it speaks of other commits than `locks`.
void add_file_locks(KernelLocks& locks, std::string_view json, const std::string& where);

std::string kernel_locks_text(const KernelLocks& locks);  // as Python's client writes it
std::string file_locks_text(const KernelLocks& locks);

// Both files of a folder, or `path` itself and the other beside it. Throws kNotFound, kCorrupt.
KernelLocks read_kernel_locks(const std::string& path);

}  // namespace tessera::hub

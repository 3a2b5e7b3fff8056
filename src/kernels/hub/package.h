// A library as a variant of a kernel repository: build/<variant>/ with metadata.json and the digests of its files, as
// the hub's clients read it.
#pragma once

#include <string>
#include <vector>

#include "kernels/hub/elf.h"

namespace tessera::hub_kernels {

struct PackageInfo {
  std::string name;  // "custom-kernel"
  int64_t version = 1;
  std::string license;
  std::string backend = "cpu";     // or "cu130"
  std::vector<std::string> archs;  // of a GPU: "9.0a"
};

// kernel.json of a project. Throws kNotFound, kCorrupt naming what is wrong.
PackageInfo read_package_info(const std::string& path);

// "manylinux_2_28" and the like, or "none". Throws kInvalidArgument with the names that there are.
AbiFloor abi_floor(const std::string& name);

struct Package {
  std::string variant, folder;
  std::vector<std::string> functions;
  std::vector<std::string> newer;  // what the library needs beyond the floor
};

// Replaces OUT/build/<variant>. Throws kUnsupported when the library is no tvm-ffi kernel, or needs a newer system than
// the floor and `strict`; kNotFound, kIo.
Package write_package(const std::string& library, const PackageInfo& info, const AbiFloor& floor, bool strict,
                      const std::string& out);

}  // namespace tessera::hub_kernels

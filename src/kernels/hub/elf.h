// What a 64-bit little-endian ELF library exports and what it needs of the system. Parses foreign bytes: any input is
// answered or refused, in time and memory linear in its size.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera::hub_kernels {

struct ElfLibrary {
  std::string machine;                // "x86_64", "aarch64", or "machine N"
  std::vector<std::string> exported;  // defined dynamic symbols
  std::vector<std::string> undefined;
  std::vector<std::string> needed;    // libraries
  std::vector<std::string> versions;  // of symbols that it needs: "GLIBC_2.34", "GLIBCXX_3.4.29"
};

// Throws kCorrupt saying what is wrong, `where` opening the message.
ElfLibrary read_elf(std::string_view bytes, const std::string& where = "library");

// The newest system that a library may need, as in manylinux_2_28.
struct AbiFloor {
  std::string name = "manylinux_2_28";
  std::string glibc = "2.28", glibcxx = "3.4.24", cxxabi = "1.3.11";
};

// A line for each version that is newer than the floor; empty when it runs there.
std::vector<std::string> above_floor(const ElfLibrary& library, const AbiFloor& floor);

}  // namespace tessera::hub_kernels

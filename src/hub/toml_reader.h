// The part of TOML that kernel repositories and projects use: keys in tables whose values are strings or whole numbers.
// Every other value is stepped over whole; what is no TOML is an Error with its line. Foreign bytes; linear, no
// recursion.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::hub {

struct TomlEntry {
  std::vector<std::string> path;  // of the table and the key
  std::optional<std::string> text;
  std::optional<int64_t> number;  // neither: another kind of value
};

// In the file's order; what is below [[arrays of tables]] is left out. Throws kCorrupt, also for a key given twice.
std::vector<TomlEntry> read_toml(std::string_view text, const std::string& where);

}  // namespace tessera::hub

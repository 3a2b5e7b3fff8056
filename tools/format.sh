#!/usr/bin/env bash
# Formats every C++ file of the project in place; --check only reports and exits 1 when one differs.
# clang-format 14 (Debian 12) is the reference: other versions may disagree with it.
set -euo pipefail
cd "$(dirname "$0")/.."
format=$(command -v clang-format-14 || command -v clang-format) || { echo "format.sh: install clang-format (version 14)" >&2; exit 2; }
folders=()
for folder in src include tests bench fuzz examples tools; do [ -d "$folder" ] && folders+=("$folder"); done
mapfile -t files < <(find "${folders[@]}" -type f \( -name '*.h' -o -name '*.cc' \) | LC_ALL=C sort)
if [ "${1:-}" = --check ]; then
  "$format" --dry-run -Werror "${files[@]}"
else
  "$format" -i "${files[@]}"
fi

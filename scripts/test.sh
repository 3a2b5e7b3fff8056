#!/usr/bin/env bash
# Everything that must hold before a change lands: format, floors, file lengths, all tests, sanitizers, and the GPU code's
# compilation where nvcc is. Installs and builds what is missing. Ends with one line "N passed, N failed".
#
# usage: scripts/test.sh
set -uo pipefail
cd "$(dirname "$0")/.."
passed=0 failed=0
jobs=$(nproc)

say() { printf '\n== %s\n' "$*"; }

# check NAME COMMAND...: one pass or one failure.
check() {
  say "$1"
  if "${@:2}"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $1"
    return 1
  fi
}

finish() {
  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ]
  exit
}

file_lengths() {
  local long
  long=$(find src include tests bench fuzz examples tools -type f \
    \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.py' \) -exec wc -l {} + |
    awk '$1 > 800 && $2 != "total" { print $2 ": " $1 " lines, at most 800" }')
  [ -z "$long" ] || { echo "$long"; return 1; }
}

# ctest_in PRESET [CTEST ARGUMENTS...]: adds the preset's tests to the sums.
ctest_in() {
  local report=build/$1/ctest.xml
  say "tests: $*"
  rm -f "$report"
  ctest --preset "$1" --parallel "$jobs" --output-junit "$PWD/$report" "${@:2}" | grep -vE '^ *(Start|[0-9]+/[0-9]+ Test.*Passed)'
  local suite
  suite=$(sed -n '/<testsuite /,/>/p' "$report" 2>/dev/null | tr '\n\t' '  ')
  number() { sed -n "s/.* $1=\"\([0-9]*\)\".*/\1/p" <<<"$suite"; }
  local tests failures skipped
  tests=$(number tests) failures=$(number failures) skipped=$(( $(number skipped) + $(number disabled) ))
  if [ -z "$tests" ] || [ "$tests" = 0 ]; then
    failed=$((failed + 1))
    echo "FAILED: no tests ran in build/$1"
    return
  fi
  passed=$((passed + tests - failures - skipped))
  failed=$((failed + failures))
  [ "$skipped" = 0 ] || echo "$skipped skipped"
}

# sanitized PRESET PROGRAM...: builds and runs these test programs. FOLDERS: all that is built of src/; WITHOUT: tests left out.
sanitized() {
  local preset=$1 programs=("${@:2}")
  check "$preset: build" bash -c '
    [ -f build/$0/build.ninja ] || cmake --preset $0 ${FOLDERS:+"-DTESSERA_FOLDERS=$FOLDERS"} >/dev/null || exit 1
    ninja -C build/$0 --quiet "$@"' "$preset" "${programs[@]}" || return
  ctest_in "$preset" -L "^($(IFS='|'; echo "${programs[*]}"))\$" -E "${WITHOUT:-^\$}"
}

# The object files of the GPU code and of its benchmarks; the tests that need a GPU are not built.
gpu_objects() {
  cmake --preset cuda -DTESSERA_TESTS=OFF -DTESSERA_BENCH=ON >/dev/null || return
  local objects
  mapfile -t objects < <(ninja -C build/cuda -t targets all | sed -nE 's/^(.*tessera_cuda[a-z_]*\.dir.*\.o|bench\/.*\.cu\.o): .*/\1/p')
  [ ${#objects[@]} -gt 0 ] && ninja -C build/cuda --quiet "${objects[@]}"
}

check "packages and configuration" scripts/setup.sh test || finish
[ ! -d build/python ] || export TESSERA_TVM_FFI=${TESSERA_TVM_FFI:-$PWD/build/python}
check "format" tools/format.sh --check
check "floors" tools/check_floors.py
check "file lengths" file_lengths
check "release: build with benchmarks, warnings are errors" ninja -C build/release --quiet || finish
ctest_in release
if command -v nvcc >/dev/null; then
  check "cuda: compile" gpu_objects
else
  say "cuda: no nvcc, not compiled"
fi
TESSERA_FORCED_STREAMS=1000 sanitized asan text_test loading_test hub_test server_test server_forced_test
# The simulation of the scheduler has one thread.
FOLDERS='core;quant;parallel;cache;hub;kernels;loading;layers;models;engine' WITHOUT=Simulation \
  sanitized tsan core_test engine_test parallel_test layers_test
finish

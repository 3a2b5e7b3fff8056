#!/usr/bin/env bash
# What two GPUs do with experts dispatched: collectives checked and timed, models against one GPU, ranks that are killed,
# throughput of the plans beside each other. Ends with a line that says what was wrong.
#
# usage: two_gpus.sh check|kill|speed [BUILD_FOLDER] [CHECKPOINT]   (speed needs one)
set -u
cd "$(dirname "$0")/../.."
what=${1:?check, kill or speed} build=${2:-build/cuda} checkpoint=${3:-}
wrong=()

run() { echo "== $*"; "$@" || wrong+=("$*"); }

case $what in
  check)
    run "$build/comm_check" --ranks 2
    run "$build/comm_check" --ranks 2 --processes --no-times
    run "$build/ranks_test" '--gtest_filter=RanksGpu.*'
    for attention in tp dp; do
      run "$build/tessera" launch 2 generate models/glossary --device cuda --dtype float32 --ep 2 --attention $attention \
        -p "Courage means" --temperature 0 --max-tokens 20
    done
    ;;
  kill)
    run env TESSERA_PROGRAM="$build/tessera" tests/parallel/kill_test.py --device cuda --kills "${TESSERA_KILLS:-5}"
    run env TESSERA_PROGRAM="$build/tessera" tests/parallel/kill_test.py --device cuda --kills 2 --plan "--ep 2 --attention dp"
    ;;
  speed)
    : "${checkpoint:?speed needs a checkpoint}"
    for sequences in 128 256; do
      for plan in "" "--tp 2" "--ep 2" "--ep 2 --attention dp"; do
        echo "== $sequences sequences, ${plan:-one GPU}"
        # shellcheck disable=SC2086
        "$build/tessera" bench throughput "$checkpoint" --device cuda --max-context 1024 --no-prefix-cache \
          --max-batch-tokens 8192 --output-median 0 \
          --prompt-tokens 128 128 --output-tokens 128 128 --requests $((2 * sequences)) --max-requests $sequences $plan ||
          wrong+=("speed $sequences $plan")
      done
    done
    ;;
esac
[ ${#wrong[@]} -eq 0 ] && echo "two_gpus.sh $what: all right" && exit
printf 'wrong: %s\n' "${wrong[@]}"
exit 1

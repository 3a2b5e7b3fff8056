#!/usr/bin/env bash
# MPI ranks on this machine: right results on 1 to 4 of them, and a rank that gives up ends all, with its cause.
# usage: mpi_test.sh MPI_PROGRAM MPIEXEC
set -u
program=$1 mpiexec=$2
[ -x "$mpiexec" ] || { echo "no mpirun here"; exit 77; }
as_root=()
[ "$(id -u)" = 0 ] && as_root=(--allow-run-as-root)
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

ranks() {  # ranks N [LOST_RANK]
  local n=$1
  shift
  MASTER_PORT=$((20000 + RANDOM % 10000)) timeout 100 "$mpiexec" "${as_root[@]}" --oversubscribe -n "$n" "$program" "$@" 2>"$errors"
}

for n in 1 2 3 4; do
  out=$(ranks "$n") || { echo "$n ranks: status $?"; cat "$errors"; exit 1; }
  [ "$(grep -c ": right$" <<<"$out")" = "$n" ] || { echo "$n ranks said: $out"; exit 1; }
done
for lost in 0 2; do
  start=$SECONDS
  ranks 3 $lost >/dev/null
  status=$?
  grep -q "^tessera: rank $lost of 3: gives up$" "$errors" || { echo "rank $lost is not named:"; cat "$errors"; exit 1; }
  [ $status -ne 0 ] && [ $status -ne 124 ] || { echo "status $status after a rank was lost"; exit 1; }
  [ $((SECONDS - start)) -lt 20 ] || { echo "a lost rank took $((SECONDS - start)) s"; exit 1; }
done
echo "right on 1 to 4 ranks; a lost rank is named"

#!/usr/bin/env bash
# MPI ranks on this machine: right results on 1 to 4 of them, a rank that gives up ends all, with its cause; and every
# golden model under every plan that it allows, with ranks placed by mpirun, and by torchrun's and Slurm's variables.
# usage: mpi_test.sh MPI_PROGRAM MPIEXEC calls | mpi_test.sh MPI_PROGRAM MPIEXEC golden FIXTURES
set -u
program=$1 mpiexec=$2 part=$3 fixtures=${4:-}
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

# A model's greedy tokens and logits. The launcher's own variables, or those of another with the same ranks.
golden() {  # golden N MODEL TP EP ATTENTION [torchrun|srun]
  local placed='exec "$@"'
  case ${6:-} in
    torchrun) placed='RANK=$OMPI_COMM_WORLD_RANK WORLD_SIZE=$OMPI_COMM_WORLD_SIZE MASTER_ADDR=127.0.0.1 exec "$@"' ;;
    srun) placed='export SLURM_PROCID=$OMPI_COMM_WORLD_RANK SLURM_STEP_NUM_TASKS=$OMPI_COMM_WORLD_SIZE MASTER_ADDR=127.0.0.1
      unset OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE; exec "$@"' ;;
  esac
  MASTER_PORT=$((20000 + RANDOM % 10000)) timeout 100 "$mpiexec" "${as_root[@]}" --oversubscribe -n "$1" \
    sh -c "$placed" sh "$program" golden "$fixtures/$2" "$3" "$4" "$5" 2>"$errors" | grep " ranks placed by .*: right$" ||
    { echo "$2 --tp $3 --ep $4 --attention $5 on $1 ranks:"; cat "$errors"; exit 1; }
}
if [ "$part" = golden ]; then
  [ -d "$fixtures/gpt_oss" ] || { echo "fixture gpt_oss is not in $fixtures"; exit 77; }
  for model in gpt_oss gpt_oss_mxfp4 llama mistral qwen3 qwen3_moe; do
    echo "$model"
    for tp in 2 3 4; do golden $tp $model $tp 0 tp; done
    case $model in gpt_oss* | qwen3_moe) ;; *) continue ;; esac
    for plan in "2 0 2 tp" "4 0 4 tp" "4 4 2 tp" "4 2 4 tp" "2 0 2 dp" "4 2 4 dp"; do
      set -- $plan
      golden "$1" $model "$2" "$3" "$4"
    done
  done
  golden 2 gpt_oss_mxfp4 2 0 tp torchrun
  golden 2 gpt_oss_mxfp4 0 2 dp srun
  exit 0
fi

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

#!/usr/bin/env bash
# A random checkpoint of gpt-oss-120b on a GPU limited to some memory: what main memory gives, the bound that sets, tokens
# a second, and the GPU memory that nvidia-smi sees. Needs a build with the preset cuda (targets tessera_cli,
# make_checkpoint, bandwidth), one NVIDIA GPU and 70 GB of space in memory.
#
# usage: scripts/offload_gpu.sh [MEMORY=24GiB] [FOLDER=/dev/shm/random-120b] [LAYERS=36]
# Keeps the checkpoint for the next run.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
memory=${1:-24GiB} folder=${2:-/dev/shm/random-120b} layers=${3:-36}
build=$top/build/cuda
tessera=$build/tessera
work=$(mktemp -d)
watcher=
trap '[ -z "$watcher" ] || kill "$watcher" 2>/dev/null; rm -rf "$work"' EXIT

prompt=16 answer=128
program() { find "$build" -name "$1" -type f -perm -u+x | head -n 1; }

if [ ! -f "$folder/config.json" ]; then
  cat > "$work/config.json" <<'JSON'
{"architectures": ["GptOssForCausalLM"], "attention_bias": true, "eos_token_id": 200002, "head_dim": 64, "hidden_act": "silu",
 "hidden_size": 2880, "initial_context_length": 4096, "intermediate_size": 2880, "max_position_embeddings": 131072,
 "model_type": "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 36,
 "num_key_value_heads": 8, "num_local_experts": 128, "pad_token_id": 199999, "rms_norm_eps": 1e-05, "rope_theta": 150000,
 "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
 "rope_type": "yarn", "truncate": false}, "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": false,
 "torch_dtype": "bfloat16", "vocab_size": 201088, "quantization_config": {"quant_method": "mxfp4",
 "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}}
JSON
  "$(program make_checkpoint)" --config "$work/config.json" --out "$folder" --seed 1 --layers "$layers"
fi

echo "== main memory"
"$(program bandwidth)"
nvidia-smi --query-gpu=name,memory.total,memory.used --format=csv,noheader

# Most that nvidia-smi sees while a command runs, in MiB.
watch_memory() {
  local most=0 now
  while sleep 0.3; do
    now=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1)
    if [ "$now" -gt "$most" ]; then
      most=$now
      echo "$most" > "$work/most"
    fi
  done
}

# run NAME ARGUMENTS...: one request at a time, greedy or not does not matter: the same work.
run() {
  local name=$1
  shift
  echo "== $name: $*"
  : > "$work/most"
  watch_memory &
  watcher=$!
  "$tessera" bench latency "$folder" --device cuda --device-memory "$memory" --max-context 4096 --max-requests 1 \
    --requests 3 --prompt-tokens "$prompt" "$prompt" --output-tokens "$answer" "$answer" "$@" > "$work/out" 2> "$work/plan" || echo "FAILED"
  kill "$watcher"
  wait "$watcher" 2>/dev/null || true
  watcher=
  cat "$work/plan" "$work/out"
  echo "nvidia-smi saw $(cat "$work/most") MiB at most; the limit is $memory"
  local bound itl
  bound=$(grep -o 'bound by main memory [0-9.]*' "$work/plan" | grep -o '[0-9.]*$' || true)
  itl=$(grep -o 'ITL [0-9.]*' "$work/out" | grep -o '[0-9.]*$' || true)
  if [ -n "$bound" ] && [ -n "$itl" ]; then
    awk -v b="$bound" -v i="$itl" 'BEGIN { printf "RESULT decode %.1f tokens/s, bound %.1f tokens/s: %.0f %%\n", 1000 / i, b, 100000 / i / b }'
  fi
}

# What handing a layer over costs: a model so small that its experts take no time.
echo "== the glossary model, nothing and everything on the host"
for moved in 0 99; do
  "$tessera" bench latency "$top/models/glossary" --device cuda --cpu-moe "$moved" --max-context 1024 --max-requests 1 \
    --requests 3 --prompt-tokens 16 16 --output-tokens 256 256 2> /dev/null | grep ITL
done
grep num_hidden_layers "$top/models/glossary/config.json"

run "auto" --device-map auto
run "all experts on the host" --cpu-moe 99
prompt=2048 answer=4
run "a long prompt" --device-map auto --max-batch-tokens 2048
echo "== what cannot fit is refused"
"$tessera" bench latency "$folder" --device cuda --device-memory "$memory" --cpu-moe 1 --max-context 4096 --requests 1 || true
"$tessera" bench latency "$folder" --device cuda --device-memory "$memory" --max-context 4096 --requests 1 || true

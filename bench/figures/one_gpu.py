#!/usr/bin/env python3
"""gpt-oss on one GPU: checks first, times after, in one table. Exit 1 when something was wrong or slower than its bar.

usage: one_gpu.py [--build build/cuda] [--models /dev/shm] [--disk /var/tmp] [--out FOLDER] [PHASE ...]

Phases, all of them when none is named:
  check     every kernel row against float64, as this card and as cards of compute capability 8.0 and 7.5; golden models,
            chats, perplexity, definitions, batches, faults; what an older card is told
  errors    the rows' errors beside PyTorch's (needs torch)
  sanitize  compute-sanitizer's memcheck, and racecheck where it follows the barriers used
  hub       kernels of the hub's form: streams respected, checked against the built-in ones
            (TESSERA_CUSTOM_KERNEL: a built examples/custom_kernel; TESSERA_TVM_FFI: libtvm_ffi.so)
  20b, 120b a random checkpoint of the full size, in memory: memory as forecast, load, tokens a second
  cold      the 20b on a disk, read when nothing of it is in memory

Needs a build with the preset cuda, -DTESSERA_TESTS=ON -DTESSERA_BENCH=ON, and 14 or 66 GB of space for a checkpoint, which is
removed after its phase. Each step has a time limit; its whole output is kept under --out.
"""
import argparse
import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "models/glossary"
ROPE = {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn",
        "truncate": False}
CONFIG = {"architectures": ["GptOssForCausalLM"], "attention_bias": True, "eos_token_id": 200002, "head_dim": 64,
          "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096, "intermediate_size": 2880,
          "max_position_embeddings": 131072, "model_type": "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4,
          "num_key_value_heads": 8, "pad_token_id": 199999, "rms_norm_eps": 1e-05, "rope_theta": 150000, "rope_scaling": ROPE,
          "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
          "vocab_size": 201088, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": [
              "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}}
SIZES = {"20b": {"num_hidden_layers": 24, "num_local_experts": 32}, "120b": {"num_hidden_layers": 36, "num_local_experts": 128}}

# Tokens a second: name, (kind, prompt, answer, sequences), llama.cpp's figure on an H100 (docs/benchmarks.md) or None.
POINTS = {
    "20b": [("1 sequence, context 0", ("itl", 2, 256, 1), 313.5), ("context 4096", ("itl", 4000, 128, 1), 300.8),
            *[(f"{n} sequences", ("decode", 128, 128, n), bar) for n, bar in ((8, 853.5), (32, 1561), (64, 2320), (128, 3387), (256, 5064))],
            *[(f"prompt of {n}", ("prefill", n, 2, 1), bar) for n, bar in ((512, 10215), (2048, 12752), (8000, 14580))]],
    "120b": [("1 sequence, context 128", ("itl", 128, 256, 1), 209),
             *[(f"{n} sequences", ("decode", 128, 128, n), bar) for n, bar in ((8, 561), (32, 500), (128, 790))],
             ("prompt of 2048", ("prefill", 2048, 2, 1), 6477)],
}


class Table:
    def __init__(self, args):
        self.out = args.out
        self.rows = self.wrong = 0
        self.names = set()

    def row(self, right, name, seconds, said):
        self.rows += 1
        self.names.add(name)
        self.wrong += not right
        print(f"{'right' if right else 'WRONG':5}  {name:48} {seconds:6.1f} s  {said}", flush=True)

    def run(self, name, limit, words, expect=0, show=None, env=None):
        """Runs a command; the row shows the last line that matches `show`, else the last line. Returns its output."""
        log = self.out / (re.sub(r"\W+", "_", name) + ".txt")
        start = time.monotonic()
        with open(log, "w") as file:
            child = subprocess.Popen([str(w) for w in words], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                                     env={**os.environ, **(env or {})}, start_new_session=True)
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                code = f"over {limit} s"
        text = log.read_text(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        hits = [line for line in lines if show and re.search(show, line)]
        said = (hits or lines or ["(no output)"])[-1].strip()[:160]
        if show and not hits:
            said = f"no line like '{show}': {said}"
        self.row(code == expect and (not show or hits), name, time.monotonic() - start, said if code == expect else f"exit {code}: {said}")
        return text


def check(t, b, _):
    for card in ("", "8.0", "7.5"):
        name = f"cuda_check as {card}" if card else "cuda_check"
        t.run(name, 150, [b / "cuda_check", 7], show=r"cases, 0 failed", env={"TESSERA_CUDA_CAPABILITY": card} if card else None)
    passed = r"PASSED  \] [1-9]"
    t.run("golden models, float32", 120, [b / "golden_test", "--gtest_filter=*cuda*"], show=passed)
    t.run("glossary: chats, logits, perplexity, definitions", 240, [b / "glossary_test"], show=passed)
    t.run("batches, --deterministic", 240, [b / "batch_test"], show=passed)
    t.run("pages swapped and placed", 120, [b / "engine_test", "--gtest_filter=*PageMoves*:Placement*"], show=passed)
    t.run("a kernel that faults in a batch", 60, [b / "device_fault_test"], show=passed)
    ask = [b / "tessera", "generate", GLOSSARY, "--device", "cuda", "-p", "What is hope?", "--max-tokens", 8, "--temperature", 0]
    t.run("a card of 7.0 is told what it lacks", 60, ask, env={"TESSERA_CUDA_CAPABILITY": "7.0"}, show="7.5")
    t.run("the same with --no-fallback", 60, [*ask, "--no-fallback"], expect=1, env={"TESSERA_CUDA_CAPABILITY": "7.0"}, show="7.5")
    t.run("no GPU to be seen", 60, [*ask[:4], "auto", *ask[5:]], env={"CUDA_VISIBLE_DEVICES": ""}, show="CPU")
    t.run("500 definitions, --dense fp8", 120, [b / "tessera", "eval", "exact-match", GLOSSARY, "--questions",
                                                ROOT / "tests/data/glossary-words500.json", "--device", "cuda", "--dense", "fp8"])


def errors(t, b, _):
    if importlib.util.find_spec("torch") is None:
        return t.row(True, "errors beside PyTorch's", 0, "left out: no torch")
    if "cuda_check" not in t.names:
        t.run("cuda_check", 150, [b / "cuda_check", 7], show=r"cases, 0 failed")
    t.run("errors beside PyTorch's", 150, [sys.executable, ROOT / "tools/op_errors.py", t.out / "cuda_check.txt"])


def sanitize(t, b, _):
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    for ops in ("small", "fused", "moe", "attention", "sample"):
        t.run(f"memcheck {ops}", 200, [tool, "--target-processes", "all", "--tool", "memcheck", b / "cuda_check", 7, ops], show="SUMMARY: 0 errors")
    # Parts of mangled names. Not the rows of bulk copies and mbarriers, which the tool does not follow (bench/lab/racecheck_ring.cu).
    for kernel, ops in (("moe_gate_up_single", "moe"), ("moe_down_single", "moe"), ("moe_groupedI", "moe"), ("norm_and_route", "route")):
        t.run(f"racecheck {kernel}", 120, [tool, "--target-processes", "all", "--tool", "racecheck", "--kernel-name",
                                           f"kernel_substring={kernel}", b / "cuda_check", 7, ops], show="SUMMARY: 0 hazards")


def hub(t, b, _):
    t.run("hub kernels respect streams", 60, [b / "hub_stream_test"], show=r"PASSED  \] [1-9]")
    own = os.environ.get("TESSERA_OWN_KERNELS", b / "tessera_kernels.so")
    t.run("our exported kernels", 150, [b / "tessera", "kernels", "check", own, "--device", "cuda"])
    if example := os.environ.get("TESSERA_CUSTOM_KERNEL"):
        t.run("the example", 60, [b / "tessera", "kernels", "check", example, "--device", "cuda"])


def used_mib():
    return int(subprocess.check_output(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], text=True).split()[0])


def memory(t, b, model, size):
    """What `inspect` forecasts beside what a run then takes, within 3 %."""
    context, sequences = (32768, 1) if size == "20b" else (131072, 3)
    limits = ["--device", "cuda", "--max-context", str(context), "--max-requests", str(sequences)]
    said = subprocess.run([b / "tessera", "inspect", model, *limits, "--json"], stdout=subprocess.PIPE, text=True)
    forecast = json.loads(said.stdout)["forecast"]["total_bytes"] if said.returncode == 0 else 0
    start, before = time.monotonic(), used_mib()
    words = ["bench", "throughput", model, *limits, "--requests", sequences, "--prompt-tokens", 30000, 30000, "--output-tokens", 64, 64,
             "--output-median", 0]
    child = subprocess.Popen([str(b / "tessera"), *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while child.poll() is None and time.monotonic() - start < 120:
        most = max(most, used_mib() - before)
        time.sleep(0.1)
    child.kill()
    child.wait()
    used = most * 2**20
    right = forecast > 0 and abs(used / forecast - 1) <= 0.03
    t.row(right, f"{size}: memory, {sequences} of {context} tokens", time.monotonic() - start,
          f"forecast {forecast / 1e9:.2f} GB, nvidia-smi {used / 1e9:.2f} GB")


def measure(b, model, kind, prompt, answer, sequences):
    """Tokens a second; nothing when the command failed."""
    context = max(512, 256 * ((prompt + answer) // 256 + 2))
    words = ["--device", "cuda", "--no-prefix-cache", "--output-median", 0, "--max-context", context, "--max-batch-tokens", 8192,
             "--prompt-tokens", prompt, prompt, "--output-tokens", answer, answer, "--json"]
    ways = {"decode": ["throughput", "--max-requests", sequences, "--requests", sequences],
            "itl": ["latency", "--concurrency", 1, "--requests", 3], "prefill": ["latency", "--concurrency", 1, "--requests", 4]}
    command, *more = ways[kind]
    try:
        done = subprocess.run([str(w) for w in (b / "tessera", "bench", command, model, *more, *words)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120)
        result = json.loads(done.stdout)["continuous"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return 0.0
    if kind == "decode":
        return result["output_tokens_per_second"]
    return 1 / result["itl_seconds"]["p50"] if kind == "itl" else prompt / result["ttft_seconds"]["p50"]


@contextlib.contextmanager
def checkpoint(t, b, folder, size):
    model, config = folder / f"random-{size}", t.out / f"config-{size}.json"
    config.write_text(json.dumps({**CONFIG, **SIZES[size]}))
    t.run(f"{size}: checkpoint", 250, [b / "make_checkpoint", "--config", config, "--out", model, "--seed", 1, "--copy-tokenizer", GLOSSARY])
    try:
        yield model
    finally:
        shutil.rmtree(model, ignore_errors=True)


def speed(t, b, args, size):
    with checkpoint(t, b, args.models, size) as model:
        memory(t, b, model, size)
        t.run(f"{size}: load beside a bare pinned copy", 120, [b / "tessera", "bench", "load", model, "--device", "cuda"], show="preallocated")
        for name, point, bar in POINTS[size]:
            start = time.monotonic()
            rate = measure(b, model, *point)
            t.row(rate >= bar, f"{size}: {name}", time.monotonic() - start, f"{rate:,.0f} tokens/s, {rate / bar:.2f} of llama.cpp's {bar:,.0f}")


def cold(t, b, args):
    with checkpoint(t, b, args.disk, "20b") as model:
        text = t.run("20b: load from a disk", 300, [b / "tessera", "bench", "load", model, "--device", "cuda", "--cold", "--rounds", 2],
                     show="from the disk")
        print("".join(f"       {line}\n" for line in text.splitlines()), end="")


PHASES = {"check": check, "errors": errors, "sanitize": sanitize, "hub": hub, "20b": functools.partial(speed, size="20b"),
          "120b": functools.partial(speed, size="120b"), "cold": cold}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="*", metavar="PHASE", help=", ".join(PHASES))
    parser.add_argument("--build", type=Path, default=ROOT / "build/cuda")
    parser.add_argument("--models", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--out", type=Path, default=Path("/tmp/tessera-one-gpu"))
    args = parser.parse_args()
    if unknown := [p for p in args.phases if p not in PHASES]:
        parser.error(f"no phase {unknown[0]}; there are {', '.join(PHASES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    table = Table(args)
    for phase in args.phases or PHASES:
        print(f"== {phase}", flush=True)
        PHASES[phase](table, args.build.resolve(), args)
    print(f"{table.rows - table.wrong} right, {table.wrong} wrong; the steps' output is in {args.out}")
    sys.exit(table.wrong > 0)


if __name__ == "__main__":
    main()

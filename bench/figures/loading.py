#!/usr/bin/env python3
"""Prints how long a model takes to be ready, as shipped and expanded, in one block and tensor by tensor: a table.

usage: loading.py PROGRAM MODEL [OPTION OF tessera bench load ...]

Each figure is the fastest of the rounds (three by default); memory is the most of them. "bare" copies the same bytes from the
same files through pinned blocks (a GPU) or into memory (a CPU) in the same run.
example: loading.py build/cuda/tessera /data/gpt-oss-20b --device cuda
"""
import json
import subprocess
import sys

WAYS = {"as shipped": [], "--dequantize": ["--dequantize"]}


def measure(program: str, model: str, more: list[str]) -> dict:
    words = [program, "bench", "load", model, "--json", "--no-prealloc", *more]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        sys.exit(f"{' '.join(words)} failed")
    return json.loads(done.stdout)


def main(program: str, model: str, *more: str) -> None:
    print("| | bare s | ready s | of bare | device GB | blocks | at most above it | pinned GB | host above pinned GB |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for way, flags in WAYS.items():
        for name, r in measure(program, model, [*flags, *more]).items():
            if not isinstance(r, dict) or "bare_seconds" not in r:
                continue
            ready = max(r["load_seconds"], r["touch_seconds"])
            print(f"| {way}, {name} | {r['bare_seconds']:.3f} | {ready:.3f} | {ready / r['bare_seconds']:.2f} "
                  f"| {r['device_bytes'] / 1e9:.3f} | {r['allocations']} | {100 * r['device_above_final']:+.2f} % "
                  f"| {r['pinned_bytes'] / 1e9:.3f} | {(r['host_peak_bytes'] - r['pinned_bytes']) / 1e9:.3f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

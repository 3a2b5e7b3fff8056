#!/usr/bin/env python3
"""Draws the cache bytes that one request holds at most against the length of its answer, with the window and without.

usage: cache_growth.py TESSERA MODEL FIGURE.svg [LENGTH...]

Runs `tessera bench throughput` once for each length and both ways; the bytes are the allocator's own counters.
"""
import json
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FLAGS = "--requests 1 --prompt-tokens 1 1 --output-median 0 --json --no-prefix-cache --threads 1 --output-tokens"


def measure(program: str, model: str, length: int, more: list[str]) -> dict:
    command = [program, "bench", "throughput", model, *FLAGS.split(), str(length), str(length), *more]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["continuous"]


def main(program: str, model: str, figure: str, lengths: list[int]) -> None:
    plt.rcParams["svg.hashsalt"] = "tessera"
    _, axes = plt.subplots(figsize=(7, 4))
    for name, more in {"window": [], "--ignore-window": ["--ignore-window"]}.items():
        runs = [measure(program, model, n, more) for n in lengths]
        all_layers = [r["peak_cache_bytes"] / 1024 for r in runs]
        windowed = [r["peak_window_cache_bytes"] / 1024 for r in runs]
        for n, a, w in zip(lengths, all_layers, windowed):
            print(f"{name}: {n} tokens, {a:.0f} KiB in all layers, {w:.0f} KiB in those with a window")
        (line,) = axes.plot(lengths, all_layers, marker="o", markersize=3, label=f"{name}: all layers")
        axes.plot(lengths, windowed, marker="o", markersize=3, linestyle="--", color=line.get_color(),
                  label=f"{name}: layers with a window")
    axes.set_xlabel("tokens generated")
    axes.set_ylabel("KiB held at most")
    axes.set_ylim(bottom=0)
    axes.legend()
    plt.tight_layout()
    plt.savefig(figure, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:4], [int(n) for n in sys.argv[4:]] or [64, 128, 256, 384, 512, 768, 1024])

#!/usr/bin/env python3
"""Draws tokens a second with and without kernels from the hub, over batch sizes 1 to 256, from runs that it makes.

usage: hub_kernels.py PROGRAM MODEL USE_KERNELS FIGURE.svg|.png|.csv [OPTION OF tessera bench throughput ...]

USE_KERNELS is what `--use-kernels` takes: a mapping.json, or LAYER=FOLDER pairs. Both ways take turns at each size; a size's
figure is the better of two runs. The numbers go to standard output as CSV; a figure that ends in .csv needs no matplotlib.
example: hub_kernels.py build/cuda/tessera openai/gpt-oss-20b RMSNorm=ours,MoE=ours hub.svg --device cuda
"""
import json
import subprocess
import sys

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OUTPUT_TOKENS = 128


def speed(program: str, model: str, size: int, more: list[str]) -> float:
    """Output tokens a second of `size` requests at once."""
    words = [program, "bench", "throughput", model, "--json", "--requests", str(2 * size), "--concurrency", str(size),
             "--max-requests", str(size), "--prompt-tokens", "32", "32", "--output-tokens", str(OUTPUT_TOKENS),
             str(OUTPUT_TOKENS), *more]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)["continuous"]
    return result["output_tokens"] / result["seconds"]


def main(program: str, model: str, use_kernels: str, figure: str, *more: str) -> None:
    ways = {"built in": [], "with hub kernels": ["--use-kernels", use_kernels]}
    lines = ["batch,built_in_tokens_per_s,hub_tokens_per_s"]
    print(lines[0], flush=True)
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for size in SIZES:
        best = dict.fromkeys(ways, 0.0)
        for _ in range(2):
            for way, flags in ways.items():
                best[way] = max(best[way], speed(program, model, size, [*more, *flags]))
        for way in ways:
            speeds[way].append(best[way])
        lines.append(f"{size},{best['built in']:.1f},{best['with hub kernels']:.1f}")
        print(lines[-1], flush=True)
    if figure.endswith(".csv"):
        with open(figure, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for way, values in speeds.items():
        plt.plot(SIZES, values, marker="o", label=way)
    plt.xscale("log", base=2)
    plt.yscale("log")
    plt.xlabel("requests at once")
    plt.ylabel("output tokens a second")
    plt.legend()
    plt.grid(True, which="both", alpha=0.3)
    plt.savefig(figure, bbox_inches="tight")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])

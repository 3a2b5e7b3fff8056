#!/usr/bin/env python3
"""Draws how many answers each step advanced, and the cache pages it held, from
`tessera bench throughput --static-batching --trace FILE`.

usage: occupancy.py TRACE.csv FIGURE.svg (or .png)
"""
import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(trace: str, figure: str) -> None:
    runs: dict[str, tuple[list[float], list[int], list[int]]] = {}
    with open(trace, newline="") as file:
        for row in csv.DictReader(file):
            seconds, requests, pages = runs.setdefault(row["mode"], ([], [], []))
            seconds.append(float(row["seconds"]))
            requests.append(int(row["output_tokens"]))
            pages.append(int(row["pages_held"]))
    _, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 5))
    for mode, (seconds, requests, pages) in runs.items():
        above.step(seconds, requests, where="pre", label=mode, linewidth=0.8)
        below.step(seconds, pages, where="pre", label=mode, linewidth=0.8)
    above.set_ylabel("answers that got a token")
    below.set_ylabel("cache pages held")
    below.set_xlabel("seconds")
    above.set_ylim(bottom=0)
    below.set_ylim(bottom=0)
    above.legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=2, frameon=False)
    plt.tight_layout()
    plt.savefig(figure, metadata={"Software": None} if figure.endswith(".png") else {"Date": None})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

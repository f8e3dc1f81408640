#!/usr/bin/env python3
"""Decoding on a GPU as a fraction of what the bandwidth of its memory allows, from results.json of gpu_suite.sh.

    gpu_plot.py RESULTS.json PLOT.svg [--before RESULTS.json]
"""
import argparse
import json
import pathlib

import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot

MODELS = (("1b-bf16", "1B bf16"), ("8b-bf16", "8B bf16"), ("8b-q8_0", "8B Q8_0"), ("8b-q4_k", "8B Q4_K"))
AT = "decode 128 at 0"


def rate(result, model, how):
    return result["speed"].get(f"{model}-{how}", {}).get("rows", {}).get(AT, {}).get("median", 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("plot", type=pathlib.Path)
    parser.add_argument("--before", type=pathlib.Path, help="earlier results, to compare with")
    options = parser.parse_args()
    now = json.loads(options.results.read_text(encoding="utf-8"))
    series = [("one launch, persistent", now, "persistent", "#9bc"), ("graph of launches", now, "graph", "#4a7")]
    if options.before:
        series.insert(0, ("graph of launches, before", json.loads(options.before.read_text(encoding="utf-8")), "graph", "#bbb"))
    bars = {row["name"].removesuffix(" decode"): float(row["bar"].split()[1]) for row in now["bars"] if row["unit"] == "tokens/s"}

    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    height = 0.8 / len(series)
    for m, (model, label) in enumerate(MODELS):
        row = now["speed"][f"{model}-graph"]["rows"][AT]
        limit = now["bandwidth_bytes_per_second"] / row["bytes_per_token"]
        for s, (name, result, how, color) in enumerate(series):
            y = m + (s - (len(series) - 1) / 2) * height
            value = rate(result, model, how)
            axes.barh(y, value / limit, height, color=color, label=name if m == 0 else None)
            axes.text(value / limit, y, f" {value:.0f} tokens/s", va="center", fontsize=8)
        if label in bars:
            axes.plot([bars[label] / limit] * 2, [m - 0.45, m + 0.45], color="black", label="bar" if m == 0 else None)
    axes.set_yticks(range(len(MODELS)), [label for _, label in MODELS])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(f"of the tokens/s that {1e-9 * now['bandwidth_bytes_per_second']:.0f} GB/s allow, as a copy of the same run measured")
    axes.set_title(f"Decoding, batch 1: {now['gpu']['name']}, {now['commit']}, {now['date'][:10]}", fontsize=9, loc="left")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(options.plot)


if __name__ == "__main__":
    main()

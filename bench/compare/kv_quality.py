#!/usr/bin/env python3
"""What compressed KV caches lose and save: Prism's beside llama.cpp's, on the same file and text.

    bench/compare/kv_quality.py smollm2-f16 --text FILE [--kv k8v8,k4v3,PLAN] [--ctx 2048] [--output RESULT.json] [--plot RESULT.svg]

Each program compares with itself with an f16 cache: the mean KL divergence of its predictions, how often the likeliest token is the same, and
perplexity, over the second half of each context. Sizes are those at 8192 positions, all metadata counted. Models are those of rows.py or
GGUF files; f16 weights show small losses best.
"""
import argparse
import json
import math
import pathlib
import re
import sys
import tempfile

import engines
from rows import MODELS

POSITIONS = 8192
# Bits of an element, of blocks of 32 with a scale in f16.
LLAMA_CPP_TYPES = {"q8_0": 8.5, "q5_0": 5.5, "q4_0": 4.5}


def number(pattern, text):
    found = re.search(pattern, text)
    if not found:
        sys.exit(f"found no {pattern!r} in\n{text[-2000:]}")
    return float(found.group(1))


def prism_times_smaller(prism, model, kv, scratch):
    engines.run([prism, "compile", model, "--kv", kv, "-o", scratch / "model.prx"])
    found = engines.run([prism, "inspect", scratch / "model.prx", "--positions", POSITIONS])
    return number(r"([0-9.]+) times less than in f16", found.stdout)


def prism_quality(options, model, scratch):
    report = engines.run_json([options.prism, "quality", model, "--text", options.text, "--ctx", options.ctx, "--from", options.ctx // 2, "--limit", options.limit,
                               "--no-noise", "--json", "--against-kv", ",".join(options.kv)])
    for kv, variant in zip(options.kv, report["variants"]):
        summary = variant["all"]
        yield {"engine": "Prism", "kv": engines.kv_label(kv), "times_smaller": prism_times_smaller(options.prism, model, kv, scratch), "kl": summary["kl"]["mean"], "kl_error": summary["kl"]["error"],
               "same_top": summary["same_top"]["value"], "perplexity_change": summary["perplexity_change"]["value"], "base_perplexity": summary["base_perplexity"]["value"],
               "predictions": summary["predictions"]}


def llama_cpp_quality(options, programs, model, scratch):
    common = [programs / "llama-perplexity", "-m", model, "-f", options.text, "-c", options.ctx, "-t", options.threads, "-fa", "on", "--chunks", options.limit // options.ctx,
              "--kl-divergence-base", scratch / "base.bin"]
    engines.run(common)
    for name, bits in LLAMA_CPP_TYPES.items():
        engines.say(f"llama.cpp with {name}")
        found = engines.run([*common, "-ctk", name, "-ctv", name, "--kl-divergence"]).stdout
        yield {"engine": "llama.cpp", "kv": name, "times_smaller": 16 / bits, "kl": number(r"Mean\s+KLD:\s+([0-9.e-]+)", found), "kl_error": number(r"Mean\s+KLD:.*±\s+([0-9.e-]+)", found),
               "same_top": number(r"Same top p:\s+([0-9.]+)", found) / 100, "perplexity_change": math.expm1(number(r"Mean\s+ln\(PPL\(Q\)/PPL\(base\)\)\s*:\s+(-?[0-9.e-]+)", found)),
               "base_perplexity": number(r"Mean PPL\(base\)\s*:\s+([0-9.]+)", found)}


def table(result):
    lines = [f"{result['model']}, {result['text']}, contexts of {result['context']}, counted from {result['context'] // 2}",
             f"{'':32}{'times smaller':>14}{'mean KL':>20}{'same top':>10}{'perplexity':>12}"]
    for row in result["rows"]:
        lines.append(f"{row['engine'] + ' ' + row['kv'][:20]:32}{row['times_smaller']:14.2f}{row['kl']:11.6f} ±{row['kl_error']:.6f}{100 * row['same_top']:9.2f}%{100 * row['perplexity_change']:+11.2f}%")
    return "\n".join(lines)


def plot(result, path):
    import matplotlib  # only who wants a plot needs it
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for engine, marker, color in (("Prism", "o", "#284"), ("llama.cpp", "s", "#c64")):
        rows = sorted((row for row in result["rows"] if row["engine"] == engine), key=lambda row: row["times_smaller"])
        axes.plot([row["times_smaller"] for row in rows], [row["kl"] for row in rows], marker=marker, color=color, label=engine)
        for row in rows:
            axes.annotate(row["kv"] if len(row["kv"]) <= 12 else "plan", (row["times_smaller"], row["kl"]), textcoords="offset points", xytext=(5, 5), fontsize=8)
    axes.set_yscale("log")
    axes.set_xlabel(f"times smaller than in f16, at {POSITIONS} positions")
    axes.set_ylabel("mean KL divergence to the f16 cache")
    axes.set_title(f"KV caches of {result['model']}, {result['text']}", fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file, or a name of rows.py")
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--kv", default="k8v8,k5v4,k4v4,k4v3,k3v3", help="as prism run --kv takes them")
    parser.add_argument("--ctx", type=int, default=2048, help="tokens of a context")
    parser.add_argument("--limit", type=int, default=6144, help="tokens of the text at most")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--prism", type=pathlib.Path, default=engines.ROOT / "build" / "prism")
    parser.add_argument("--output", type=pathlib.Path, help="write the result as JSON")
    parser.add_argument("--plot", type=pathlib.Path, help="draw bytes against divergence (.svg or .png; needs matplotlib)")
    options = parser.parse_args()
    options.kv = options.kv.split(",")
    if not options.text.exists():
        sys.exit(f"--text: {options.text} not found")
    if options.limit < options.ctx:
        sys.exit(f"--limit: found {options.limit}, expected at least --ctx, {options.ctx}")
    programs = engines.LLAMA_CPP.programs()
    model = engines.model_path(options.model, MODELS, programs)
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        rows = [*prism_quality(options, model, scratch), *llama_cpp_quality(options, programs, model, scratch)]
    result = {**engines.circumstances(), "model": pathlib.Path(options.model).stem, "text": options.text.name, "context": options.ctx, "ids": options.limit, "rivals": {engines.LLAMA_CPP.name: f"{engines.LLAMA_CPP.package} {engines.LLAMA_CPP.version}"},
              "rows": rows}
    print(table(result))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        plot(result, options.plot)


if __name__ == "__main__":
    main()

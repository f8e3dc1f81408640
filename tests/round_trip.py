"""The test format of the IR text tests."""
import pathlib
import subprocess

import lit.formats
import lit.Test

DOES_NOT_PARSE = "RUN: not prism opt %s 2>&1"


class RoundTripped(lit.formats.ShTest):
    """The RUN lines, then print(parse(print(x))) == print(x), unless a RUN line says that the file does not parse."""

    def __init__(self, prism):
        super().__init__(execute_external=False)
        self.prism = prism

    def execute(self, test, lit_config):
        result = super().execute(test, lit_config)
        source = test.getSourcePath()
        if result.code != lit.Test.PASS or DOES_NOT_PARSE in pathlib.Path(source).read_text(encoding="utf-8"):
            return result
        first = self.print_module(source)
        if first.returncode:
            return lit.Test.Result(lit.Test.FAIL, "round trip: " + first.stderr.decode())
        second = self.print_module("-", first.stdout)
        if second.returncode:
            return lit.Test.Result(lit.Test.FAIL, "round trip, parsing what was printed: " + second.stderr.decode())
        if first.stdout != second.stdout:
            return lit.Test.Result(lit.Test.FAIL, f"round trip: printed\n{first.stdout.decode()}\n"
                                                  f"and from that\n{second.stdout.decode()}")
        return result

    def print_module(self, file, text=None):
        return subprocess.run([self.prism, "opt", file], input=text, capture_output=True, check=False)

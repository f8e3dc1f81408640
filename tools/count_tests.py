#!/usr/bin/env python3
"""Adds up test results: count_tests.py [NAME RESULTS.json EXIT_CODE]...

Understands what GoogleTest and lit write. Ends with "N passed, N failed"; exits with 1 unless all passed. A skipped or
disabled test is a failed one, and so is a runner that left no results or an exit code that they do not explain.
"""
import json
import sys


def outcomes(results):
    """(name, passed) of every test."""
    if "testsuites" in results:  # GoogleTest
        for suite in results["testsuites"]:
            for test in suite["testsuite"]:
                passed = test["result"] == "COMPLETED" and not test.get("failures")
                yield f"{suite['name']}.{test['name']}", passed
    else:  # lit
        for test in results["tests"]:
            yield test["name"], test["code"] == "PASS"


def main():
    arguments = sys.argv[1:]
    passed, failed = 0, []
    for name, path, code in zip(arguments[::3], arguments[1::3], arguments[2::3]):
        try:
            with open(path, encoding="utf-8") as file:
                tests = list(outcomes(json.load(file)))
        except (OSError, ValueError, KeyError):
            tests = []
        bad = [f"{name}: {test}" for test, ok in tests if not ok]
        if not tests:
            bad.append(f"{name}: no results (exit code {code})")
        elif code != "0" and not bad:
            bad.append(f"{name}: all tests passed, but the exit code is {code}")
        passed += sum(ok for _, ok in tests)
        failed += bad
    for line in failed:
        print("FAILED", line)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())

"""One process of `bench.numba_suite`: runs numba-cuda's tests one by one, as it is told.

Reads a test's id per line, writes a JSON object per line. A test that launches kernels in a child
process is counted with what the child reports.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import unittest
import warnings
from pathlib import Path

from zerfoo_numba.errors import ZerfooError

SUITES = ("cudapy", "doc_examples")
PACKAGE = "numba.cuda.tests"


def modules():
    """The names of the test modules, where numba-cuda has installed them."""
    for suite in SUITES:
        package = importlib.import_module(f"{PACKAGE}.{suite}")
        for path in sorted(Path(package.__file__).parent.glob("test_*.py")):
            yield f"{PACKAGE}.{suite}.{path.stem}"


def tests_of(name):
    """-> ({test id: test}, the reason why there are none or None) of one module."""
    try:
        suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(name))
    except BaseException as error:  # pytest's skips are no exceptions of the usual kind
        return {}, f"{type(error).__name__}: {error}".splitlines()[0]
    return {t.id(): t for t in _flat(suite)}, None


def _flat(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flat(item)
        else:
            yield item


class Outcome(unittest.TestResult):
    """One test's outcome: the worst that its parts had."""

    def __init__(self):
        super().__init__()
        self.outcome, self.reason, self.ours = "passed", "", False

    def _fail(self, outcome, error):
        kind, value, _ = error
        if kind.__name__ == "Skipped":
            self.outcome, self.reason = "skipped", str(value)
            return
        self.outcome = outcome
        output = getattr(value, "stderr", None) or b""  # of a child process
        said = output.decode(errors="replace").strip().splitlines()[-1:]
        self.reason = " ".join(f"{kind.__name__}: {said[0] if said else value}".split())[:400]
        self.ours |= _is_of_the_device(value)

    def addError(self, test, error):
        self._fail("error", error)

    def addFailure(self, test, error):
        self._fail("failed", error)

    def addSubTest(self, test, part, error):
        if error is not None:
            self._fail("failed", error)

    def addSkip(self, test, reason):
        self.outcome, self.reason = "skipped", reason

    def addExpectedFailure(self, test, error):
        self.outcome = "passed"

    def addUnexpectedSuccess(self, test):
        self.outcome, self.reason = "failed", "expected to fail, and did not"


def _is_of_the_device(error):
    """Did the device refuse, so that there was no launch to count?"""
    while error is not None:
        if isinstance(error, ZerfooError) or type(error).__name__ in ("CUDAError", "CudaAPIError"):
            return True
        error = error.__cause__ or error.__context__
    return False


def run(test, machine, children):
    """Run one test -> its record."""
    result, before = Outcome(), machine.launch_count
    lines = children.read_text().count("\n")
    start = time.perf_counter()
    with warnings.catch_warnings():
        test.run(result)
    seconds = time.perf_counter() - start
    reported = children.read_text().splitlines()[lines:]
    launches = machine.launch_count - before + sum(int(n) for n in reported)
    method = getattr(test, test._testMethodName, None)
    marks = getattr(method, "pytestmark", ())
    if any(m.name == "xfail" for m in marks) and result.outcome in ("failed", "error"):
        result.outcome = "passed"
    return {
        "test": test.id().removeprefix(f"{PACKAGE}."), "outcome": result.outcome,
        "reason": result.reason, "launches": launches, "refused": result.ours,
        "seconds": round(seconds, 2),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--checks", type=int, default=1)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    orders = os.fdopen(os.dup(0), "r")
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    options = {"checks": bool(arguments.checks)} if arguments.device == "emulator" else {}
    with tempfile.NamedTemporaryFile() as children:
        serve(arguments.device, options, orders, answers, Path(children.name))


def serve(device, options, orders, answers, children):
    """Answer orders until there are none; the first answer lists all tests."""
    from zerfoo_numba.ptx.stand_in.children import inherit, start

    inherit(device, str(children), **options)
    machine = start(device, **options)
    from numba.cuda.testing import CUDATestCase

    CUDATestCase._dump_failed_filechecks = False
    found, missing = {}, {}
    for name in modules():
        tests, why = tests_of(name)
        found.update(tests)
        if why is not None:
            missing[name.removeprefix(f"{PACKAGE}.")] = why
    known = {name.removeprefix(f"{PACKAGE}."): test for name, test in found.items()}
    print(json.dumps({"tests": list(known), "missing": missing}), file=answers)
    for order in orders:
        print(json.dumps(run(known[order.strip()], machine, children)), file=answers)


if __name__ == "__main__":
    sys.exit(main())

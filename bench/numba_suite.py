"""numba-cuda's own tests without a GPU: python -m bench.numba_suite [--device cpu] [--filter TEXT]

The tests that numba-cuda installs (`numba.cuda.tests`: cudapy and doc_examples) run on the
emulator with its checks, or natively, in a process that is started anew when it dies or when a
test takes too long. Only tests that launch a kernel count, and the command sees which do; those
about things that no stand-in has (NOT_APPLICABLE) are named with the reason. Writes
reports/numba_suite.md and .json with what ran last on each device; --filter writes nothing.

Needs the extra `suite`: filecheck, ml_dtypes, cffi, psutil.
"""

import argparse
import json
import re
import select
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from bench.environment import environment
from bench.numba_suite_page import page

REPORTS = Path(__file__).parent.parent / "reports"
LIMIT = 180  # seconds for one test
START_LIMIT = 300  # to import numba-cuda and its tests
# Kinds of tests that ask for what no stand-in has: (pattern of the id, reason).
NOT_APPLICABLE = (
    (r"cudapy\.test_ipc\.", "IPC"),
    (r"cudapy\.test_multigpu\.", "multi-GPU"),
    (r"cudapy\.test_cupy_bfloat16_interop\.", "CuPy interoperation"),
    (r"test_external_cooperative_func", "linking of CUDA C"),
    (r"sass", "assertions on SASS"),
)


def why_not(test):
    """The reason for which a test does not apply, or None."""
    return next((reason for pattern, reason in NOT_APPLICABLE if re.search(pattern, test)), None)


class Worker:
    """The process that runs the tests."""

    def __init__(self, device, checks):
        command = [sys.executable, "-m", "bench.numba_suite_worker", "--device", device]
        self.process = subprocess.Popen(
            [*command, "--checks", str(int(checks))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            start_new_session=True, cwd=REPORTS.parent,
        )  # fmt: skip
        self.listing = self.answer(START_LIMIT)
        if not isinstance(self.listing, dict):
            raise SystemExit("numba-cuda's tests cannot be imported; pip install '.[suite]'")

    def answer(self, seconds):
        """The next answer; "timeout" or "died" where there is none."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            return "timeout"
        line = self.process.stdout.readline()
        return json.loads(line) if line else "died"

    def run(self, test, seconds):
        try:
            print(test, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return "died"
        return self.answer(seconds)

    def stop(self):
        self.process.kill()
        self.process.wait()


def run_all(device, checks, wanted, limit, progress):
    """Run every test that `wanted` picks -> (records, modules that could not be imported)."""
    worker = Worker(device, checks)
    missing = worker.listing["missing"]
    chosen = [t for t in worker.listing["tests"] if wanted(t)]
    records = []
    for test in chosen:
        answer = worker.run(test, limit)
        if isinstance(answer, str):
            worker.stop()
            answer = {"test": test, "outcome": answer, "reason": f"{limit} s", "launches": None,
                      "refused": True, "seconds": None}  # fmt: skip
            if test is not chosen[-1]:
                worker = Worker(device, checks)
        answer["not_applicable"] = why_not(test)
        records.append(answer)
        progress(answer)
    worker.stop()
    return records, missing


def counts(record):
    """Does a test count: it launches a kernel, or would if the device had not refused?"""
    if record["outcome"] == "skipped" or record["not_applicable"]:
        return False
    return bool(record["launches"]) or record["refused"]


def summary(records):
    """What the table says of one device's run."""
    applicable = [r for r in records if counts(r)]
    passed = sum(r["outcome"] == "passed" for r in applicable)
    return {
        "tests": len(records),
        "skipped by themselves": sum(r["outcome"] == "skipped" for r in records),
        "no launch": sum(not counts(r) and not r["not_applicable"] and r["outcome"] != "skipped"
                         for r in records),
        "not applicable": [r for r in records if r["not_applicable"]
                           and r["outcome"] != "skipped"],
        "applicable": len(applicable),
        "passed": passed,
        "failed": [r for r in applicable if r["outcome"] != "passed"],
    }  # fmt: skip


def save(device, records, missing):
    """Put a run into the report beside the other device's."""
    path = REPORTS / "numba_suite.json"
    report = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    report["numba-cuda"] = version("numba-cuda")
    report["runs"][device] = {
        "environment": environment(),
        "missing": missing,
        "records": [_short(r) for r in records],
    }
    lines = json.dumps(report, indent=None).replace('{"test"', '\n{"test"')
    path.write_text(lines + "\n")
    path.with_suffix(".md").write_text(markdown(report))


def markdown(report):
    """The page of a saved report."""
    runs = {name: [_whole(r) for r in run["records"]] for name, run in report["runs"].items()}
    lines = page(report["numba-cuda"], {name: summary(run) for name, run in runs.items()})
    return "\n".join(lines) + "\n"


_PLAIN = {"reason": "", "refused": False, "not_applicable": None}


def _short(record):
    """A record without what most have."""
    return {k: v for k, v in record.items() if k not in _PLAIN or v != _PLAIN[k]}


def _whole(record):
    return _PLAIN | record


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("emulator", "cpu"), default="emulator")
    parser.add_argument("--no-checks", action="store_true", help="run the emulator unobserved")
    parser.add_argument("--filter", help="a regular expression that test ids must match")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds for one test")
    parser.add_argument("--json", help="also write the records there")
    arguments = parser.parse_args(argv)

    def wanted(test):
        return re.search(arguments.filter or "", test) is not None

    def progress(record):
        if record["outcome"] not in ("passed", "skipped") or arguments.filter:
            print(*(record[n] for n in ("outcome", "launches", "test", "reason")), flush=True)

    checks = not arguments.no_checks
    records, missing = run_all(arguments.device, checks, wanted, arguments.limit, progress)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(records, indent=1))
    if not arguments.filter:
        save(arguments.device, records, missing)
    found = summary(records)
    print(
        f"{found['passed']} of {found['applicable']} applicable tests pass, on {arguments.device}"
    )


if __name__ == "__main__":
    main()

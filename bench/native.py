"""The native engine, kernel by kernel: python -m bench.native [-m FILE] [--json] [--out DIR]

Times the launches of a decode step of a real model in their order, so that every weight comes from
memory as it does in use (cold), and each kernel again and again on as many of its blocks as fit the
cache (hot); against the read bandwidth that one core has in the same run. On one thread, in CPU
time, so that a busy machine shows less. Thread-instructions are the PTX emulator's count.

--profile times the step alone, on --threads threads, in wall time if they are several. Without -m
the synthetic gemma3-1b is written to a temporary folder first.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.environment import environment
from bench.native_step import CACHED, STEPS, Step, read_bandwidth, thread_instructions
from zerfoo_numba import synth
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.errors import ZerfooError

MODEL = "gemma3-1b"
COLUMNS = {
    "launches": "n",
    "microseconds": "us each",
    "share": "of step",
    "cold_gb_s": "cold GB/s",
    "hot_gb_s": "hot GB/s",
    "hot_microseconds": "hot us",
    "thread_instructions_per_second": "G instr/s",
    "masked_share": "masked",
    "compile_seconds": "compile s",
}


def row(step, group, whole, full):
    """One kernel at one shape, as a JSON-ready dict; GB/s of the bytes that it must move."""
    launch, count = group.launch, len(group.places)
    cost = launch.call.cost
    record = {
        "operation": launch.call.name,
        "kernel": launch.kernel.py_func.__name__,
        "shape": {k: v for k, v in launch.call.shape.items() if k != "T"},
        "grid": launch.grid,
        "block": launch.block,
        "places": group.places,
        "launches": count,
        "bytes": cost.bytes,
        "microseconds": group.seconds * 1e6,
        "share": group.seconds * count / whole,
        "cold_gb_s": cost.bytes / group.seconds / 1e9,
    }
    if full:
        nbytes, seconds = step.hot(group)
        record["hot_gb_s"] = nbytes / seconds / 1e9
        record["hot_microseconds"] = seconds * 1e6 * cost.bytes / nbytes
        instructions = thread_instructions(launch, step.device)
        record["thread_instructions"] = instructions
        record["thread_instructions_per_second"] = instructions / group.seconds
        record["compile_seconds"], record["masked_share"] = step.masked_share(group)
    return record


def measure(path, activation, threads=1, full=True):
    """A step of the model file with that activation type, as a JSON-ready dict."""
    step = Step(path, activation, threads)
    groups, whole = step.groups()
    rows = [row(step, group, whole, full) for group in groups]
    return {
        "activation": activation,
        "threads": threads,
        "step_seconds": whole,
        "launches": len(step.launches) - 1,
        "launch_seconds": sum(r["microseconds"] * r["launches"] for r in rows) / 1e6,
        "kernels": rows,
    }


def slow(measured, bandwidth):
    """The kernels that move less than half of what one core can read, in a step."""
    return [r for r in measured["kernels"] if r["cold_gb_s"] * 1e9 < bandwidth / 2]


def table(measured):
    """Markdown lines."""
    shown = [c for c in COLUMNS if c in measured["kernels"][0]]
    lines = [
        f"| operation | shape | {' | '.join(COLUMNS[c] for c in shown)} |",
        "|---|---|" + "---:|" * len(shown),
    ]
    for r in measured["kernels"]:
        cells = [_cell(c, r[c]) for c in shown]
        lines.append(f"| {r['operation']} | {shape_of(r)} | {' | '.join(cells)} |")
    return lines


def shape_of(r):
    return " ".join(f"{k} {_plain(v)}" for k, v in r["shape"].items() if v is not None)


def _plain(value):
    """The same of a tuple and of the list that JSON makes of it."""
    return "+".join(map(str, value)) if isinstance(value, tuple | list) else value


def _cell(column, value):
    if column in ("share", "masked_share"):
        return f"{value:.1%}"
    if column == "thread_instructions_per_second":
        return f"{value / 1e9:.1f}"
    return str(value) if column == "launches" else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def markdown(document):
    """The whole report."""
    bandwidth = document["read_bytes_per_second"]
    lines = ["# The native engine, kernel by kernel", ""]
    if bandwidth:
        ways = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in bandwidth.items())
        lines += [f"One core reads memory at (GB/s): {ways}.", ""]
    for measured in document["steps"]:
        seconds, threads = measured["step_seconds"], measured["threads"]
        lines += [
            f"## {document['model']}, activation {measured['activation']}, {threads} thread"
            f"{'s' * (threads > 1)}: {seconds * 1e3:.1f} ms a step, "
            f"{measured['launches']} launches",
            "",
            *table(measured),
            "",
        ]
        if bandwidth:
            found = slow(measured, max(bandwidth.values()))
            lines += ["Under half of the read bandwidth when cold:", ""]
            lines += [
                f"- {r['operation']} {shape_of(r)}: {r['cold_gb_s']:.2f} GB/s, "
                f"{r['share']:.2%} of the step"
                for r in found
            ] or ["- none"]
            lines.append("")
    return "\n".join(lines)


def report(options, path):
    """Everything measured, as a JSON-ready dict."""
    if options.profile:
        kinds, bandwidth = options.activation or ["int8"], {}
    else:
        kinds = options.activation or ["int8", "float"]
        bandwidth = read_bandwidth(CpuDevice(threads=1))
    return {
        **environment(),
        "model": Path(path).stem,
        "cached_tokens": CACHED,
        "repeats": STEPS,
        "read_bytes_per_second": bandwidth,
        "steps": [measure(path, kind, options.threads, not options.profile) for kind in kinds],
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.native", description=__doc__)
    parser.add_argument("-m", "--model", help="a GGUF file; default: a synthetic one is written")
    parser.add_argument("--activation", action="append", choices=["int8", "float"])
    parser.add_argument("--profile", action="store_true", help="the launches of a step alone")
    parser.add_argument("--threads", type=int, default=1, help="with --profile; default 1")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--out", type=Path, help="write native.json and native.md there")
    options = parser.parse_args(arguments)
    if options.threads != 1 and not options.profile:
        parser.error("--threads needs --profile: a core's bandwidth is measured on one")
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = options.model or str(Path(folder) / f"{MODEL}.gguf")
            if not options.model:
                synth.synthesize(MODEL, path)
            document = report(options, path)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document, indent=1) if options.json else markdown(document))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "native.json").write_text(json.dumps(document, indent=1) + "\n")
        (options.out / "native.md").write_text(markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())

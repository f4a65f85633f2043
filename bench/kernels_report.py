"""What each kernel takes of each GPU: python -m bench.kernels_report [--arch 80,90] [--out DIR]

Compiles the standard kernels down to machine code, with no GPU, and writes kernels.md and
kernels.json: registers, spills, stack, static shared memory and forbidden instructions. The compile
gate (tests/ptx/test_compile_gate.py) asserts on the same rows.
"""

import argparse
import functools
import json
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.environment import environment
from zerfoo_numba.errors import ZerfooError
from zerfoo_numba.ptx.compile import compile_ptx
from zerfoo_numba.ptx.link import STATIC_SHARED_LIMIT, architecture, cubin

ARCHITECTURES = {
    (8, 0): "A100",
    (8, 6): "GeForce 30, A10, A40",
    (8, 9): "GeForce 40, L4, L40",
    (9, 0): "H100, H200",
    (10, 0): "B200",
    (12, 0): "GeForce 50, RTX PRO 6000",
    (12, 1): "GB10",
}  # NVIDIA, CUDA GPUs by compute capability
FORBIDDEN = {
    "float64": r"\.f64\b",
    "tanh.approx": r"\btanh\.approx",
    "sin.approx": r"\bsin\.approx",
    "cos.approx": r"\bcos\.approx",
}


def row(name, kernel, arguments, cc):
    """One kernel on one architecture, as a JSON-ready dict."""
    ptx = compile_ptx(kernel, arguments, cc, shipped=False)
    usage = cubin(ptx)[1]
    found = {what: len(re.findall(pattern, ptx.text)) for what, pattern in FORBIDDEN.items()}
    return {
        "kernel": name,
        "arch": architecture(cc),
        **usage._asdict(),
        "forbidden": {what: count for what, count in found.items() if count},
    }


def violations(row):
    """What the compile gate refuses in a row, as readable strings."""
    label = f"{row['kernel']} on {row['arch']}"
    found = [f"{label}: {count} x {what}" for what, count in row["forbidden"].items()]
    if row["spill_bytes"]:
        found.append(f"{label}: spills {row['spill_bytes']} bytes")
    if row["shared_bytes"] > STATIC_SHARED_LIMIT:
        found.append(f"{label}: {row['shared_bytes']} bytes of static shared memory")
    return found


def measure(ccs, every=1):
    """The rows of the standard kernels, or of each `every`-th, kernel by kernel, on every core."""
    chosen = range(0, len(_kernels()), every)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        rows = pool.map(_rows_of, chosen, [tuple(ccs)] * len(chosen), chunksize=4)
        return [r for rows_of_kernel in rows for r in rows_of_kernel]


def _rows_of(index, ccs):
    return [row(*_kernels()[index], cc) for cc in ccs]


@functools.cache
def _kernels():
    from zerfoo_numba.kernels.standard import standard_kernels

    return list(standard_kernels())


def markdown(rows, record):
    """The rows as one Markdown table: a line per kernel, registers by architecture."""
    archs = list(dict.fromkeys(r["arch"] for r in rows))
    kernels = list(dict.fromkeys(r["kernel"] for r in rows))
    at = {(r["kernel"], r["arch"]): r for r in rows}
    bad = [v for r in rows for v in violations(r)]
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    forbidden = ", ".join(FORBIDDEN)
    lines = [
        "# Kernels, compiled",
        "",
        f"{len(kernels)} kernels, {len(rows)} compilations by `python -m bench.kernels_report` at "
        f"commit {record['build_commit']}, with {packages}.",
        "",
        f"Spills, {forbidden}, more than 48 KB of static shared memory: "
        f"**{len(bad) if bad else 'none'}**.",
        *(f"- {line}" for line in bad),
        "",
        "Registers per thread by architecture; stack (thread-local memory) and static shared "
        "memory in bytes, the most over the architectures.",
        "",
        f"| kernel | {' | '.join(archs)} | stack | shared |",
        "|---|" + "---:|" * (len(archs) + 2),
    ]
    for kernel in kernels:
        of = [at[kernel, arch] for arch in archs]
        cells = [str(r["registers"]) for r in of]
        cells += [str(max(r[key] for r in of)) for key in ("stack_bytes", "shared_bytes")]
        lines.append(f"| {kernel} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def compact_json(rows, record):
    """Rows as arrays under one list of columns, one to a line: small, and readable in a diff."""
    lines = ",\n".join(json.dumps(list(r.values())) for r in rows)
    head = json.dumps({"environment": record, "columns": list(rows[0])}, indent=1)[:-2]
    return f'{head},\n "rows": [\n{lines}\n]}}\n'


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.kernels_report", description=__doc__)
    names = ",".join(architecture(cc)[3:] for cc in ARCHITECTURES)
    parser.add_argument("--arch", default=names, help=f"some of {names}")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    options = parser.parse_args(arguments)
    known = {architecture(cc)[3:]: cc for cc in ARCHITECTURES}
    wanted = options.arch.split(",")
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"--arch {','.join(unknown)}: choose some of {names}")
    try:
        rows = measure([known[name] for name in wanted])
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = environment()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "kernels.json").write_text(compact_json(rows, record))
    (options.out / "kernels.md").write_text(markdown(rows, record))
    bad = [v for r in rows for v in violations(r)]
    print(f"{len(rows)} compiled, {len(bad)} violations: {options.out / 'kernels.md'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

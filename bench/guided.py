"""A guided kernel: python -m bench.guided [--out DIR] [-n ROWS] [-k COLUMNS]

Takes the matvec of a Q4_K weight from the version one writes first to the one that the runtime
uses, in four steps, and counts on the PTX emulator what each step changed. Writes q4_k_matvec.md
and q4_k_matvec.json; every number and every line of code on the page comes from the run.
"""

import argparse
import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import reference.quant
from bench import guided_kernels as steps
from bench.environment import environment
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.kernels import blocks, matvec_int8
from zerfoo_numba.kernels.pack import pack
from zerfoo_numba.kernels.quantize import QuantizedRows, padded, quantize
from zerfoo_numba.quant.packed import LAYOUTS
from zerfoo_numba.quant.write import quantize as write_blocks
from zerfoo_numba.weights import PackedWeight

TYPE = "Q4_K"


@dataclass(frozen=True)
class Step:
    """A version of the kernel: what is new in it, and what to look for in its counts."""

    title: str
    text: str
    source: object


STEPS = (
    Step(
        "1. A thread per row",
        "Every thread walks its own row and asks the format's scalar `decode` for one element at a "
        "time. It is right, and it is the kernel to compare the others with. But at any moment the "
        "32 threads of a warp stand in 32 rows: each load asks for 32 sectors of 32 bytes, far "
        "apart, and uses a byte or two of each. Only a cache could save it, if it held 32 rows.",
        steps.thread_per_row,
    ),
    Step(
        "2. A warp per row",
        "The lanes of a warp share a row and take neighbouring elements. A load of the warp now "
        "falls into one or two sectors. What is left is arithmetic: for each weight the scale, the "
        "min and both half-precision factors are unpacked again, though 32 weights share them.",
        steps.warp_per_row,
    ),
    Step(
        "3. Sixteen bytes per lane",
        "A lane reads 16 bytes of nibbles at once: 16 low ones of one sub-block of 32 and 16 high "
        "ones of the next. The formula is turned around so that scale and min are applied once: "
        "with w = d s q - dmin m, the sum of w x is d s (sum of q x) - dmin m (sum of x). Eight "
        "lanes still read the same twelve bytes of scales, one byte at a time.",
        steps.part_per_lane,
    ),
    Step(
        "4. Integers, in a layout of our own",
        "The activations are rounded to 8 bits in blocks of 16, with the sum of each block beside "
        "them, so that `dp4a` multiplies and adds four weights in one instruction and the mins "
        "cost one multiplication. At load the weights are dealt anew, without loss: what the lanes "
        "of a warp read together lies together. This is `kernels/matvec_int8.py`, the kernel that "
        "a decode step runs; its accuracy is that of 8-bit activations.",
        None,
    ),
)


def measured(N, K, seed=0):
    """[{...}] for every step: counts of the whole launch, and the error against float64."""
    rng = np.random.default_rng(seed)
    raw = write_blocks(rng.standard_normal((N, K), np.float32) / np.sqrt(K), TYPE).reshape(-1)
    x = rng.standard_normal((1, K), np.float32)
    weight = reference.quant.dequantize(raw, TYPE, (K, N)).astype(np.float64)
    exact, found = weight @ x[0].astype(np.float64), []
    for step in STEPS:
        device = EmulatorDevice(count=True)
        out = device.empty((1, N), np.float32, "out")
        run_step(device, step, out, device.upload(raw, "weight"), device.upload(x, "x"), N, K)
        error = device.read(out)[0] - exact
        found.append(row(step, device.counters[-1], N * K, raw.size, error, exact))
    return found


def run_step(device, step, out, weight, x, N, K):
    sizes = (np.uint32(N), np.uint32(K))
    if step.source is steps.thread_per_row:
        device.launch(step.source, blocks(N, 32), 32, (out, weight, x, *sizes))
    elif step.source is not None:
        args = (out, weight, x, *sizes)
        device.launch(step.source, blocks(N, steps.WARPS), 32 * steps.WARPS, args)
    else:
        layout, P = LAYOUTS[TYPE], padded(K)
        chunks = device.empty(layout.packed_bytes(N, K), np.uint8, "weight")
        pack(device, chunks, weight, TYPE, N, K)
        words = device.empty((1, P // 4), np.uint32, "x")
        rows = QuantizedRows(words, device.empty((1, P // 32, 4), np.float32, "x_scales"), 1)
        quantize(device, rows, x)
        packed = PackedWeight(chunks, TYPE, N, K, -(-K // layout.step))
        matvec_int8.matmul_int8(device, out, packed, rows)


def row(step, counters, weights, nbytes, error, exact):
    loads = counters.arrays["weight"].loads
    return {
        "step": step.title,
        "instructions_per_weight": counters.thread_instructions / weights,
        "classes_per_weight": {n: c / weights for n, c in sorted(counters.classes.items())},
        "weight_requests": loads.requests,
        "sectors_per_request": loads.sectors_per_request,
        "bytes_requested_per_byte_of_weight": 32 * loads.sectors / nbytes,
        "nmse": float(np.sum(error**2) / np.sum(exact**2)),
    }


COLUMNS = {
    "instructions_per_weight": "thread-instructions per weight",
    "weight_requests": "loads of the weight, by warps",
    "sectors_per_request": "sectors a load",
    "bytes_requested_per_byte_of_weight": "bytes asked for per byte of the weight",
    "nmse": "NMSE against float64",
}


def table(rows):
    head = f"| step | {' | '.join(COLUMNS.values())} |"
    lines = [head, "|---|" + "---:|" * len(COLUMNS)]
    for r in rows:
        cells = " | ".join(
            f"{r[name]:.3g}" if r[name] < 1e4 else f"{r[name]:,}" for name in COLUMNS
        )
        lines.append(f"| {r['step']} | {cells} |")
    return lines


def largest(r, count=4):
    """The kinds of instruction that a weight costs most of, as a phrase."""
    kinds = sorted(r["classes_per_weight"].items(), key=lambda item: -item[1])[:count]
    return ", ".join(f"{name} {number:.2f}" for name, number in kinds)


def page(document):
    """The whole page, as Markdown."""
    rows = document["steps"]
    lines = [
        "# A kernel in four steps: the matvec of a Q4_K weight",
        "",
        "Counted on the PTX emulator, which executes what the compiler made of each kernel, for a "
        f"weight of {document['N']} x {document['K']}. Made by `python -m bench.guided`; to try an "
        "idea, change a kernel of `bench/guided_kernels.py` and run it again.",
        "",
        "A Q4_K super-block is 256 elements in 144 bytes: two half-precision factors d and dmin, "
        "twelve bytes with eight pairs of 6-bit scales s and mins m, and 128 bytes of 4-bit q. An "
        "element is d s q - dmin m, with s and m of its sub-block of 32.",
        "",
        *table(rows),
        "",
    ]
    for step, r in zip(STEPS, rows, strict=True):
        lines += [f"## {step.title}", "", step.text, "", f"Per weight: {largest(r)}.", ""]
        if step.source is not None:
            lines += ["```python", inspect.getsource(step.source.py_func).rstrip(), "```", ""]
    lines += [
        "## What the counts do not say",
        "",
        "They are exact, but they are not a time. A decode step on a GPU is bound by the bytes of "
        "the weights as long as the instructions fit beside them: at 4.5 bits a weight, a "
        "multiprocessor that issues four warp-instructions a clock has room for about two "
        "thread-instructions per weight. `python -m bench.quants` shows that budget for every "
        "format, `python -m bench.roofline` the whole step.",
        "",
    ]
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.guided", description=__doc__)
    parser.add_argument("-n", type=int, default=256, help="rows, a multiple of 32")
    parser.add_argument("-k", type=int, default=2048, help="columns, a multiple of 1024")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    options = parser.parse_args(arguments)
    if options.n < 32 or options.n % 32 or options.k < 1024 or options.k % 1024:
        parser.error("-n must be a multiple of 32 and -k of 1024")
    rows = measured(options.n, options.k)
    document = {**environment(), "N": options.n, "K": options.k, "steps": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "q4_k_matvec.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "q4_k_matvec.md").write_text(page(document))
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

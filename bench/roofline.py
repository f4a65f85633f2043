"""The predicted roofline: python -m bench.roofline [--model gemma3-1b] [--gpu H200] [--out FOLDER]

Every kernel of a decode step and of a short prefill as a point under the ceilings of a named GPU.
No GPU is run. What a kernel must move and compute is its `cost`; what it does is counted by the PTX
emulator; the GPU's rates come from the table in bench/gpus.py. The floor time of a launch is the
longest of three: its unique 32-byte sectors through the memory's bandwidth, its warp instructions
through the schedulers that its grid can occupy, its flops through the float32 pipelines. Latencies
and launch boundaries come on top. A launch can beat its floor only where the L2 cache holds what it
reads, or where ptxas needs fewer instructions than the PTX has.

Writes MODEL_GPU.png and MODEL_GPU.json to the folder; --json prints the JSON instead of the table.
Williams, Waterman and Patterson, Roofline, 2009.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

from bench.environment import environment
from bench.gpus import WARP, find_gpu
from bench.launches import SECTOR, LaunchCounter, header, record
from bench.roofline_plot import draw
from zerfoo_numba.errors import FileError, InputError, ZerfooError
from zerfoo_numba.kernels.kv import CACHE_TYPES

PREDICTED = "PREDICTED from emulator counts and published rates; no GPU was run"
ORIGINS = {
    "cost": "the operation's cost(): the least bytes and flops that any version of it needs",
    "counts": "zerfoo_numba.ptx.emulator on the PTX of compute capability {cc}; `counted` says on "
    "which blocks of the grid; per launch",
    "sectors": "32-byte sectors, once for each request of a warp that touches them",
    "weight_sectors": "those of the sectors that lie in the model's tensors",
    "cache_bytes": "bytes of the keys and values that the launches attend to, all launches",
    "cache_sectors": "those of the sectors that are loads from keys and values",
    "unique_sectors": "32-byte sectors, once for the launch, loads and stores apart",
    "weight_bytes": "bytes of the model's tensors that the launches are given, all launches; "
    "nothing of the embedding where only rows of it are read",
    "memory_us": "32 x unique_sectors / the GPU's gb_per_s; per launch",
    "issue_us": "32 x warp_instructions / what the schedulers under the grid issue: 4 for each "
    "multiprocessor that has a block, and no more than there are warps; per launch",
    "arithmetic_us": "cost flops / the GPU's fma_tflops; per launch",
    "floor_us": "the greatest of the three; per launch",
    "intensity": "cost flops / (32 x unique_sectors)",
    "tflops": "cost flops / floor_us",
}


def label(group):
    """(operation, shape) as a reader would write them."""
    shape, parts = group.call.shape, " ".join(sorted(group.parts))
    match group.call.name:
        case name if {"type_name", "N", "K"} <= shape.keys():
            return f"{name} {parts}", f"{shape['type_name']} {shape['N']}x{shape['K']}"
        case "attention_decode" | "attention_prefill" as name:
            seen, window = shape["S"] + shape["T"], shape["window"]
            return name, f"{min(seen, window or seen)} keys{', window' * bool(window)}"
        case name:
            return name, " ".join(f"{k}={v}" for k, v in shape.items() if k in "TDFV")


def floors(gpu, launch, cost, counts):
    """(memory, issue, arithmetic) in microseconds: what one launch takes at the least, by each."""
    issue_rate = gpu.issue_lanes(launch.blocks, launch.warps)
    return {
        "memory": 1e6 * SECTOR * counts.unique_sectors / gpu.bytes_per_s,
        "issue": 1e6 * WARP * counts.warp_instructions / issue_rate,
        "arithmetic": cost.flops / gpu.fma_tflops / 1e6,
    }


def point(gpu, group, counts):
    """One kernel of a step as a JSON-ready record."""
    operation, shape = label(group)
    cost, launch = group.call.cost, group.launch
    times = floors(gpu, launch, cost, counts)
    limit = max(times, key=times.get)
    return {
        "operation": operation,
        "shape": shape,
        "launches": group.launches,
        "grid": launch.grid,
        "block": launch.block,
        "weight_bytes": group.weight_bytes,
        "cost_bytes": cost.bytes,
        "cost_flops": cost.flops,
        "thread_instructions": counts.thread_instructions,
        "warp_instructions": counts.warp_instructions,
        "sectors": counts.sectors,
        "weight_sectors": counts.weight_sectors,
        "cache_bytes": group.cache_bytes,
        "cache_sectors": counts.cache_sectors,
        "unique_sectors": counts.unique_sectors,
        "counted": counts.origin,
        **{f"{name}_us": time for name, time in times.items()},
        "floor_us": times[limit],
        "limit": limit,
        "intensity": cost.flops / (SECTOR * counts.unique_sectors),
        "cost_intensity": cost.flops / cost.bytes,
        "tflops": cost.flops / times[limit] / 1e6,
    }


def step(gpu, counter, gguf, tokens, cached, cache_type):
    """The record of a step over `tokens` after `cached`: its points, slowest first, and sums."""
    groups = record(gguf, tokens, cached, cache_type)
    points = [point(gpu, group, counter.count(group, cached)) for group in groups]
    points.sort(key=lambda p: -p["launches"] * p["floor_us"])

    def total(name):
        return sum(p["launches"] * p[name] for p in points)

    summed = (
        "cost_bytes", "cost_flops", "thread_instructions", "warp_instructions", "sectors",
        "weight_sectors", "unique_sectors", "memory_us", "issue_us", "arithmetic_us", "floor_us",
    )  # fmt: skip
    sums = {"launches": sum(p["launches"] for p in points)}
    sums["weight_bytes"] = sum(p["weight_bytes"] for p in points)
    sums |= {name: total(name) for name in summed}
    sums["tokens_per_s_at_most"] = 1e6 * tokens / sums["floor_us"]
    return {"tokens": tokens, "cached": cached, "sums": sums, "points": points}


def predict(model, gpu, cached=1024, tokens=32, cache_type="f32"):
    """The whole document: decode of one token after `cached`, prefill of `tokens` after none."""
    gguf = header(model)
    counter = LaunchCounter(gpu.cc)
    rates = ("fma_tflops", "dp4a_tops", "issue_per_s")
    cc = ".".join(map(str, gpu.cc))
    return {
        "kind": "roofline",
        "predicted": PREDICTED,
        "model": Path(model).stem,
        "cache_type": cache_type,
        "gpu": {**dataclasses.asdict(gpu), **{name: getattr(gpu, name) for name in rates}},
        "origins": {name: text.format(cc=cc) for name, text in ORIGINS.items()},
        "environment": environment(),
        "decode": step(gpu, counter, gguf, 1, cached, cache_type),
        "prefill": step(gpu, counter, gguf, tokens, 0, cache_type),
    }


HEADINGS = (
    "operation", "shape", "launches", "blocks", "cost MB", "sectors k", "instr M", "memory us",
    "issue us", "arith us", "floor us", "limit",
)  # fmt: skip
WIDTHS = (24, 18, 8, 6, 8, 9, 9, 9, 8, 8, 8, 10)


def table(record):
    """The lines of a step's table; all but the shapes are sums over the launches of the step."""
    rows = [
        _row(p["operation"], p["shape"], p, p["launches"], p["limit"]) for p in record["points"]
    ]
    rows.append(_row("sum", "", record["sums"], 1, ""))
    for row in (HEADINGS, *rows):
        cells = zip(row, WIDTHS, strict=True)
        yield " ".join(
            f"{text:<{width}.{width}}" if i < 2 else f"{text:>{width}}"
            for i, (text, width) in enumerate(cells)
        )


def _row(operation, shape, figures, times, limit):
    def cell(name, unit, digits):
        return f"{times * figures[name] / unit:.{digits}f}"

    blocks = str(math.prod(figures["grid"])) if "grid" in figures else ""
    return (
        operation, shape, str(figures["launches"]), blocks, cell("cost_bytes", 1e6, 3),
        cell("sectors", 1e3, 1), cell("thread_instructions", 1e6, 2), cell("memory_us", 1, 2),
        cell("issue_us", 1, 2), cell("arithmetic_us", 1, 2), cell("floor_us", 1, 2), limit,
    )  # fmt: skip


def report(document):
    """The document as text."""
    gpu = document["gpu"]
    yield f"{document['model']} on {gpu['name']}: {document['predicted']}"
    for name in ("decode", "prefill"):
        record = document[name]
        sums = record["sums"]
        yield f"\n{name}: {record['tokens']} token(s) after {record['cached']}"
        yield from table(record)
        yield (
            f"{sums['memory_us']:.0f} us by memory, {sums['issue_us']:.0f} us by issue; launch by "
            f"launch {sums['floor_us']:.0f} us, which is {sums['tokens_per_s_at_most']:.0f} "
            f"tokens/s; {sums['launches']} launch boundaries come on top"
        )


def write(document, folder):
    """MODEL_GPU.json and .png in `folder`; -> their paths."""
    stem = f"{document['model']}_{document['gpu']['name'].replace(' ', '')}"
    paths = folder / f"{stem}.json", folder / f"{stem}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        draw(document, paths[1])
    except OSError as error:
        raise FileError(f"{folder} cannot be written ({error.strerror}); try --out") from error
    return paths


def main(argv=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=first)
    parser.add_argument("--model", default="gemma3-1b", help="a synthetic model or a GGUF file")
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--out", type=Path, default=Path("reports/roofline"), metavar="FOLDER")
    parser.add_argument("--cached", type=int, default=1024, help="tokens before the decoded one")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of the prefill, 2 or more")
    parser.add_argument("--cache-type", default="f32", choices=CACHE_TYPES)
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of tables")
    options = parser.parse_args(argv)
    try:
        if options.cached < 0 or options.tokens < 2:
            raise InputError("--cached takes a number of at least 0, --tokens one of at least 2")
        gpu = find_gpu(options.gpu)
        limits = options.cached, options.tokens, options.cache_type
        document = predict(options.model, gpu, *limits)
        paths = write(document, options.out)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document, indent=1) if options.json else "\n".join(report(document)))
    for path in paths:
        print(f"wrote {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

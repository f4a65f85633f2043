"""The roofline: python -m bench.roofline [--model gemma3-1b] [--device D | --gpu H200] [--out DIR]

Every kernel of a decode step and of a short prefill as a point under the ceilings of a machine.

On a device (--device; a GPU if there is one) ceilings and kernels are measured: see
bench/roofline_measured.py. Without a GPU, or with --gpu, they are predicted for a GPU by its name,
and the document and its picture say so: what a kernel must move and compute is its `cost`; what it
does is counted by the PTX emulator; the GPU's rates come from the table in bench/gpus.py. The
predicted floor of a launch is the longest of three: its unique 32-byte sectors through the memory's
bandwidth, its warp instructions through the schedulers that its grid can occupy, its flops through
the pipelines of float32 or of integers. Latencies and launch boundaries come on top. A launch can
beat its floor only where the L2 cache holds what it reads, or where ptxas needs fewer instructions
than the PTX has.

Writes a JSON file to the result store (bench/store.py) in DIR, and a picture of it beside that;
--json prints the JSON instead of the table.
Williams, Waterman and Patterson, Roofline, 2009.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path

from bench import store
from bench.environment import environment
from bench.gpus import WARP, find_gpu
from bench.launches import SECTOR, LaunchCounter, RecordingDevice, record
from bench.model_header import header
from bench.roofline_plot import draw
from bench.roofline_table import report
from zerfoo_numba import synth
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import DeviceError, FileError, InputError, ZerfooError
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
    "arithmetic_us": "cost flops / the GPU's fma_tflops, or dp4a_tops or tensor_tops where that is "
    "the pipeline, 0 where no rate of it is published; per launch",
    "pipeline": "tensor where mma instructions were counted, else dot where dp4a were",
    "floor_us": "the greatest of the three; per launch",
    "intensity": "cost flops / (32 x unique_sectors)",
    "tflops": "cost flops / floor_us",
}


def label(group):
    """(operation, shape) as a reader would write them."""
    shape, parts = group.call.shape, " ".join(sorted(group.parts))
    match group.call.name:
        case "matvec_group":
            return "matvec q k v", f"{_types(shape)} {sum(shape['rows'])}x{shape['K']}"
        case "matvec_gated":
            return "matvec gate up", f"{_types(shape)} 2x{shape['N']}x{shape['K']}"
        case "matvec_prologue":
            parts = " ".join(sorted(name for name in group.parts if "norm" not in name))
            return f"prologue {parts}", f"{_types(shape)} {sum(shape['rows'])}x{shape['K']}"
        case "matvec_gated_prologue":
            return "prologue gate up", f"{_types(shape)} 2x{shape['N']}x{shape['K']}"
        case name if {"type_name", "N", "K"} <= shape.keys():
            return f"{name} {parts}", f"{shape['type_name']} {shape['N']}x{shape['K']}"
        case "attention_decode" | "attention_prefill" | "attention_append" as name:
            seen, window = shape["S"] + shape["T"], shape["window"]
            return name, f"{min(seen, window or seen)} keys{', window' * bool(window)}"
        case name:
            return name, " ".join(f"{k}={v}" for k, v in shape.items() if k in "TDFKV")


def _types(shape):
    return "+".join(dict.fromkeys(shape["types"]))


def floors(gpu, group, counts):
    """(memory, issue, arithmetic) in microseconds: what one launch takes at the least, by each."""
    issue_rate = gpu.issue_lanes(group.launch.blocks, group.launch.warps)
    return {
        "memory": 1e6 * SECTOR * counts.unique_sectors / gpu.bytes_per_s,
        "issue": 1e6 * WARP * counts.warp_instructions / issue_rate,
        "arithmetic": group.call.cost.flops / arithmetic_tops(gpu, counts) / 1e6,
    }


def pipeline(counts):
    """What the launch multiplies on, by the instructions that were counted."""
    if counts.tensor_instructions:
        return "tensor"
    return "dot" if counts.dot_instructions else "float32"


def arithmetic_tops(gpu, counts):
    """10^12 operations a second of the launch's pipeline; no bound where none is published."""
    rates = {"tensor": gpu.tensor_tops or math.inf, "dot": gpu.dp4a_tops}
    return rates.get(pipeline(counts), gpu.fma_tflops)


def counted(group, counts):
    """What one kernel of a step must do and does, whatever it runs on."""
    operation, shape = label(group)
    cost, launch = group.call.cost, group.launch
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
        "pipeline": pipeline(counts),
    }


def point(gpu, group, counts):
    """One kernel of a step as a JSON-ready record."""
    cost = group.call.cost
    times = floors(gpu, group, counts)
    limit = max(times, key=times.get)
    intensity = cost.flops / (SECTOR * counts.unique_sectors)
    return {
        **counted(group, counts),
        **{f"{name}_us": time for name, time in times.items()},
        "floor_us": times[limit],
        "limit": limit,
        "intensity": intensity,
        "cost_intensity": cost.flops / cost.bytes,
        "roof_tflops": min(arithmetic_tops(gpu, counts), intensity * gpu.gb_per_s / 1e3),
        "tflops": cost.flops / times[limit] / 1e6,
    }


def step(gpu, counter, gguf, tokens, cached, settings):
    """The record of a step over `tokens` after `cached`: its points, slowest first, and sums.

    settings: (type of the KV cache, of the activations).
    """
    groups = record(gguf, tokens, cached, *settings)
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


def predict(model, gpu, cached=1024, tokens=32, cache_type="f16", activation="int8"):
    """The whole document: decode of one token after `cached`, prefill of `tokens` after none."""
    if tokens > RecordingDevice.chunk:
        raise InputError(f"--tokens takes at most {RecordingDevice.chunk}, one chunk of a prefill")
    gguf = header(model)
    counter = LaunchCounter(gpu.cc)
    rates = ("fma_tflops", "dp4a_tops", "issue_per_s")
    cc, settings = ".".join(map(str, gpu.cc)), (cache_type, activation)
    steps = {
        "decode": step(gpu, counter, gguf, 1, cached, settings),
        "prefill": step(gpu, counter, gguf, tokens, 0, settings),
    }
    compute = [
        [f"FMA {gpu.fma_tflops:.3g} TFLOP/s", gpu.fma_tflops],
        [f"dp4a at most {gpu.dp4a_tops:.3g} Top/s", gpu.dp4a_tops],
    ]
    used = {p["pipeline"] for record in steps.values() for p in record["points"]}
    if "tensor" in used and gpu.tensor_tops:
        compute.append([f"8-bit tensor cores {gpu.tensor_tops:.4g} Top/s", gpu.tensor_tops])
    return {
        "kind": "roofline",
        "origin": PREDICTED,
        "model": store.model_name({"model": model}),
        "activation": activation,
        "cache_type": cache_type,
        "device": gpu.name,
        "gpu": {**dataclasses.asdict(gpu), **{name: getattr(gpu, name) for name in rates}},
        "roofs": {
            "read": [[f"memory {gpu.gb_per_s:.4g} GB/s", gpu.gb_per_s]],
            "compute": compute,
        },
        "origins": {name: text.format(cc=cc) for name, text in ORIGINS.items()},
        "environment": environment(),
        **steps,
    }


def measured(options):
    """The document of the model on the device that the options name."""
    from bench.roofline_measured import measure

    with tempfile.TemporaryDirectory() as folder:
        path = options.model
        if path in synth.SHAPES:
            path = str(Path(folder) / "model.gguf")
            synth.synthesize(options.model, path)
        return measure(
            path, store.model_name({"model": options.model}), options.device, options.cached,
            options.tokens, options.cache_type, options.activation, options.largest,
        )  # fmt: skip


def write(document, folder):
    """The document in the store in `folder`, and its picture; -> their paths."""
    path = store.write("roofline", document, folder)
    try:
        draw(document, path.with_suffix(".png"))
    except OSError as error:
        raise FileError(f"{folder} cannot be written ({error.strerror}); try --out") from error
    return path, path.with_suffix(".png")


def has_gpu():
    try:
        open_device("cuda")
    except DeviceError:
        return False
    return True


def main(argv=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=first)
    parser.add_argument("--model", default="gemma3-1b", help="a synthetic model or a GGUF file")
    parser.add_argument("--device", help="measure on this device; by default cuda, if it is there")
    parser.add_argument("--gpu", help="predict for this GPU; by default H200, where there is none")
    parser.add_argument("--out", type=Path, default=Path("reports"), metavar="FOLDER")
    parser.add_argument("--cached", type=int, default=1024, help="tokens before the decoded one")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of the prefill, 2 or more")
    parser.add_argument("--cache-type", default="f16", choices=CACHE_TYPES)
    parser.add_argument("--activation", default="int8", choices=("float", "int8"))
    parser.add_argument("--largest", type=int, default=256, help="MiB of the largest buffer read")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of tables")
    options = parser.parse_args(argv)
    try:
        if options.cached < 0 or options.tokens < 2:
            raise InputError("--cached takes a number of at least 0, --tokens one of at least 2")
        if options.device and options.gpu:
            raise InputError("--device measures and --gpu predicts: give one of them")
        if not options.gpu and (options.device or has_gpu()):
            options.device = options.device or "cuda"
            document = measured(options)
        else:
            limits = options.cached, options.tokens, options.cache_type, options.activation
            document = predict(options.model, find_gpu(options.gpu or "H200"), *limits)
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

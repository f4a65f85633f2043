"""One token, operation by operation: python -m bench.step [-m gemma3-1b] [--gpu H200] [--out DIR]

For a synthetic shape (no weights need exist) or a GGUF file: what each operation of a greedy decode
step launches, moves and executes, counted by the PTX emulator on the launches of the walk itself,
and the least time that it takes on a named GPU: the longest of memory, instruction issue and float
arithmetic (bench.roofline says how each is computed), and the boundary between two launches.

--device measures the operations too: all launches of an operation in one captured graph, so that
every layer's weights are read from memory and not from a cache. Without a file it needs a synthetic
model, which it writes and removes. --out writes MODEL_GPU_step.json and .png; --json prints the
JSON instead of the table.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import zerfoo_numba
from bench.environment import environment
from bench.gpus import BOUNDARY_US, find_gpu
from bench.launches import SECTOR, LaunchCounter, grouped, record, recorded
from bench.model_header import header
from bench.roofline import ORIGINS, point
from bench.roofline_measured import seconds
from bench.step_plot import draw
from bench.tps import FUSE, fusions
from zerfoo_numba import synth
from zerfoo_numba.errors import InputError, ZerfooError
from zerfoo_numba.kernels.kv import CACHE_TYPES

PREDICTED = "predicted from emulator counts and published rates"


def step(model, gpu, cached=1024, cache_type="f32", activation="float", boundary_us=BOUNDARY_US,
         fuse=True):  # fmt: skip
    """The document of one greedy token after `cached` others; `fuse` as of `load_model`."""
    gguf = header(model)
    walk, calls, launches = recorded(gguf, 1, cached, cache_type, activation, fuse=fuse)
    counter = LaunchCounter(gpu.cc)
    groups = grouped(gguf, calls, launches)
    operations = [point(gpu, group, counter.count(group, cached)) for group in groups]
    cc = ".".join(map(str, gpu.cc))
    return {
        "kind": "step",
        "origin": PREDICTED,
        "model": Path(model).name.removesuffix(".gguf"),
        "gpu": gpu.name,
        "cached": cached,
        "cache_type": cache_type,
        "activation": activation,
        "fusions": sorted(walk.fusions),
        "boundary_us": boundary_us,
        "origins": {name: text.format(cc=cc) for name, text in ORIGINS.items()},
        "environment": environment(),
        **figures(operations, boundary_us),
        "memory_bytes": memory(walk),
        "arena_bytes": arena(walk.plan),
        "operations": operations,
    }


def figures(operations, boundary_us):
    """What one token takes, in sums over its launches."""

    def total(name):
        return sum(o["launches"] * o[name] for o in operations)

    launches = sum(o["launches"] for o in operations)
    stored = sum(o["weight_bytes"] + o["cache_bytes"] for o in operations)
    asked = SECTOR * sum(
        o["launches"] * (o["weight_sectors"] + o["cache_sectors"])
        for o in operations
        if o["operation"] != "embed"  # one row of a table, whose bytes are not among the stored
    )
    floor = total("floor_us")
    return {
        "launches_per_token": launches,
        "weight_and_cache_bytes": stored,
        "requested_over_stored": asked / stored,
        "thread_instructions_per_token": total("thread_instructions"),
        "memory_us": total("memory_us"),
        "issue_us": total("issue_us"),
        "floor_us": floor,
        "boundaries_us": launches * boundary_us,
        "tokens_per_s_at_most": 1e6 / (floor + launches * boundary_us),
    }


def memory(walk):
    """Bytes that the walk holds on the device: weights, cache, and all buffers besides."""
    held = {"weights": 0, "cache": 0, "buffers": 0}
    for name, nbytes in walk.ops.device.held():
        if name in walk.weights.gguf.tensors:
            held["weights"] += nbytes
        elif name.endswith("_cache") or name == "state":
            held["cache"] += nbytes
        else:
            held["buffers"] += nbytes
    return held


def arena(plan):
    """Bytes of the buffers between the operations: shared, as they would be each alone, and the
    most that is live at once. They hold a whole chunk of a prefill, and serve a step too."""
    return {"size": plan.size, "unshared": plan.unshared, "peak": plan.peak}


def measured(path, device, cached, cache_type, activation, fuse):
    """{(operation, shape): seconds of one launch}, and the seconds of the whole step.

    An operation's launches make one graph, replayed several times; the median counts. Boundaries
    between the launches are part of it.
    """
    model = zerfoo_numba.load_model(
        path, device=device, context=cached + 64, cache_type=cache_type, activation=activation,
        fuse=fuse,
    )  # fmt: skip
    return seconds(model, 1, cached)


def add_measured(document, device, model):
    """The times of `device` beside those that were predicted."""
    settings = (document["cached"], document["cache_type"], document["activation"])
    fuse = set(document["fusions"])
    with tempfile.TemporaryDirectory() as folder:
        path = model
        if model in synth.SHAPES:
            path = str(Path(folder) / "model.gguf")
            synth.synthesize(model, path)
        times, whole = measured(path, device, *settings, fuse)
    groups = record(header(model), 1, *settings, fuse=fuse)
    for operation, group in zip(document["operations"], groups, strict=True):
        seconds = times[group.call.name, *group.call.shape.items()]
        operation["measured_us"] = 1e6 * seconds
    document |= {"device": device, "measured_us": 1e6 * whole}


def table(document):
    """The document as lines of text; all but the shapes are sums over the operation's launches."""
    timed = "measured_us" in document
    yield f"{'operation':<26}{'shape':<20}{'n':>4}{'MB':>9}{'sectors k':>11}{'instr M':>9}" + (
        f"{'memory us':>11}{'issue us':>10}{'floor us':>10}{'edges us':>10}"
        + ("measured us".rjust(13) if timed else "")
    )
    for o in document["operations"]:
        n = o["launches"]
        yield (
            f"{o['operation']:<25.25} {o['shape']:<19.19} {n:>4}{n * o['cost_bytes'] / 1e6:>9.3f}"
            f"{n * o['sectors'] / 1e3:>11.1f}{n * o['thread_instructions'] / 1e6:>9.2f}"
            f"{n * o['memory_us']:>11.2f}{n * o['issue_us']:>10.2f}{n * o['floor_us']:>10.2f}"
            f"{n * document['boundary_us']:>10.2f}"
            + (f"{n * o['measured_us']:>13.2f}" if timed else "")
        )
    yield (
        f"{document['model']} on {document['gpu']}, {document['origin']}: "
        f"{document['launches_per_token']} launches, {document['requested_over_stored']:.3f} x the "
        f"bytes of weights and cache requested, "
        f"{document['thread_instructions_per_token'] / 1e6:.0f} million thread-instructions; "
        f"an arena of {document['arena_bytes']['size'] / 1e6:.1f} MB for its buffers; "
        f"{document['floor_us']:.0f} us and {document['boundaries_us']:.0f} us of boundaries: "
        f"{document['tokens_per_s_at_most']:.0f} tokens/s at most"
        + (f"; measured {document['measured_us']:.0f} us on {document['device']}" if timed else "")
    )


def main(argv=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=first)
    parser.add_argument("-m", "--model", default="gemma3-1b", help="a synthetic model or a file")
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--cached", type=int, default=1024, help="tokens before the decoded one")
    parser.add_argument("--cache-type", default="f32", choices=CACHE_TYPES)
    parser.add_argument("--activation", default="float", choices=("float", "int8"))
    parser.add_argument("--fuse", type=fusions, default=True, metavar="NAMES", help=FUSE)
    parser.add_argument("--boundary-us", type=float, default=BOUNDARY_US)
    parser.add_argument("--device", help="measure on this device too")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the JSON and a picture")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    o = parser.parse_args(argv)
    try:
        if o.cached < 0 or o.boundary_us < 0:
            raise InputError("--cached and --boundary-us take numbers of at least 0")
        settings = (o.cached, o.cache_type, o.activation, o.boundary_us, o.fuse)
        document = step(o.model, find_gpu(o.gpu), *settings)
        if o.device:
            add_measured(document, o.device, o.model)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(document, indent=1)
    if o.out:
        o.out.mkdir(parents=True, exist_ok=True)
        stem = o.out / f"{document['model']}_{document['gpu'].replace(' ', '')}_step"
        stem.with_suffix(".json").write_text(text + "\n")
        draw(document, stem.with_suffix(".png"))
    print(text if o.json else "\n".join(table(document)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

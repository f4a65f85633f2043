"""The measured roofline: every kernel's time on a device, under ceilings measured in the same run.

The launches are those that the device makes itself. What each must move and compute is its `cost`;
what it moves is counted by the PTX emulator on the same launch; its time is that of all launches of
its kind in one captured graph, replayed, so that the weights of every layer pass; where they are
few they are repeated.
"""

import statistics

import numpy as np

import zerfoo_numba
from bench import ceilings
from bench.environment import environment
from bench.launches import SECTOR, LaunchCounter, grouped, recorded
from bench.model_header import header
from bench.roofline import ORIGINS, counted, pipeline
from zerfoo_numba.errors import InputError, ZerfooError

REPEATS = 7
LEAST_LAUNCHES = 20  # timed together, so that what starts them is small beside them
RATES = {"tensor": "tensor_int8", "dot": "int8", "float32": "float32"}  # of each pipeline
LEVELS = 2.0  # a cache's roof is drawn where it is this many times the next slower one
MEASURED = {
    "measured_us": "median of {repeats} replays of a graph of all launches of the operation; per "
    "launch, the boundary to the next included",
    "memory_us": "32 x unique_sectors / the rate of reading the largest buffer; per launch",
    "arithmetic_us": "cost flops / the measured rate of the launch's pipeline; per launch",
    "floor_us": "the greater of the two; per launch",
    "tflops": "cost flops / measured_us",
}


def roofs(measured):
    """{"read": [[label, GB/s]], the last of them memory; "compute": [[label, Top/s]]}."""
    rows = measured["read"]
    kept = [rows[-1]]
    for row in reversed(rows[:-1]):
        if row["gb_per_s"] > LEVELS * kept[-1]["gb_per_s"]:
            kept.append(row)
    read = [[f"{ceilings.size(r['bytes'])} {r['gb_per_s']:.3g} GB/s", r["gb_per_s"]] for r in kept]
    read[0][0] = f"memory {kept[0]['gb_per_s']:.3g} GB/s"
    names = {"float32": "float32 FMA", "int8": "8-bit dot", "tensor": "tensor cores, f16 mma",
             "tensor_int8": "tensor cores, 8-bit mma"}  # fmt: skip
    compute = [
        [f"{names[kind]} {_rate(rate['tops'])}", rate["tops"]]
        for kind, rate in measured["rates"].items()
    ]
    return {"read": read[::-1], "compute": compute}


def _rate(tops):
    return f"{tops:.3g} Top/s" if tops >= 1 else f"{1e3 * tops:.3g} Gop/s"


def seconds(model, tokens, cached):
    """({(operation, *shape): seconds of one launch}, those of the whole step) on the device."""
    walk, device = model.walk, model.device
    walk.take([0] * tokens, cached)
    launch, noted = device.launch, []
    device.launch = lambda *given, shared=0: noted.append((*given, shared))
    walk.ops.calls = calls = []
    try:
        walk.embed(tokens)
        walk.layers(tokens, cached)
        walk.project(walk.logits, tokens - 1)
        walk.choose(1) if tokens == 1 else walk.ops.advance(walk.position, tokens)
    finally:
        del device.launch
        walk.ops.calls = None
    kinds = {}
    for call, given in zip(calls, noted, strict=True):
        kinds.setdefault((call.name, *call.shape.items()), []).append(given)

    def timed(launches):
        graph = device.capture(lambda: [launch(*given) for given in launches])
        samples = []
        for _ in range(REPEATS + 1):  # the first warms up
            device.write(walk.position, np.full(1, cached, np.uint32))
            with device.timer() as timing:
                graph.replay()
            samples.append(timing.seconds)
        return statistics.median(samples[1:])

    found = {}
    for key, kind in kinds.items():
        several = kind * -(-LEAST_LAUNCHES // len(kind))
        found[key] = timed(several) / len(several)
    return found, timed(noted)


def point(group, counts, time, rates):
    """One kernel of a step as a JSON-ready record; `rates`: GB/s of reading,
    10^12 operations a second."""
    cost = group.call.cost
    compute = rates[RATES[pipeline(counts)]]
    times = {
        "memory": SECTOR * counts.unique_sectors / rates["read"] / 1e3,
        "arithmetic": cost.flops / compute / 1e6,
    }
    limit = max(times, key=times.get)
    intensity = cost.flops / (SECTOR * counts.unique_sectors)
    return {
        **counted(group, counts),
        **{f"{name}_us": us for name, us in times.items()},
        "floor_us": times[limit],
        "measured_us": 1e6 * time,
        "limit": limit,
        "intensity": intensity,
        "roof_tflops": min(compute, intensity * rates["read"] / 1e3),
        "tflops": cost.flops / time / 1e12,
    }


def step(model, gguf, counter, tokens, cached, rates, settings):
    """The record of a step over `tokens` after `cached`: its points, slowest first, and sums."""
    calls, launches = recorded(gguf, tokens, cached, *settings, model.device)[1:]
    groups = grouped(gguf, calls, launches)
    times, whole = seconds(model, tokens, cached)
    found = {(g.call.name, *g.call.shape.items()) for g in groups}
    if found != times.keys():
        raise ZerfooError("the device launches other operations than were recorded")
    points = [
        point(g, counter.count(g, cached), times[g.call.name, *g.call.shape.items()], rates)
        for g in groups
    ]
    points.sort(key=lambda p: -p["launches"] * p["measured_us"])

    def total(name):
        return sum(p["launches"] * p[name] for p in points)

    summed = ("cost_bytes", "cost_flops", "thread_instructions", "sectors", "unique_sectors",
              "memory_us", "arithmetic_us", "floor_us", "measured_us")  # fmt: skip
    sums = {"launches": sum(p["launches"] for p in points)}
    sums["weight_bytes"] = sum(p["weight_bytes"] for p in points)
    sums |= {name: total(name) for name in summed}
    sums |= {"step_us": 1e6 * whole, "tokens_per_s": tokens / whole}
    return {"tokens": tokens, "cached": cached, "sums": sums, "points": points}


def measure(path, name, device, cached, tokens, cache_type, activation, largest):
    """The whole document for the GGUF file at `path`, called `name`."""
    context = cached + max(tokens, 64) + 1
    model = zerfoo_numba.load_model(
        path, device=device, context=context, cache_type=cache_type, activation=activation
    )
    device = model.device
    if tokens > device.chunk:
        raise InputError(f"--tokens takes at most {device.chunk} on {device.name}, one chunk")
    measured = ceilings.measure(device, largest)
    rates = {kind: rate["tops"] for kind, rate in measured["rates"].items()}
    rates["read"] = measured["read"][-1]["gb_per_s"]
    counter, gguf = LaunchCounter(device.cc), header(path)
    settings = (cache_type, activation)
    origins = {k: v for k, v in ORIGINS.items() if k not in ("issue_us", "arithmetic_us")}
    cc = ".".join(map(str, device.cc))
    return {
        "kind": "roofline",
        "origin": f"measured on {device.description}",
        "model": name,
        "activation": activation,
        "cache_type": cache_type,
        "device": device.description,
        "ceilings": {k: v for k, v in measured.items() if k not in ("kind", "environment")},
        "roofs": roofs(measured),
        "origins": {k: v.format(cc=cc, repeats=REPEATS) for k, v in (origins | MEASURED).items()},
        "environment": environment(),
        "decode": step(model, gguf, counter, 1, cached, rates, settings),
        "prefill": step(model, gguf, counter, tokens, 0, rates, settings),
    }

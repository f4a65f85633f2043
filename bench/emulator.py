"""The PTX emulator's speed: python -m bench.emulator [--lanes 65536] [--repeats 5] [--json]

Thread-instructions a second: the instructions of the PTX times the threads that execute them, as
the emulator's counters count them, over the wall time of a launch without counters or checks.
One core, then two; the best of some repeats.
"""

import argparse
import json
import time

import numpy as np
from numba import cuda, float32, int32, uint32

from bench.environment import environment
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.kernels import matvec
from zerfoo_numba.kernels.warp import madd
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.weights import Weight

BLOCK = 256
K = 1024
ROUNDS = 32


@cuda.jit
def arithmetic(out):
    """Integer and float arithmetic on registers, nearly nothing else."""
    i = madd(uint32(cuda.blockIdx.x), uint32(cuda.blockDim.x), uint32(cuda.threadIdx.x))
    state, total = uint32(i), float32(0.0)
    for _ in range(ROUNDS):
        state = uint32(uint32(state * uint32(1664525)) + uint32(1013904223))
        bits = uint32(state ^ uint32(state >> uint32(13)))
        low = float32(uint32(bits & uint32(0xFFFF)))
        total += low * float32(1.5) + float32(uint32(bits >> uint32(16)))
    out[i] = total


@cuda.jit
def divergent(out):
    """Collatz steps: every warp waits for its slowest lane."""
    i = madd(uint32(cuda.blockIdx.x), uint32(cuda.blockDim.x), uint32(cuda.threadIdx.x))
    value, steps = uint32(i + uint32(1)), uint32(0)
    while value != uint32(1) and steps < uint32(ROUNDS):
        if uint32(value & uint32(1)) == uint32(0):
            value = uint32(value >> uint32(1))
        else:
            value = uint32(uint32(value * uint32(3)) + uint32(1))
        steps = uint32(steps + uint32(1))
    out[i] = float32(steps)


@cuda.jit
def shared_sum(out):
    """A tree of sums in shared memory, with barriers."""
    box = cuda.shared.array(BLOCK, float32)
    t = uint32(cuda.threadIdx.x)
    box[t] = float32(int32(t))
    cuda.syncthreads()
    half = uint32(BLOCK // 2)
    while half > uint32(0):
        if t < half:
            box[t] += box[uint32(t + half)]
        cuda.syncthreads()
        half = uint32(half >> uint32(1))
    out[madd(uint32(cuda.blockIdx.x), uint32(BLOCK), t)] = box[0]


def workloads(device, lanes):
    """(name, function that launches once) for `lanes` threads each."""
    out = device.empty((lanes,), np.float32, "out")
    for kernel in (arithmetic, divergent, shared_sum):
        name = kernel.py_func.__name__

        def launch(kernel=kernel):
            device.launch(kernel, lanes // BLOCK, BLOCK, (out,))

        yield name, launch
    rows, rng = lanes // 32, np.random.default_rng(0)
    x = device.upload(rng.standard_normal((1, K)).astype(np.float32), "x")
    y = device.empty((1, rows), np.float32, "y")
    for type_name in ("Q8_0", "Q4_K", "Q6_K", "F16"):
        quant = QUANTS[type_name]
        size = rows * K // quant.block_size * quant.block_bytes
        data = device.upload(rng.integers(0, 256, size, dtype=np.uint8), "weight")
        weight = Weight(data, type_name, rows, K)
        yield f"matvec {type_name}", lambda weight=weight: matvec.matmul(device, y, weight, x)


def measure(lanes, repeats, threads=(1, 2)):
    """One record for each workload; rates in thread-instructions a second."""
    device, records = EmulatorDevice(), []
    for name, launch in workloads(device, lanes):
        device.options.update(count=True, threads=1)
        launch()
        counters = device.counters.pop()
        device.options["count"] = False
        record = {"workload": name, "thread_instructions": counters.thread_instructions}
        for number in threads:
            device.options["threads"] = number
            seconds = min(_timed(launch) for _ in range(repeats + 1))
            record[f"per_second_{number}_threads"] = counters.thread_instructions / seconds
        records.append(record)
    return records


def _timed(launch):
    start = time.perf_counter()
    launch()
    return time.perf_counter() - start


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.emulator", description=__doc__)
    parser.add_argument("--lanes", type=int, default=65536, help="threads of each launch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    lanes = max(options.lanes // BLOCK, 1) * BLOCK
    records = measure(lanes, options.repeats)
    if options.json:
        print(json.dumps({**environment(), "lanes": lanes, "results": records}, indent=1))
        return
    print(f"{'workload':<14} {'instructions':>14} {'1 thread':>12} {'2 threads':>12}   (M/s)")
    for r in records:
        one, two = (r[f"per_second_{n}_threads"] / 1e6 for n in (1, 2))
        print(f"{r['workload']:<14} {r['thread_instructions']:>14,} {one:>12,.0f} {two:>12,.0f}")


if __name__ == "__main__":
    main()

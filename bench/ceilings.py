"""What a device can do at most: python -m bench.ceilings [--device cuda] [--json]

read: bytes per second of the plainest kernel, 16 bytes a thread and step, over buffers from 1 MiB,
which a cache holds, to one that none does. boundary: from one launch to the next inside a captured
graph, by graphs of many launches that do nothing. barrier: from one barrier over all blocks to the
next within a launch, by an atomic counter; the blocks must all be resident, so it is measured on a
GPU with one block for each multiprocessor, and elsewhere with a single block.
"""

import argparse
import json
import statistics
import sys
from functools import partial

import numpy as np
from numba import cuda
from numba.cuda.types import uint32, uint64

from bench.environment import environment
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import ZerfooError
from zerfoo_numba.kernels.warp import madd
from zerfoo_numba.ptx.instructions import atomic_add, load_u32x4

THREADS = 256
BLOCKS = 1056  # 8 for each multiprocessor of an H200
SPAN = 16 * THREADS * BLOCKS  # bytes of one step of the whole grid
REPEATS = 7
EMPTY, BARRIERS = 200, 200


@cuda.jit
def read_kernel(out, x, steps):
    thread = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    at = uint64(uint64(thread) * uint64(16))
    mixed = uint32(0)
    for _ in range(steps):
        a, b, c, d = load_u32x4(x, at)
        mixed = uint32(mixed ^ a ^ b ^ c ^ d)
        at = uint64(at + uint64(uint64(cuda.gridDim.x) * uint64(16 * THREADS)))
    out[thread] = mixed


@cuda.jit
def empty_kernel(out):
    if uint32(cuda.threadIdx.x) == uint32(THREADS):  # never: a launch has fewer
        out[0] = uint32(1)


@cuda.jit
def barrier_kernel(arrived, rounds):
    """`arrived` (1,) uint32 counts the blocks that have come, over all rounds."""
    expected = uint32(0)
    for _ in range(rounds):
        expected = uint32(expected + uint32(cuda.gridDim.x))
        cuda.syncthreads()
        if uint32(cuda.threadIdx.x) == uint32(0):
            cuda.threadfence()
            seen = uint32(atomic_add(arrived, uint32(0), uint32(1)) + uint32(1))
            while seen < expected:
                seen = atomic_add(arrived, uint32(0), uint32(0))
        cuda.syncthreads()


def median_seconds(device, function):
    """Of REPEATS calls after one that warms up."""
    samples = []
    for _ in range(REPEATS + 1):
        with device.timer() as timing:
            function()
        samples.append(timing.seconds)
    return statistics.median(samples[1:])


def read_rates(device, largest):
    """[{"bytes", "gb_per_s"}] for buffers of powers of four from 1 MiB to `largest` MiB."""
    found, mib = [], 1
    while mib <= largest:
        blocks = min(BLOCKS, (mib << 20) // (16 * THREADS))
        steps = max(1, (mib << 20) // (16 * THREADS * blocks))
        nbytes = 16 * THREADS * blocks * steps
        x = device.empty(nbytes // 4, np.uint32, "x")
        device.write(x, np.ones(nbytes // 4, np.uint32))
        out = device.empty(THREADS * blocks, np.uint32, "out")
        count = min(16, max(1, (largest << 20) // nbytes))  # a small buffer is read more often
        args = (out, x, np.uint32(steps))
        graph = device.capture(partial(_read, device, count, blocks, args))
        seconds = median_seconds(device, graph.replay) / graph.launches
        found.append({"bytes": nbytes, "gb_per_s": nbytes / seconds / 1e9})
        mib *= 4
    return found


def _read(device, count, blocks, args):
    for _ in range(count):
        device.launch(read_kernel, blocks, THREADS, args)


def boundary_us(device):
    """Microseconds from launch to launch in a graph: of 2n launches less those of n."""
    out = device.empty(1, np.uint32, "out")

    def graph(count):
        launches = [None] * count
        return device.capture(
            lambda: [device.launch(empty_kernel, 1, 32, (out,)) for _ in launches]
        )

    few, many = graph(EMPTY), graph(2 * EMPTY)
    more = median_seconds(device, many.replay) - median_seconds(device, few.replay)
    return 1e6 * max(more, 0.0) / EMPTY


def barrier_us(device, blocks):
    """Microseconds from barrier to barrier over `blocks` blocks that are resident together."""
    arrived = device.empty(1, np.uint32, "arrived")

    def seconds(rounds):
        def run():
            args = (arrived, np.uint32(rounds))
            device.launch(barrier_kernel, blocks, 32, args)

        samples = []
        for _ in range(REPEATS):
            device.write(arrived, np.zeros(1, np.uint32))
            with device.timer() as timing:
                run()
            samples.append(timing.seconds)
        return statistics.median(samples)

    more = seconds(2 * BARRIERS) - seconds(BARRIERS)
    if device.read(arrived)[0] != blocks * BARRIERS:
        raise ZerfooError(f"{blocks} blocks did not meet {BARRIERS} times")
    return 1e6 * max(more, 0.0) / BARRIERS


def resident_blocks(device):
    """One for each multiprocessor of a GPU; devices that run block by block have one."""
    if device.name != "cuda":
        return 1
    return int(device._here.gpu.properties.multiprocessor_count)


def measure(device, largest):
    blocks = resident_blocks(device)
    return {
        "kind": "ceilings",
        "environment": environment(),
        "device": device.description,
        "read": read_rates(device, largest),
        "boundary_us": boundary_us(device),
        "barrier_us": barrier_us(device, blocks),
        "barrier_blocks": blocks,
    }


def main(argv=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.ceilings", description=first)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--largest", type=int, default=1024, help="MiB of the largest buffer read")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        record = measure(open_device(options.device), options.largest)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(record, indent=1))
        return 0
    for row in record["read"]:
        print(f"read {row['bytes'] / 2**20:6.0f} MiB: {row['gb_per_s']:9.1f} GB/s")
    print(f"boundary {record['boundary_us']:.2f} us, barrier of {record['barrier_blocks']} blocks "
          f"{record['barrier_us']:.2f} us: {record['device']}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

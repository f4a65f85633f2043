"""What a device can do at most: python -m bench.ceilings [--device cuda] [--json]

read: bytes per second of the plainest kernel, 16 bytes a thread and step, over buffers from a size
that the nearest cache holds to one that none does; a small one is read again and again within a
launch, each part by the same block. float32, int8, tensor: operations per second (bench/rates.py).
boundary: from one launch to the next inside a captured graph, by graphs of many launches that do
nothing. barrier: from one barrier over all blocks to the next within a launch, by an atomic
counter; the blocks must all be resident, so it is measured on a GPU with one block for each
multiprocessor, and elsewhere with a single block.
"""

import argparse
import json
import statistics
import sys

import numpy as np
from numba import cuda
from numba.cuda.types import uint32, uint64

from bench.environment import environment
from bench.rates import rates
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import ZerfooError
from zerfoo_numba.kernels.warp import madd
from zerfoo_numba.ptx.instructions import atomic_add, load_u32x4

WARP_BYTES = 16 * 32  # that a warp reads at a time
SMALLEST = 16 << 10  # bytes for each CPU thread or multiprocessor
LEAST_BYTES = 256 << 20  # read in one launch
REPEATS = 7
EMPTY, BARRIERS = 200, 200


@cuda.jit
def read_kernel(out, x, passes, steps, warp_stride, step_stride):
    """Every warp reads its `steps` pieces of `x`, `passes` times; the strides are in bytes."""
    thread = madd(uint32(cuda.blockIdx.x), uint32(cuda.blockDim.x), uint32(cuda.threadIdx.x))
    warp, lane = uint32(thread >> uint32(5)), uint32(thread & uint32(31))
    start = uint64(uint64(warp) * uint64(warp_stride) + uint64(uint32(lane << uint32(4))))
    mixed = uint32(0)
    for _ in range(passes):
        at = uint64(start)
        for _ in range(steps):
            a, b, c, d = load_u32x4(x, at)
            mixed = uint32(uint32(mixed + a) ^ uint32(uint32(b ^ c) ^ d))
            at = uint64(at + uint64(step_stride))
    out[thread] = mixed


@cuda.jit
def empty_kernel(out):
    if uint32(cuda.threadIdx.x) == uint32(32):  # never: a launch has fewer
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


def grid(device):
    """(multiprocessors or threads, blocks, threads of a block) that keep the device busy.

    A CPU thread runs one warp, through memory that lies together; a GPU has 8 blocks of 8 warps on
    every multiprocessor, and consecutive warps read what lies side by side.
    """
    units = resident_blocks(device) if device.name == "cuda" else device.threads
    return (units, 8 * units, 256) if device.name == "cuda" else (units, units, 32)


def sizes(units, largest):
    """Bytes of the buffers that are read, for each unit by fours, up to `largest` MiB in all."""
    each = SMALLEST
    while each * units < largest << 20:
        yield each * units
        each *= 4
    yield largest << 20


def read_rates(device, largest):
    """[{"bytes", "gb_per_s"}] for buffers from SMALLEST for each unit to `largest` MiB."""
    units, blocks, threads = grid(device)
    found = []
    for wanted in sizes(units, largest):
        warps = blocks * threads // 32
        steps = max(1, wanted // (warps * WARP_BYTES))
        nbytes = warps * steps * WARP_BYTES
        passes = max(1, min(LEAST_BYTES, largest << 20) // nbytes)
        x = device.upload(np.ones(nbytes // 4, np.uint32), "x")
        out = device.empty(blocks * threads, np.uint32, "out")
        strides = WARP_BYTES, warps * WARP_BYTES
        if device.name != "cuda":
            strides = steps * WARP_BYTES, WARP_BYTES
        args = (out, x, *(np.uint32(n) for n in (passes, steps, *strides)))

        def read(args=args):
            device.launch(read_kernel, blocks, threads, args)

        seconds = median_seconds(device, read)
        found.append({"bytes": nbytes, "gb_per_s": passes * nbytes / seconds / 1e9})
    return found


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
    blocks, (units, *_) = resident_blocks(device), grid(device)
    return {
        "kind": "ceilings",
        "environment": environment(),
        "device": device.description,
        "read": read_rates(device, largest),
        "rates": rates(device, 8 * units, 256),
        "boundary_us": boundary_us(device),
        "barrier_us": barrier_us(device, blocks),
        "barrier_blocks": blocks,
    }


def size(nbytes):
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


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
        print(f"read {row['bytes'] / 2**20:10.3f} MiB: {row['gb_per_s']:9.1f} GB/s")
    for kind, rate in record["rates"].items():
        print(f"{kind}: {rate['tops']:.3g} Top/s")
    print(f"boundary {record['boundary_us']:.2f} us, barrier of {record['barrier_blocks']} blocks "
          f"{record['barrier_us']:.2f} us: {record['device']}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

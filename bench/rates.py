"""How fast a device computes at most: float32, 8-bit dot products and, on a GPU, tensor cores.

Kernels that touch no memory until they end: CHAINS sums of each thread that wait for nothing but
themselves, UNROLL steps to an iteration. An operation is a multiply or an add, so an fma is 2, a
dp4a 8, and an mma.sync is 4096 of a warp with halves (16 x 8 x 16) and 8192 with bytes. Hopper and
later have faster tensor instructions (wgmma, tcgen05), which are not measured: no kernel of this
project uses them.
"""

import statistics

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int32, uint32

from zerfoo_numba.kernels.warp import madd
from zerfoo_numba.ptx.compile import ptx_op
from zerfoo_numba.ptx.instructions import dp4a_u8

CHAINS, UNROLL = 4, 32
REPEATS = 7
LEAST_SECONDS = 0.02  # of a launch: long beside what starts it
ONES, BYTES = 0x3C003C00, 0x01010101  # two halves of 1.0; four bytes of 1

fma = ptx_op((float32,), (float32,) * 3, "fma.rn.f32 $0, $1, $2, $3;")
mma = ptx_op(
    (float32,) * 4, (uint32,) * 6 + (float32,) * 4,
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
    "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
)  # fmt: skip
mma_s8 = ptx_op(
    (int32,) * 4, (uint32,) * 6 + (int32,) * 4,
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
    "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
)  # fmt: skip


@cuda.jit
def float32_kernel(out, rounds):
    """out[thread] = the sum of four chains s = s/2 + 1, from other numbers in each lane."""
    thread = madd(uint32(cuda.blockIdx.x), uint32(cuda.blockDim.x), uint32(cuda.threadIdx.x))
    half, one = float32(0.5), float32(1.0)
    first = float32(uint32(thread & uint32(31)))
    a, b, c, d = first, first + one, first + float32(2.0), first + float32(3.0)
    for _ in range(rounds):
        for _ in range(UNROLL):
            a, b = fma(a, half, one), fma(b, half, one)
            c, d = fma(c, half, one), fma(d, half, one)
    out[thread] = a + b + c + d


@cuda.jit
def int8_kernel(out, rounds):
    """out[thread] = the sum of four chains of dot products of a chain's own bytes with 1, 0, 0, 0.

    What is multiplied changes with every step, so that no compiler can multiply it once.
    """
    thread = madd(uint32(cuda.blockIdx.x), uint32(cuda.blockDim.x), uint32(cuda.threadIdx.x))
    unit, low = int32(1), uint32(thread & uint32(31))
    a, b = int32(low), int32(low + uint32(1))
    c, d = int32(low + uint32(2)), int32(low + uint32(3))
    for _ in range(rounds):
        for _ in range(UNROLL):
            a, b = dp4a_u8(uint32(a), unit, a), dp4a_u8(uint32(b), unit, b)
            c, d = dp4a_u8(uint32(c), unit, c), dp4a_u8(uint32(d), unit, d)
    out[thread] = uint32(a) + uint32(b) + uint32(c) + uint32(d)


@cuda.jit
def tensor_kernel(out, rounds):
    """out[thread] = 4 chains x 4 elements of products of ones, 16 more with each step."""
    thread = madd(uint32(cuda.blockIdx.x), uint32(cuda.blockDim.x), uint32(cuda.threadIdx.x))
    x, zero = uint32(ONES), float32(0.0)
    a = b = c = d = (zero, zero, zero, zero)
    for _ in range(rounds):
        for _ in range(UNROLL):
            a = mma(x, x, x, x, x, x, a[0], a[1], a[2], a[3])
            b = mma(x, x, x, x, x, x, b[0], b[1], b[2], b[3])
            c = mma(x, x, x, x, x, x, c[0], c[1], c[2], c[3])
            d = mma(x, x, x, x, x, x, d[0], d[1], d[2], d[3])
    total = zero
    for part in (a, b, c, d):
        total += part[0] + part[1] + part[2] + part[3]
    out[thread] = total


@cuda.jit
def tensor_int8_kernel(out, rounds):
    """out[thread] = 4 chains x 4 elements of products of ones, 32 more with each step."""
    thread = madd(uint32(cuda.blockIdx.x), uint32(cuda.blockDim.x), uint32(cuda.threadIdx.x))
    x, zero = uint32(BYTES), int32(0)
    a = b = c = d = (zero, zero, zero, zero)
    for _ in range(rounds):
        for _ in range(UNROLL):
            a = mma_s8(x, x, x, x, x, x, a[0], a[1], a[2], a[3])
            b = mma_s8(x, x, x, x, x, x, b[0], b[1], b[2], b[3])
            c = mma_s8(x, x, x, x, x, x, c[0], c[1], c[2], c[3])
            d = mma_s8(x, x, x, x, x, x, d[0], d[1], d[2], d[3])
    total = zero
    for part in (a, b, c, d):
        total = int32(total + part[0] + part[1] + part[2] + part[3])
    out[thread] = uint32(total)


# kernel, its result's type, operations of a thread and step of a chain
KINDS = {
    "float32": (float32_kernel, np.float32, 2),
    "int8": (int8_kernel, np.uint32, 8),
    "tensor": (tensor_kernel, np.float32, 4096 // 32),
    "tensor_int8": (tensor_int8_kernel, np.uint32, 8192 // 32),
}


def operations(kind, threads, rounds):
    return KINDS[kind][2] * CHAINS * UNROLL * rounds * threads


def run(device, kind, blocks, threads, rounds):
    """Launch once; -> what the threads found."""
    kernel, dtype, _ = KINDS[kind]
    out = device.empty(blocks * threads, dtype, "out")
    device.launch(kernel, blocks, threads, (out, np.uint32(rounds)))
    return device.read(out)


def tops(device, kind, blocks, threads):
    """[10^12 operations a second] of REPEATS launches, each of at least LEAST_SECONDS."""
    kernel, dtype, _ = KINDS[kind]
    out = device.empty(blocks * threads, dtype, "out")

    def seconds(rounds):
        with device.timer() as timing:
            device.launch(kernel, blocks, threads, (out, np.uint32(rounds)))
        return timing.seconds

    rounds = 16
    seconds(rounds)  # compiles
    while seconds(rounds) < LEAST_SECONDS:
        rounds *= 2
    count = operations(kind, blocks * threads, rounds)
    return [count / seconds(rounds) / 1e12 for _ in range(REPEATS)]


def rates(device, blocks, threads):
    """{kind: {"tops": the median, "samples_tops": all}}; tensor cores where the device has any."""
    kinds = [kind for kind in KINDS if "tensor" not in kind or device.name == "cuda"]
    found = {kind: tops(device, kind, blocks, threads) for kind in kinds}
    return {k: {"tops": statistics.median(v), "samples_tops": v} for k, v in found.items()}

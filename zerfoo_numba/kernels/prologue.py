"""prologue: what a product of one token makes of its operand first, in every block that multiplies.

y = x, or rmsnorm(x) with the weight `post`; y = residual + y, which block 0 keeps in `total`;
y = rmsnorm(y) with the weight `weight`; then y in the 8-bit form of `quantize`, in shared memory.
Each of the steps but the last is there or not. All of x, post, residual, total, weight (K,)
float32; total is another buffer than residual, which other blocks still read. Equal, bit for bit,
to rmsnorm, add_rmsnorm and quantize one after another: the same sums in the same order.
"""

from dataclasses import dataclass

from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.quantize import padded, store_four
from zerfoo_numba.kernels.rmsnorm import THREADS, WARPS
from zerfoo_numba.kernels.warp import block_sum
from zerfoo_numba.ptx.instructions import load_f32x4, mul_rn, rsqrt
from zerfoo_numba.quant.packed import PADDING

POST, ADD, NORM = 1, 2, 4  # the steps that are there

device = cuda.jit(device=True, forceinline=True)


@dataclass(frozen=True)
class Prologue:
    """The operand of a product: buffers (1, K), weights (K,); None: the step is not there. Where a
    residual is, there is a total."""

    x: object
    post: object = None
    residual: object = None
    total: object = None
    weight: object = None
    eps: float = 0.0

    @property
    def shape(self):
        return self.x.shape

    @property
    def steps(self):
        there = zip((POST, ADD, NORM), (self.post, self.residual, self.weight), strict=True)
        return sum(step for step, buffer in there if buffer is not None)

    @property
    def arrays(self):
        buffers = (self.post, self.residual, self.total, self.weight)
        return (self.x, *(self.x if b is None else b for b in buffers))  # those are never touched


@device
def has(steps, step):
    return uint32(steps & uint32(step)) != uint32(0)


@device
def padded_to(K):
    """Elements, and bytes, of a row in its 8-bit form."""
    return uint32(uint32(uint32(K + uint32(PADDING - 1)) // uint32(PADDING)) * uint32(PADDING))


@device
def inverse_rms(squares, mean_factor, eps, partial):
    return rsqrt(block_sum(squares, partial) * mean_factor + eps)


@device
def post_scale(x, K, mean_factor, eps, partial):
    """1 / sqrt(mean(x^2) + eps), by the whole block."""
    squares, start = float32(0.0), uint32(0)
    while start < K:
        d = uint32(start + uint32(cuda.threadIdx.x))
        if d < K:
            squares += x[d] * x[d]
        start = uint32(start + uint32(THREADS))
    return inverse_rms(squares, mean_factor, eps, partial)


@device
def sum_scale(x, post, residual, total, K, scale, mean_factor, eps, steps, partial):
    """The same of residual + y; block 0 keeps that sum."""
    keeps = has(steps, ADD) and uint32(cuda.blockIdx.x) == uint32(0)
    squares, start = float32(0.0), uint32(0)
    while start < K:
        d = uint32(start + uint32(cuda.threadIdx.x))
        if d < K:
            value = x[d]
            if has(steps, POST):
                value = mul_rn(value * scale, post[d])
            if has(steps, ADD):
                value += residual[d]
            if keeps:
                total[d] = value
            squares += value * value
        start = uint32(start + uint32(THREADS))
    return inverse_rms(squares, mean_factor, eps, partial)


@device
def four_of(x, post, residual, weight, k, first, second, steps):
    """Elements k, ... k + 3 of what is to be quantised."""
    at = uint64(uint64(k) << uint64(2))
    a, b, c, d = load_f32x4(x, at)
    if has(steps, POST):
        p, q, r, s = load_f32x4(post, at)
        a, b = mul_rn(a * first, p), mul_rn(b * first, q)
        c, d = mul_rn(c * first, r), mul_rn(d * first, s)
    if has(steps, ADD):
        p, q, r, s = load_f32x4(residual, at)
        a, b, c, d = a + p, b + q, c + r, d + s
    if has(steps, NORM):
        p, q, r, s = load_f32x4(weight, at)
        a, b, c, d = a * second * p, b * second * q, c * second * r, d * second * s
    return a, b, c, d


@device
def prepare(data, scales, x, post, residual, total, weight, K, mean_factor, eps, steps):
    """The whole block, which has THREADS threads: the 8-bit form into `data` and `scales`."""
    partial, other = cuda.shared.array(WARPS, float32), cuda.shared.array(WARPS, float32)
    first, second = float32(1.0), float32(1.0)
    if has(steps, POST):
        first = post_scale(x, K, mean_factor, eps, partial)
    if has(steps, ADD | NORM):
        second = sum_scale(x, post, residual, total, K, first, mean_factor, eps, steps, other)
    end = uint32(padded_to(K) >> uint32(2))
    start = uint32(0)
    while start < end:
        four = uint32(start + uint32(cuda.threadIdx.x))
        if uint32(four & uint32(0xFFFFFFE0)) < end:  # whole warps: PADDING is two of them
            k = uint32(four << uint32(2))
            a, b, c, d = float32(0.0), float32(0.0), float32(0.0), float32(0.0)
            if k < K:
                a, b, c, d = four_of(x, post, residual, weight, k, first, second, steps)
            store_four(data, scales, four, four, uint32(0), a, b, c, d)
        start = uint32(start + uint32(THREADS))
    cuda.syncthreads()


def shared_bytes(K):
    """Of the 8-bit form: the bytes, and behind them the scales."""
    return padded(K) + padded(K) // 2


def cost(K, steps):
    """Besides the operand and its 8-bit form, which the product's own cost counts."""
    buffers = {POST: 1, ADD: 2, NORM: 1}  # an addition reads one and writes one
    moved = sum(4 * K * count for step, count in buffers.items() if steps & step)
    return Cost(bytes=moved, flops=4 * K * (1 + bin(steps).count("1")))

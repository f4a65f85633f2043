"""Activations, gated or not: out = act(gate) * up, out = act(x); and what is done to logits.

geglu: act(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))   (Hendrycks and Gimpel, 2016)
swiglu: act(x) = x / (1 + exp(-x))                               (Shazeer, 2020)
glu, and sigmoid without a gate: act(x) = 1 / (1 + exp(-x))      (Dauphin et al., 2017)
tanh, without a gate
squared_relu, without a gate: act(x) = max(x, 0)^2               (So et al., Primer, 2021)
gelu, without a gate: act(x) = x/2 (1 + erf(x / sqrt(2)))        (Hendrycks and Gimpel, 2016)
gelu_tanh, silu, without a gate: the act of geglu and of swiglu
gelu_quick, without a gate: act(x) = x / (1 + exp(-1.702 x))     (Hendrycks and Gimpel, 2016)
softcap: x = cap tanh(x / cap), in place                         (Gemma 2, 2024)
scale: x = factor x, in place
gate, up, x, out (T, F) float32. References: reference.ops.geglu, .swiglu, .gelu, .softcap; for
those of image towers reference.vision.

The gated two are x sigmoid(z), since (1 + tanh(u)) / 2 = sigmoid(2u); the sigmoid is one ex2 and
one rcp, which keeps its relative accuracy at both ends where a tanh would cancel. For the same
reason erf is had from erfc, as a polynomial in the exponent: within 1.2e-7 of its value for every
argument (Press et al., Numerical Recipes, 1992, section 6.2, erfcc).
"""

import math

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import madd
from zerfoo_numba.ptx.instructions import ex2, rcp

THREADS = 128
LOG2E = float(np.float32(math.log2(math.e)))
GELU_LINEAR = float(np.float32(-2.0 * math.sqrt(2.0 / math.pi) * math.log2(math.e)))
GELU_CUBIC = 0.044715


# Of t = 1 / (1 + z / 2), from the highest power: log2(erfc(z) / t) + z^2 log2(e).
ERFC = tuple(
    float(np.float32(c * math.log2(math.e)))
    for c in (
        0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807,
        -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223,
    )
)  # fmt: skip


@cuda.jit(device=True)
def gelu(x):
    """x times the share of a normal distribution below x: erfc(|x| / sqrt(2)) / 2 or the rest."""
    z = abs(x) * float32(math.sqrt(0.5))
    t = rcp(float32(1.0) + float32(0.5) * z)
    power = float32(ERFC[0])
    for c in ERFC[1:]:
        power = power * t + float32(c)
    tail = float32(0.5) * t * ex2(power - float32(LOG2E) * z * z)
    return x * tail if x < float32(0.0) else x - x * tail


@cuda.jit(device=True)
def gelu_tanh(x):
    cubic = float32(1.0) + float32(GELU_CUBIC) * x * x
    return x * rcp(float32(1.0) + ex2(float32(GELU_LINEAR) * x * cubic))


@cuda.jit(device=True)
def sigmoid(x):
    return rcp(float32(1.0) + ex2(float32(-LOG2E) * x))


@cuda.jit(device=True)
def squared_relu(x):
    kept = max(x, float32(0.0))
    return kept * kept


@cuda.jit(device=True)
def silu(x):
    return x * rcp(float32(1.0) + ex2(float32(-LOG2E) * x))


@cuda.jit(device=True)
def gelu_quick(x):
    return x * rcp(float32(1.0) + ex2(float32(-1.702 * LOG2E) * x))


@cuda.jit(device=True)
def tanh(x):
    """Within 2e-7 of the exact value, absolutely: near zero the difference of two ones cancels."""
    return float32(1.0) - float32(2.0) * rcp(float32(1.0) + ex2(float32(2.0 * LOG2E) * x))


def make_gated_kernel1(act):
    @cuda.jit
    def gated_kernel1(out, gate, up, count):
        i = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
        if i < count:
            out[i] = act(gate[i]) * up[i]

    return gated_kernel1


geglu_kernel1 = make_gated_kernel1(gelu_tanh)
swiglu_kernel1 = make_gated_kernel1(silu)
glu_kernel1 = make_gated_kernel1(sigmoid)
KERNELS = {"geglu": geglu_kernel1, "swiglu": swiglu_kernel1, "glu": glu_kernel1}


def gated(device, out, gate, up, kind):
    """`kind`: "geglu", "swiglu" or "glu"."""
    count = gate.size
    args = (out, gate, up, np.uint32(count))
    device.launch(KERNELS[kind], blocks(count, THREADS), THREADS, args)


def make_plain_kernel1(act):
    @cuda.jit
    def plain_kernel1(out, x, count):
        i = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
        if i < count:
            out[i] = act(x[i])

    return plain_kernel1


PLAIN_KERNELS = {
    "gelu": make_plain_kernel1(gelu),
    "gelu_quick": make_plain_kernel1(gelu_quick),
    "gelu_tanh": make_plain_kernel1(gelu_tanh),
    "silu": make_plain_kernel1(silu),
    "sigmoid": make_plain_kernel1(sigmoid),
    "squared_relu": make_plain_kernel1(squared_relu),
    "tanh": make_plain_kernel1(tanh),
}


def plain(device, out, x, kind):
    """`kind`: "gelu", "gelu_quick", "gelu_tanh", "silu", "sigmoid", "squared_relu" or "tanh";
    `out` may be x."""
    args = (out, x, np.uint32(x.size))
    device.launch(PLAIN_KERNELS[kind], blocks(x.size, THREADS), THREADS, args)


@cuda.jit
def softcap_kernel1(x, cap, count):
    i = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    if i < count:
        x[i] = cap * tanh(x[i] * rcp(cap))


def softcap(device, x, cap):
    args = (x, np.float32(cap), np.uint32(x.size))
    device.launch(softcap_kernel1, blocks(x.size, THREADS), THREADS, args)


@cuda.jit
def scale_kernel1(x, factor, count):
    i = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    if i < count:
        x[i] = factor * x[i]


def scale(device, x, factor):
    args = (x, np.float32(factor), np.uint32(x.size))
    device.launch(scale_kernel1, blocks(x.size, THREADS), THREADS, args)


def scale_cost(size):
    return Cost(bytes=8 * size, flops=size)


def softcap_cost(size):
    return Cost(bytes=8 * size, flops=6 * size)


def cost(T, F):
    return Cost(bytes=4 * 3 * T * F, flops=10 * T * F)


def plain_cost(T, F):
    return Cost(bytes=4 * 2 * T * F, flops=28 * T * F)


def inputs(rng, T, F):
    return {
        "gate": (3 * rng.standard_normal((T, F))).astype(np.float32),
        "up": rng.standard_normal((T, F), np.float32),
    }


SHAPES = ({"T": 1, "F": 6912}, {"T": 3, "F": 77}, {"T": 4, "F": 256})

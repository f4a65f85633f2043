"""Gated activations: out = act(gate) * up.   gate, up, out (T, F) float32.

geglu: act(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))   (Hendrycks and Gimpel, 2016)
swiglu: act(x) = x / (1 + exp(-x))                               (Shazeer, 2020)
softcap: x = cap tanh(x / cap), in place                         (Gemma 2, 2024)
References: reference.ops.geglu, reference.ops.swiglu, reference.ops.softcap.

Both are x sigmoid(z), since (1 + tanh(u)) / 2 = sigmoid(2u); the sigmoid is one ex2 and one rcp,
which keeps its relative accuracy at both ends where a tanh would cancel.
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


@cuda.jit(device=True)
def gelu(x):
    cubic = float32(1.0) + float32(GELU_CUBIC) * x * x
    return x * rcp(float32(1.0) + ex2(float32(GELU_LINEAR) * x * cubic))


@cuda.jit(device=True)
def silu(x):
    return x * rcp(float32(1.0) + ex2(float32(-LOG2E) * x))


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


geglu_kernel1 = make_gated_kernel1(gelu)
swiglu_kernel1 = make_gated_kernel1(silu)
KERNELS = {"geglu": geglu_kernel1, "swiglu": swiglu_kernel1}


def gated(device, out, gate, up, kind):
    """`kind`: "geglu" or "swiglu"."""
    count = gate.size
    args = (out, gate, up, np.uint32(count))
    device.launch(KERNELS[kind], blocks(count, THREADS), THREADS, args)


@cuda.jit
def softcap_kernel1(x, cap, count):
    i = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    if i < count:
        x[i] = cap * tanh(x[i] * rcp(cap))


def softcap(device, x, cap):
    args = (x, np.float32(cap), np.uint32(x.size))
    device.launch(softcap_kernel1, blocks(x.size, THREADS), THREADS, args)


def softcap_cost(size):
    return Cost(bytes=8 * size, flops=6 * size)


def cost(T, F):
    return Cost(bytes=4 * 3 * T * F, flops=10 * T * F)


def inputs(rng, T, F):
    return {
        "gate": (3 * rng.standard_normal((T, F))).astype(np.float32),
        "up": rng.standard_normal((T, F), np.float32),
    }


SHAPES = ({"T": 1, "F": 6912}, {"T": 3, "F": 77}, {"T": 4, "F": 256})

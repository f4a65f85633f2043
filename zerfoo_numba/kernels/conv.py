"""causal conv: out[t, i] = silu(sum over k of weight[i, k] u[t - K + 1 + k, i] + bias[i]).

One filter of K taps per channel, the last of them for the token itself. u is the first I of the
`stride` columns of x (T, stride); weight (I, K), bias (I,) or absent, out (T, I), float32. state
(K - 1, I) holds u of the K - 1 tokens before the first, and then those before the next.
Reference: reference.recurrent_ops.causal_conv. Gu and Dao, Mamba, 2023, section 3.4.

version 1: a thread has one channel and a segment of the tokens. Only the first segment, of at least
K - 1 tokens, reads the state, and so it may write it when it is done.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.activation import silu
from zerfoo_numba.kernels.warp import madd

THREADS = 128
SEGMENT = 8


@cuda.jit
def conv_kernel1(out, x, weight, bias, state, I, stride, K, T, segment, biased):
    i = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    t = uint32(uint32(cuda.blockIdx.y) * segment)
    if i < I:
        old = uint32(K - uint32(1))
        end = min(uint32(t + segment), T)
        while t < end:
            total = float32(0.0)
            k = uint32(0)
            while k < K:
                row = uint32(t + k)
                value = (
                    state[madd(row, I, i)] if row < old else x[madd(uint32(row - old), stride, i)]
                )
                total += value * weight[madd(i, K, k)]
                k = uint32(k + uint32(1))
            if biased != uint32(0):
                total += bias[i]
            out[madd(t, I, i)] = silu(total)
            t = uint32(t + uint32(1))
        if uint32(cuda.blockIdx.y) == uint32(0):
            j = uint32(0)
            while j < old:
                row = uint32(T + j)
                value = (
                    state[madd(row, I, i)] if row < old else x[madd(uint32(row - old), stride, i)]
                )
                state[madd(j, I, i)] = value
                j = uint32(j + uint32(1))


def conv(device, out, x, weight, bias, state):
    """`bias` may be None."""
    (T, I), stride, K = out.shape, x.shape[1], weight.shape[1]
    segment = max(SEGMENT, K - 1)
    sizes = [np.uint32(n) for n in (I, stride, K, T, segment, bias is not None)]
    args = (out, x, weight, weight if bias is None else bias, state, *sizes)
    device.launch(conv_kernel1, (blocks(I, THREADS), blocks(T, segment)), THREADS, args)


def cost(T, I, K):
    return Cost(bytes=4 * (2 * T * I + K * I + I + 2 * (K - 1) * I), flops=T * I * (2 * K + 6))


def inputs(rng, T, I, K):
    return {
        "x": rng.standard_normal((T, 2 * I), np.float32),
        "weight": rng.standard_normal((I, K), np.float32),
        "bias": rng.standard_normal(I, np.float32),
        "state": rng.standard_normal((K - 1, I), np.float32),
    }


SHAPES = (
    {"T": 1, "I": 256, "K": 4},
    {"T": 2, "I": 77, "K": 5},
    {"T": 19, "I": 128, "K": 4},
    {"T": 9, "I": 33, "K": 11},
    {"T": 3, "I": 32, "K": 1},
)

"""token shift: out[m, t] = x[t] + (x[t - 1] - x[t]) (mix[m] + more[m, t]), for M mixes at once.

x (T, D), mix (M, D), more (M, T, D) or absent, out (M, T, D), which may be `more`; before (D,) is
the row before the first, and afterwards the last, unless it is needed again: `keep`. float32.
Reference: reference.recurrent_ops.token_shift. Peng et al., RWKV, arXiv:2305.13048, section 3.1.1.

version 1: one thread per element, which makes all mixes of it; the first token's thread alone reads
`before`, and so it may write it.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import madd

THREADS = 128


@cuda.jit
def token_shift_kernel1(out, x, before, mix, more, D, T, M, varied, keep):
    d = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    t = uint32(cuda.blockIdx.y)
    if d < D:
        value = x[madd(t, D, d)]
        shift = (before[d] if t == uint32(0) else x[madd(uint32(t - uint32(1)), D, d)]) - value
        m = uint32(0)
        while m < M:
            at = madd(madd(m, T, t), D, d)
            share = mix[madd(m, D, d)]
            if varied != uint32(0):
                share += more[at]
            out[at] = value + shift * float32(share)
            m = uint32(m + uint32(1))
        if (t == uint32(0)) & (keep == uint32(0)):
            before[d] = x[madd(uint32(T - uint32(1)), D, d)]


def token_shift(device, out, x, before, mix, more=None, keep=False):
    (T, D), M = x.shape, out.shape[0]
    sizes = [np.uint32(n) for n in (D, T, M, more is not None, keep)]
    args = (out, x, before, mix, mix if more is None else more, *sizes)
    device.launch(token_shift_kernel1, (blocks(D, THREADS), T), THREADS, args)


def cost(T, D, M, varied):
    return Cost(bytes=4 * D * (T * (1 + M + M * varied) + M + 2), flops=T * D * (1 + 3 * M))


def inputs(rng, T, D, M):
    shapes = {"x": (T, D), "before": (D,), "mix": (M, D), "more": (M, T, D)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


SHAPES = ({"T": 1, "D": 256, "M": 6}, {"T": 5, "D": 77, "M": 5}, {"T": 3, "D": 128, "M": 1})

"""selective scan: a channel i with N states h, which decay and grow as the token decides.

    h[n] = exp(s a[i, n]) h[n] + s b[t, n] x[t, i],   s = log(1 + exp(dt[t, i]))
    out[t, i] = (sum over n of c[t, n] h[n] + d[i] x[t, i]) silu(z[t, i])

x, dt, out (T, I); b, c (T, N); a (I, N); d (I,); z is the last I of the 2 I columns of gate
(T, 2 I); state (N, I) holds h, before and after; float32. References:
reference.recurrent_ops.selective_scan and .softplus. Gu and Dao, Mamba, 2023, algorithm 2.

version 1: a thread walks one channel through the tokens, its states in memory; any N.
version 2: the states and their rates stay in registers; for N = 16, the state size of every Mamba.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.activation import LOG2E, silu
from zerfoo_numba.kernels.warp import madd
from zerfoo_numba.ptx.instructions import ex2, rcp

THREADS = 64
STATES = (16,)  # with a version 2
# Of artanh(q) / q in q^2, from the highest power; as float32, which is what they are used as.
ARTANH = tuple(float(np.float32(1 / n)) for n in range(17, 0, -2))


@cuda.jit(device=True)
def softplus(x):
    """max(x, 0) + log(1 + e), e = exp(-|x|), with every digit where e is small too:
    log(1 + e) = 2 artanh(q), q = e / (2 + e) <= 1/3, whose series ends below 1e-8 of its value."""
    e = ex2(float32(-LOG2E) * abs(x))
    q = e * rcp(float32(2.0) + e)
    square = q * q
    total = float32(ARTANH[0])
    for coefficient in ARTANH[1:]:
        total = total * square + float32(coefficient)
    return max(x, float32(0.0)) + float32(2.0) * q * total


@cuda.jit
def scan_kernel1(out, x, dt, a, b, c, d, gate, state, I, N, T):
    i = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    if i < I:
        t = uint32(0)
        while t < T:
            at = madd(t, I, i)
            step = softplus(dt[at])
            value = x[at]
            total = float32(0.0)
            n = uint32(0)
            while n < N:
                here = madd(n, I, i)
                decay = ex2(step * a[madd(i, N, n)] * float32(LOG2E))
                h = decay * state[here] + step * value * b[madd(t, N, n)]
                state[here] = h
                total += h * c[madd(t, N, n)]
                n = uint32(n + uint32(1))
            z = gate[uint32(uint32(at + uint32(uint32(t + uint32(1)) * I)))]
            out[at] = (total + d[i] * value) * silu(z)
            t = uint32(t + uint32(1))


@functools.cache
def make_scan_kernel2(states):
    @cuda.jit
    def scan_kernel2(out, x, dt, a, b, c, d, gate, state, I, N, T):
        i = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
        if i < I:
            h = cuda.local.array(states, float32)
            rate = cuda.local.array(states, float32)
            for n in range(states):
                h[n] = state[madd(uint32(n), I, i)]
                rate[n] = a[madd(i, uint32(states), uint32(n))] * float32(LOG2E)
            skip = d[i]
            t = uint32(0)
            while t < T:
                at = madd(t, I, i)
                step = softplus(dt[at])
                value = x[at]
                total = float32(0.0)
                row = uint32(t * uint32(states))
                for n in range(states):
                    flow = step * value * b[uint32(row + uint32(n))]
                    h[n] = ex2(step * rate[n]) * h[n] + flow
                    total += h[n] * c[uint32(row + uint32(n))]
                z = gate[uint32(uint32(at + uint32(uint32(t + uint32(1)) * I)))]
                out[at] = (total + skip * value) * silu(z)
                t = uint32(t + uint32(1))
            for n in range(states):
                state[madd(uint32(n), I, i)] = h[n]

    return scan_kernel2


def selective_scan(device, out, x, dt, a, b, c, d, gate, state, version=2):
    (T, I), N = x.shape, b.shape[1]
    kernel = make_scan_kernel2(N) if version == 2 and N in STATES else scan_kernel1
    args = (out, x, dt, a, b, c, d, gate, state, *(np.uint32(n) for n in (I, N, T)))
    device.launch(kernel, blocks(I, THREADS), THREADS, args)


def cost(T, I, N):
    moved = 4 * T * I + 2 * T * N + 3 * I * N + I
    return Cost(bytes=4 * moved, flops=T * I * (6 * N + 40))


def inputs(rng, T, I, N):
    """Rates from -0.05 to -20, and steps from 1e-5 to 10."""
    shapes = {"x": (T, I), "b": (T, N), "c": (T, N), "d": (I,), "gate": (T, 2 * I), "state": (N, I)}
    given = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    dt = rng.uniform(-11, 10, (T, I)).astype(np.float32)
    return given | {"dt": dt, "a": -np.exp(rng.uniform(-3, 3, (I, N))).astype(np.float32)}


SHAPES = (
    {"T": 1, "I": 256, "N": 16},
    {"T": 7, "I": 77, "N": 16},
    {"T": 5, "I": 128, "N": 12},
    {"T": 1, "I": 33, "N": 37},
)

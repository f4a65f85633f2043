"""Does numba-cuda-mlir's PTX run here? python -m bench.ptx_mlir emulator|cpu

Runs a program per feature on the stand-in for the GPU and prints, as JSON, "yes" or the error for
each. Run by `bench.ptx_page` in an environment that has numba-cuda-mlir.
"""

import io
import json
import math
import sys
from contextlib import redirect_stdout
from importlib.metadata import version

import numpy as np

N = 200
X = np.arange(N, dtype=np.float32)
PROGRAMS: dict = {}


def program(name):
    """Register a program under the feature that it is about; it raises where something is wrong."""
    return lambda function: PROGRAMS.setdefault(name, function)


@program("host arrays")
def _(cuda):
    @cuda.jit
    def kernel(a, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = a[i] + a[i]

    out = np.zeros_like(X)
    kernel[7, 32](X, out)
    assert (out == 2 * X).all()


@program("strided arrays of two dimensions, float64")
def _(cuda):
    @cuda.jit
    def kernel(a, out):
        i, j = cuda.grid(2)
        if i < out.shape[0] and j < out.shape[1]:
            out[i, j] = math.sqrt(a[i, j])

    a = np.arange(70.0).reshape(7, 10)
    out = cuda.to_device(np.zeros((10, 7)))
    kernel[(1, 1), (16, 16)](cuda.to_device(a).T, out)
    assert np.allclose(out.copy_to_host(), np.sqrt(a.T))


@program("shared memory and barriers")
def _(cuda):
    @cuda.jit
    def kernel(a):
        shared, t = cuda.shared.array(64, np.float32), cuda.threadIdx.x
        shared[t] = a[t]
        cuda.syncthreads()
        a[t] = shared[63 - t]

    a = X[:64].copy()
    kernel[1, 64](a)
    assert (a == X[63::-1]).all()


@program("atomics")
def _(cuda):
    @cuda.jit
    def kernel(a, out):
        i = cuda.grid(1)
        if i < a.size:
            cuda.atomic.add(out, 0, a[i])
            cuda.atomic.max(out, 1, a[i])

    out = np.zeros(2, np.float32)
    kernel[7, 32](X, out)
    assert (out == [X.sum(), X.max()]).all()


@program("shuffles")
def _(cuda):
    @cuda.jit
    def kernel(a):
        t = cuda.threadIdx.x
        a[t] = cuda.shfl_xor_sync(0xFFFFFFFF, a[t], 1)

    a = np.arange(32, dtype=np.int32)
    kernel[1, 32](a)
    assert (a == np.arange(32) ^ 1).all()


@program("device functions and local memory")
def _(cuda):
    @cuda.jit(device=True)
    def turned(values, k):
        return values[(k + 3) % 8]

    @cuda.jit
    def kernel(a):
        values, t = cuda.local.array(8, np.int64), cuda.threadIdx.x
        for k in range(8):
            values[k] = k * t
        a[t] = turned(values, a[t] % 8)

    a = np.arange(32)
    kernel[1, 32](a)
    assert (a == (np.arange(32) + 3) % 8 * np.arange(32)).all()


@program("grid barrier")
def _(cuda):
    @cuda.jit
    def kernel(a, out):
        i, grid = cuda.grid(1), cuda.cg.this_grid()
        a[i] = i
        grid.sync()
        out[i] = a[a.size - 1 - i]

    a, out = np.zeros(128, np.int32), np.zeros(128, np.int32)
    kernel[4, 32](a, out)
    assert (out == np.arange(127, -1, -1)).all()


@program("random numbers")
def _(cuda):
    from numba_cuda_mlir.cuda.random import (
        create_xoroshiro128p_states,
        xoroshiro128p_uniform_float32,
    )

    @cuda.jit
    def kernel(states, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = xoroshiro128p_uniform_float32(states, i)

    out = np.zeros(N, np.float32)
    kernel[7, 32](create_xoroshiro128p_states(224, seed=1), out)
    assert len(set(out.tolist())) > N - 10


@program("streams, events, managed memory")
def _(cuda):
    @cuda.jit
    def kernel(a):
        a[cuda.grid(1)] += 1

    stream, before, after = cuda.stream(), cuda.event(), cuda.event()
    a = cuda.managed_array(64, np.float32)
    a[:] = 1
    before.record(stream)
    kernel[2, 32, stream](a)
    after.record(stream)
    stream.synchronize()
    assert (np.asarray(a) == 2).all()
    assert before.elapsed_time(after) >= 0


@program("reduction")
def _(cuda):
    assert cuda.reduce(lambda a, b: a + b)(np.arange(1000.0)) == 499_500


def main():
    from zerfoo_numba.ptx.stand_in import children

    children.follow({"device": sys.argv[1]})
    from numba_cuda_mlir import cuda

    outcomes = {}
    for name, function in PROGRAMS.items():
        try:
            with redirect_stdout(io.StringIO()):
                function(cuda)
            outcomes[name] = "yes"
        except Exception as error:
            outcomes[name] = " ".join(f"no: {type(error).__name__}: {error}".split())[:160]
    print(json.dumps({"version": version("numba-cuda-mlir"), "programs": outcomes}))


if __name__ == "__main__":
    main()

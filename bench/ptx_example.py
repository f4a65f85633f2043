import sys

import numpy as np
from numba import cuda, float32


@cuda.jit
def row_sums(a, out):
    part, t, row = cuda.shared.array(64, float32), cuda.threadIdx.x, cuda.blockIdx.x
    part[t] = a[row, t]
    for half in (32, 16, 8, 4, 2, 1):
        if t < half:
            part[t] += part[t + half]  # without cuda.syncthreads()
    out[row, t] = part[0]


@cuda.jit
def differences(a, out):
    i, j = cuda.blockIdx.x, cuda.threadIdx.x
    out[i, j] = a[i, j + 1] - a[i, j]  # what is behind the last element?


@cuda.jit
def transposed(a, out):  # neighbouring threads read what lies 256 bytes apart
    out[cuda.blockIdx.x, cuda.threadIdx.x] = a[cuda.threadIdx.x, cuda.blockIdx.x]


a = np.random.default_rng(1).random((64, 64), np.float32)
kernel = {"race": row_sums, "bounds": differences, "memory": transposed}[sys.argv[1]]
kernel[64, 64](a, np.zeros_like(a))

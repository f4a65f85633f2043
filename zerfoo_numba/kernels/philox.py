"""Philox 4x32-10: four random words from a counter and a key, with no state but the counter.

Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, 2011.
"""

from numba import cuda
from numba.cuda.types import uint32

from zerfoo_numba.ptx.instructions import mul_hi

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85  # the golden ratio and the square root of 3, less 1


@cuda.jit(device=True)
def philox(c0, c1, c2, c3, k0, k1):
    """Four uint32, each value equally likely, of the counter c0 .. c3 under the key k0, k1."""
    for _ in range(10):
        high0, low0 = mul_hi(c0, uint32(M0)), uint32(c0 * uint32(M0))
        high1, low1 = mul_hi(c2, uint32(M1)), uint32(c2 * uint32(M1))
        c0, c1, c2, c3 = uint32(high1 ^ c1 ^ k0), low1, uint32(high0 ^ c3 ^ k1), low0
        k0, k1 = uint32(k0 + uint32(W0)), uint32(k1 + uint32(W1))
    return c0, c1, c2, c3

"""prmt as a look-up: all lanes choose from the same eight bytes, each by its own selector."""

import dataclasses

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import uint32

from tests.ptx.native_agree import LEVELS, agree, native
from zerfoo_numba.ptx.compile import ptx_op
from zerfoo_numba.ptx.instructions import prmt
from zerfoo_numba.ptx.native.target import host

LOW, HIGH = 0x7F018036, 0xFF00C581  # bytes with and without their top bits
from_constants = ptx_op((uint32,), (uint32,), f"prmt.b32 $0, {LOW}, {HIGH}, $1;")
THREADS = 80  # two full warps and a partial one, which runs masked


@cuda.jit
def looked_up(out, selectors, low, high):
    thread = uint32(cuda.threadIdx.x)
    i = uint32(uint32(uint32(cuda.blockIdx.x) * uint32(THREADS)) + thread)
    at = uint32(i << uint32(1))
    out[at] = from_constants(selectors[i])
    out[uint32(at + uint32(1))] = prmt(low, high, selectors[i])


def chosen(low, high, selectors):
    """By the PTX ISA: bit 3 of a nibble asks for the byte's top bit eight times over."""
    table = np.array([low, high], "<u4").view(np.uint8)
    nibbles = selectors[:, None] >> np.arange(0, 16, 4, dtype=np.uint32) & 15
    found = table[nibbles & 7]
    found = np.where(nibbles & 8, (found >> 7) * np.uint8(255), found)
    return np.ascontiguousarray(found).view("<u4")[:, 0]


def sample(blocks=6):
    """(selectors, out): every nibble in every place, and any bits above them."""
    rng = np.random.default_rng(1)
    selectors = rng.integers(0, 2**32, blocks * THREADS, np.uint32)
    selectors[:16] = np.arange(16, dtype=np.uint32) * 0x1111
    return selectors, np.zeros(2 * selectors.size, np.uint32)


@pytest.mark.parametrize("level", LEVELS)
def test_look_up(level):
    selectors, out = sample()
    low, high = np.uint32(0x817F00FE), np.uint32(0x12F034D6)
    arguments = (out, selectors, low, high)
    (got, *_) = agree(looked_up, selectors.size // THREADS, THREADS, *arguments, levels=(level,))
    np.testing.assert_array_equal(got[0::2], chosen(LOW, HIGH, selectors))
    np.testing.assert_array_equal(got[1::2], chosen(low, high, selectors))


@pytest.mark.skipif(not host().has_multishift, reason="needs AVX-512 VBMI")
def test_look_up_with_avx512_but_no_vbmi():
    target = dataclasses.replace(host(), features=host().features.replace("+avx512vbmi,", ""))
    assert target.has_avx512 and not target.has_multishift
    selectors, out = sample()
    arguments = (out, selectors, np.uint32(LOW), np.uint32(HIGH))
    native(looked_up, selectors.size // THREADS, THREADS, *arguments, target=target)
    np.testing.assert_array_equal(out[0::2], chosen(LOW, HIGH, selectors))
    np.testing.assert_array_equal(out[1::2], out[0::2])

"""The compile gate: every standard kernel, down to machine code, for every architecture, no GPU.

It follows the route that runs: PTX from compile_ptx, assembled by ptx.link, cached on disk by text.
"""

import math

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import float32, uint32

from bench import kernels_report
from bench.kernels_report import ARCHITECTURES, measure, row, violations
from zerfoo_numba.ptx.compile import Pointer, ptx_op
from zerfoo_numba.ptx.link import architecture

pytest.importorskip("cuda.core", reason="needs the cuda extra")

FAST = ((8, 0), (9, 0), (12, 0))
EVERY = 20  # kernel in every run; all of them in the slow one
F32 = Pointer(np.dtype(np.float32))
tanh_approx = ptx_op((float32,), (float32,), "tanh.approx.f32 $0, $1;")


@cuda.jit
def float64_kernel(out, x):
    i = uint32(cuda.threadIdx.x)
    out[i] = x[i] * 0.1  # a Python literal is a float64


@cuda.jit
def tanh_kernel(out, x):
    i = uint32(cuda.threadIdx.x)
    out[i] = tanh_approx(x[i])


@cuda.jit(fastmath=True)
def sin_kernel(out, x):
    i = uint32(cuda.threadIdx.x)
    out[i] = math.sin(x[i]) + math.cos(x[i])


@pytest.fixture(scope="module")
def some_rows():
    return measure(FAST, EVERY)


@pytest.fixture(scope="module")
def all_rows():
    return measure(list(ARCHITECTURES))


def _assert_clean(rows, cc, every=1):
    from zerfoo_numba.kernels.standard import standard_kernels

    rows = [r for r in rows if r["arch"] == architecture(cc)]
    assert [r["kernel"] for r in rows] == [name for name, _, _ in standard_kernels()][::every]
    found = [line for r in rows for line in violations(r)]
    assert not found, "\n".join(found)
    assert all(0 < r["registers"] <= 255 for r in rows)


@pytest.mark.parametrize("cc", FAST, ids=architecture)
def test_a_part_of_the_kernels(some_rows, cc):
    _assert_clean(some_rows, cc, EVERY)


@pytest.mark.slow
@pytest.mark.parametrize("cc", ARCHITECTURES, ids=architecture)
def test_every_kernel(all_rows, cc):
    _assert_clean(all_rows, cc)


def test_names_are_unique():
    names = [name for name, _, _ in kernels_report._kernels()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("cc", FAST, ids=architecture)
@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (float64_kernel, {"float64"}),
        (tanh_kernel, {"tanh.approx"}),
        (sin_kernel, {"sin.approx", "cos.approx"}),
    ],
)
def test_a_forbidden_instruction_is_found(kernel, expected, cc):
    found = row("seeded", kernel, (F32, F32), cc)
    assert found["forbidden"].keys() == expected
    assert len(violations(found)) == len(expected)


def test_spills_and_too_much_shared_memory_are_refused():
    clean = {
        "kernel": "k",
        "arch": "sm_90",
        "forbidden": {},
        "spill_bytes": 0,
        "shared_bytes": 49152,
    }
    assert violations(clean) == []
    assert violations({**clean, "spill_bytes": 8}) == ["k on sm_90: spills 8 bytes"]
    assert len(violations({**clean, "shared_bytes": 49153})) == 1

"""Random kernels: NumPy's answer, the emulator's and the native engine's, bit for bit.

A seed stands for one kernel, its block size and its inputs. The kernel's text, beside what it means
in NumPy, lies in the test's temporary folder (`pytest --basetemp` says where).
"""

import importlib.util
import os
import re

import numpy as np
import pytest

from tests.ptx import random_programs
from tests.ptx.native_agree import LEVELS, agree, assert_same, compiled, native
from tests.ptx.random_expressions import ARRAYS, ELEMENTS, LIMIT
from tests.ptx.random_kernels import BLOCKS, SLOTS, Program
from zerfoo_numba.ptx.compile import Ptx

# ZERFOO_SEEDS=1000:1400 runs other kernels instead of the ones that every run takes.
SEEDS = range(*map(int, os.environ.get("ZERFOO_SEEDS", "0:24").split(":")))


def inputs(seed, threads):
    """out and the other arguments."""
    rng = np.random.default_rng(seed)
    arrays = [np.zeros(BLOCKS * threads * SLOTS, np.uint32)]
    for name, dtype in ARRAYS.items():
        if "floats" in name:
            arrays.append(rng.integers(-LIMIT + 1, LIMIT, ELEMENTS).astype(dtype))
        else:
            arrays.append(rng.integers(0, np.iinfo(dtype).max, ELEMENTS, dtype, endpoint=True))
    words = arrays[1]
    words[::7] &= 15  # small numbers too
    return (*arrays, np.uint32(rng.integers(0, 1 << 32)), np.uint32(rng.integers(0, 64)))


def module(seed, folder):
    """The random program of a seed, written to a file of `folder` and imported; -> it, threads."""
    program = Program(seed)
    path = folder / f"kernel_{seed}.py"
    path.write_text(program.text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made, program.threads


def _compiler_fails(kernel, arguments):
    """NVVM refuses symbols that it named itself, and seldom branches to a label it left out."""
    try:
        text = compiled(kernel, arguments).text
    except Exception as error:
        if "ERROR_COMPILATION" not in str(error):
            raise
        return True
    return not set(re.findall(r"bra\S*\s+(\S+);", text)) <= set(re.findall(r"^(\S+):", text, re.M))


def three_ways(seed, folder, levels):
    made, threads = module(seed, folder)
    arguments = inputs(seed, threads)
    expected = [a.copy() for a in arguments]
    with np.errstate(all="ignore"):  # threads that a mask excludes may compute nonsense
        made.expected(*expected)
    if _compiler_fails(made.kernel, arguments):
        pytest.skip("NVVM makes no usable PTX of this kernel")
    got = agree(made.kernel, BLOCKS, threads, *arguments, levels=levels)
    assert_same(got[0], expected[0], "the emulator against NumPy")


@pytest.mark.parametrize("seed", SEEDS)
def test_random_kernels(seed, tmp_path):
    three_ways(seed, tmp_path, LEVELS if seed % 8 == 0 else ["host"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1150))
def test_more_random_kernels(seed, tmp_path):
    three_ways(seed, tmp_path, LEVELS if seed % 8 == 0 else ["host"])


@pytest.mark.parametrize("exits", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_random_ptx(seed, exits):
    """The programs of test_random_programs.py, which Python runs thread by thread."""
    program = random_programs.Program(seed, exits)
    grid, block = 3, (96, 64, 50)[seed % 3] if exits else (96, 64)[seed % 2]
    table = np.random.default_rng(seed).integers(0, 1 << 32, random_programs.TABLE, np.uint32)
    expected = program.expected(grid * block, block, table)
    out = np.zeros_like(expected)
    native(Ptx(program.ptx(), "k", (9, 0)), grid, block, table, out)
    assert_same(out, expected, program.ptx())

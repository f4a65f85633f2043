"""numba-cuda's documentation examples, taken from where it installs them, on the emulator.

The kernels are local functions of the package's own tests. They are cut out of those files,
given the names they use, and run on data of the same kind against NumPy.
"""

import ast
import importlib.util
from math import pi
from pathlib import Path

import numpy as np
import pytest
from numba import cuda, njit
from numba.cuda import types

from zerfoo_numba import ptx
from zerfoo_numba.ptx.emulator import Checks, KernelFault

TILE = 16


def example(file, name, **names):
    """Kernel `name` of the example `file`, compiled with the global names it needs."""
    spec = importlib.util.find_spec(f"numba.cuda.tests.doc_examples.{file}")
    if spec is None:
        pytest.skip("this numba-cuda installs no documentation examples")
    path = Path(spec.origin)
    tree = ast.parse(path.read_text())
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
    found[0].decorator_list = []
    scope = {
        "__name__": file,
        "cuda": cuda,
        "np": np,
        "float32": types.float32,
        "int32": types.int32,
        **names,
    }
    exec(compile(ast.Module(found[:1], []), str(path), "exec"), scope)
    return cuda.jit(scope[name])


def grid_of(*sizes, block):
    return tuple(-(-n // b) for n, b in zip(sizes, block, strict=True))


def test_vector_addition():
    kernel = example("test_vecadd", "f")
    a, b = np.random.default_rng(1).random((2, 100_000))
    c = np.zeros_like(a)
    ptx.emulate(kernel, 391, 256, a, b, c)
    assert (c == a + b).all()


@pytest.mark.parametrize(("rows", "inner", "columns"), [(4, 4, 4), (33, 20, 17)])
def test_matrix_product(rows, inner, columns):
    kernel = example("test_matmul", "matmul")
    a = np.arange(rows * inner, dtype=np.float64).reshape(rows, inner)
    b, c = np.ones((inner, columns)), np.zeros((rows, columns))
    ptx.emulate(kernel, grid_of(rows, columns, block=(TILE, TILE)), (TILE, TILE), a, b, c)
    assert (c == a @ b).all()


@pytest.mark.parametrize(("seed", "cc"), [(None, (9, 0)), (3, (9, 0)), (None, (12, 0))])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(4, 4, 4), (5, 23, 7), (64, 40, 50)])
def test_matrix_product_in_shared_memory(rows, inner, columns, seed, cc):
    kernel = example("test_matmul", "fast_matmul", TPB=TILE)
    a = np.arange(rows * inner, dtype=np.float64).reshape(rows, inner)
    b, c = np.ones((inner, columns)), np.zeros((rows, columns))
    grid = grid_of(max(inner, columns), max(rows, inner), block=(TILE, TILE))
    counters = ptx.emulate(kernel, grid, (TILE, TILE), a, b, c, seed=seed, cc=cc)
    assert (c == a @ b).all()
    assert counters.block_barriers == grid[0] * grid[1] * 2 * grid[0]


@pytest.mark.parametrize("seed", [None, 3])
def test_sum_of_a_block(seed):
    kernel = example("test_reduction", "array_sum", nelem=1024)
    data = np.arange(1024)
    ptx.emulate(kernel, 1, 1024, data, seed=seed)
    assert data[0] == 1023 * 512


@pytest.mark.parametrize("points", [256, 1001])
def test_heat_equation_with_grid_barriers(points):
    """Threads beyond the last point have exited while the others wait for the whole grid."""
    kernel = example("test_laplace", "solve_heat_equation")
    first = np.zeros(points, np.float64)
    first[points // 2] = 10_000
    second, steps = np.zeros_like(first), 50
    expected = first.copy()
    for _ in range(steps):
        padded = np.pad(expected, 1)
        expected = expected + 0.25 * (padded[:-2] - 2 * expected + padded[2:])
    ptx.emulate(kernel, -(-points // 128), 128, first, second, steps, 0.25)
    result = second if steps % 2 else first
    assert np.allclose(result, expected, rtol=1e-12, atol=1e-9)


def test_rows_one_after_the_other_with_grid_barriers():
    kernel = example("test_cg", "sequential_rows")
    rows = np.zeros((128, 256), np.int32)
    ptx.emulate(kernel, 8, 32, rows)
    assert (rows == np.arange(128)[:, None]).all()


def test_sessions_with_a_grid_barrier_of_some_threads():
    """Only threads at a session's start meet at the barrier; the others have exited.

    A last session of two entries makes the example read past the end, and the emulator says so.
    """
    kernel = example("test_sessionize", "sessionize", session_timeout=100)
    users = np.array([1, 1, 1, 1, 2, 2, 2, 5, 5, 5, 5, 5, 9, 9, 9])
    times = np.array([1, 50, 400, 450, 10, 20, 30, 7, 300, 310, 500, 510, 1, 2, 3])
    starts = np.r_[True, (users[1:] != users[:-1]) | (np.diff(times) > 100)]
    results = np.zeros(len(users))
    ptx.emulate(kernel, 1, 32, users, times, results)
    expected = np.maximum.accumulate(np.where(starts, np.arange(len(users)), 0))
    assert (results == expected).all()
    with pytest.raises(KernelFault, match=r"reads results\[14\]"):
        ptx.emulate(kernel, 1, 32, users[:-1], times[:-1], np.zeros(14))


def test_monte_carlo_integration():
    random = pytest.importorskip("numba.cuda.random")
    kernel = example(
        "test_montecarlo",
        "mc_integrator_kernel",
        xoroshiro128p_uniform_float32=random.xoroshiro128p_uniform_float32,
        func=cuda.jit(lambda x: 1.0 / x),
    )
    count = 20_000
    states = np.zeros(count, random.xoroshiro128p_dtype)
    random.init_xoroshiro128p_states_cpu(states, np.uint64(1), 0)
    out = np.zeros(count, np.float32)
    ptx.emulate(kernel, -(-count // 256), 256, out, states, 1.0, 2.0)
    assert abs(out.mean() - np.log(2)) < 4 * out.std() / count**0.5
    again = np.zeros_like(out)
    ptx.emulate(kernel, -(-count // 256), 256, again, states, 1.0, 2.0)
    assert (out != again).mean() > 0.99


def test_random_numbers_in_a_three_dimensional_grid():
    random = pytest.importorskip("numba.cuda.random")
    kernel = example(
        "test_random",
        "random_3d",
        xoroshiro128p_uniform_float32=random.xoroshiro128p_uniform_float32,
    )
    states = np.zeros(8 * 8 * 16, random.xoroshiro128p_dtype)
    random.init_xoroshiro128p_states_cpu(states, np.uint64(1), 0)
    numbers = np.full((30, 25, 19), -1, np.float32)
    ptx.emulate(kernel, (2, 2, 2), (4, 4, 8), numbers, states)
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    assert abs(numbers.mean() - 0.5) < 0.01


def test_a_universal_function_in_a_kernel():
    kernel = example("test_ufunc", "f")
    x = np.arange(10, dtype=np.float32) - 5
    r = np.zeros_like(x)
    ptx.emulate(kernel, 1, 1, r, x)
    assert np.allclose(r, np.sin(x), rtol=1e-6)


def test_constants_captured_from_globals():
    prices = np.array([10.0, 25.0, 5.0, 15.0, 30.0])
    kernel = example("test_globals", "compute_totals", TAX_RATE=0.08, PRICES=prices)
    quantities, totals = np.arange(1.0, 6.0), np.zeros(5)
    ptx.emulate(kernel, 1, 32, quantities, totals)
    assert np.allclose(totals, quantities * prices * 1.08, rtol=1e-15)


def test_a_function_that_the_host_calls_too():
    logic = njit(lambda x, y, z: 4 * z * (2 * x - (4 * y) / 2 * pi))
    kernel = example("test_cpu_gpu_compat", "f", business_logic=logic)
    x, y, z = np.array([[1, 10, 234], [2, 2, 4014], [3, 14, 211]], np.float64)
    results = np.zeros(3)
    ptx.emulate(kernel, 1, 32, results, x, y, z)
    assert np.allclose(results, [logic(*row) for row in zip(x, y, z, strict=True)], rtol=1e-15)


def test_a_kernel_of_a_pointer_and_a_length():
    from zerfoo_numba.ptx.compile import Pointer, compile_ptx
    from zerfoo_numba.ptx.emulator import Memory, load

    kernel = example("test_cpointer", "add_one")
    memory = Memory()
    x = memory.allocate(10, "x", 1)
    memory.write(x, np.arange(10, dtype=np.uint8))
    program = load(compile_ptx(kernel, (Pointer(np.uint8), np.uint32(10))))
    program.run(memory, 1, 32, [np.uint64(x), np.uint32(10)], checks=Checks())
    assert (memory.read(x, np.uint8, 10) == np.arange(1, 11)).all()

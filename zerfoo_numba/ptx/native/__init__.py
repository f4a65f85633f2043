"""PTX as native CPU code: one warp is 32 vector lanes.

`value`, `integers`, `lanes` are the arithmetic of shapes; `op_*`, `memory`, `patterns`,
`scattered` the instructions; `plan` the analysis of a kernel; `unmasked`, `masked`, `driver` its
code; `program`, `launches`, `runner` what compiles and runs it.
"""

import numpy as np

from zerfoo_numba.errors import InputError
from zerfoo_numba.ptx.compile import DEFAULT_CC, Pointer, compile_ptx
from zerfoo_numba.ptx.native.launches import Launches, Pool
from zerfoo_numba.ptx.native.program import Program, load

__all__ = ["Launches", "Pool", "Program", "load", "run"]


def _three(size):
    size = (size,) if isinstance(size, int | np.integer) else tuple(size)
    return tuple(int(n) for n in size) + (1,) * (3 - len(size))


def run(kernel, grid, block, *arguments, cc=DEFAULT_CC, shared=0, threads=None, target=None):
    """Run a `@cuda.jit` kernel over raw pointers on the CPU.

    `grid` and `block` are a number or up to three. NumPy arrays (contiguous) become pointers to
    their own memory, NumPy scalars are passed as they are. `shared` is dynamic shared memory in
    bytes, `threads` the number of CPU threads (default: physical cores).
    """
    if not all(a.flags.c_contiguous for a in arguments if isinstance(a, np.ndarray)):
        raise InputError("an array is not contiguous in row-major order; pass a copy of it")
    types = tuple(Pointer(a.dtype) if isinstance(a, np.ndarray) else a for a in arguments)
    ptx = compile_ptx(kernel, types, cc)
    values = [np.uint64(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
    pool = Pool(threads)
    launches = Launches(pool.threads)
    launches.add(ptx, load(ptx, _three(block), target), _three(grid), values, shared)
    pool.run(launches)

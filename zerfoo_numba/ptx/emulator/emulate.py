"""A `@cuda.jit` kernel on NumPy arrays, executed from its PTX with counters and checks."""

import inspect

import numpy as np

from zerfoo_numba.errors import InputError
from zerfoo_numba.ptx.compile import DEFAULT_CC, compile_ptx
from zerfoo_numba.ptx.emulator.memory import Memory
from zerfoo_numba.ptx.emulator.program import load


def emulate(kernel, grid, block, *arguments, cc=DEFAULT_CC, shared=0, checks=True, seed=None):
    """Run a kernel on the PTX emulator; arrays are changed in place. -> Counters.

    `arguments` are NumPy arrays and scalars, as for `kernel[grid, block]`; `shared` is dynamic
    shared memory in bytes. `checks` is True, False or a `Checks`; a fault raises KernelFault.
    `seed` permutes the order of threads and blocks.
    """
    names = list(inspect.signature(getattr(kernel, "py_func", kernel)).parameters)
    if len(names) != len(arguments):
        raise InputError(f"the kernel takes {len(names)} arguments, not {len(arguments)}")
    program = load(compile_ptx(kernel, arguments, cc))
    memory, parameters, copies = Memory(), [], []
    for name, value in zip(names, arguments, strict=True):
        if isinstance(value, np.ndarray):
            address, passed = _upload(memory, value, name)
            copies.append((address, value))
            parameters += passed
        else:
            parameters.append(_scalar(value))
    try:
        return program.run(
            memory, grid, block, parameters, shared, checks=checks, count=True, seed=seed
        )
    finally:
        for address, array in copies:
            flat = memory.read(address, array.dtype, array.shape)
            array[...] = flat if array.flags.c_contiguous else flat.T.reshape(array.shape[::-1]).T


def _upload(memory, array, name):
    """-> the address, and the parameters Numba passes for an array.

    They are meminfo, parent, size, item size, data, the shape and the strides in bytes.
    """
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        raise InputError(f"array {name} is neither C nor Fortran contiguous; pass a copy")
    address = memory.allocate(max(array.nbytes, 1), name, array.itemsize)
    memory.write(address, array.ravel(order="K"))
    head = (0, 0, array.size, array.itemsize, address)
    numbers = (*head, *array.shape, *array.strides)
    return address, [np.int64(n) for n in numbers]


def _scalar(value):
    """A Python number as Numba types it."""
    if isinstance(value, bool | np.bool_):
        return np.uint8(value)
    if isinstance(value, int):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value

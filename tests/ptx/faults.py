"""Faults that seeded bugs must end in, and the source lines they must name."""

import inspect
from pathlib import Path

import pytest

from zerfoo_numba import ptx
from zerfoo_numba.ptx.emulator import KernelFault


def line_of(kernel, text):
    """The number of the source line of a kernel that contains `text`."""
    lines, start = inspect.getsourcelines(kernel.py_func)
    return next(start + i for i, line in enumerate(lines) if text in line)


def caught(kernel, grid, block, *arguments, **options):
    """The fault that a launch ends in."""
    with pytest.raises(KernelFault) as error:
        ptx.emulate(kernel, grid, block, *arguments, **options)
    source = getattr(kernel, "py_func", kernel).__code__.co_filename
    assert error.value.file == Path(source).name
    assert f"line {error.value.line}" in str(error.value)
    return error.value

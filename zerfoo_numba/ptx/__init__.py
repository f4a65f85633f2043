"""PTX without a GPU: compile a Numba-CUDA kernel, execute it, count it, check it."""

import importlib

_LAZY = {
    "emulate": "zerfoo_numba.ptx.emulator.emulate",
    "Checks": "zerfoo_numba.ptx.emulator",
    "Counters": "zerfoo_numba.ptx.emulator",
    "KernelFault": "zerfoo_numba.ptx.emulator",
    "Memory": "zerfoo_numba.ptx.emulator",
    "load": "zerfoo_numba.ptx.emulator",
    "run": "zerfoo_numba.ptx.native",
    "without_gpu": "zerfoo_numba.ptx.stand_in",
}

__all__ = ["Checks", "Counters", "KernelFault", "Memory", "emulate", "load", "run", "without_gpu"]


def __getattr__(name):
    """Import on first use: parsing PTX needs neither NumPy code nor a compiler."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)

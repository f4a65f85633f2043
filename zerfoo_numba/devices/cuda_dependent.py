"""Programmatic dependent launch: a kernel is brought onto the GPU while the one before it ends.

Two instructions at the start of every kernel make that safe, whatever it does: it waits until all
kernels before it have ended and their memory is visible, and only then, with each of its blocks
under way, allows the next to be brought. So what is hidden is the launch itself, and no kernel ever
runs beside another. Reference: NVIDIA, Parallel Thread Execution ISA, griddepcontrol; CUDA
Programming Guide, Programmatic Dependent Launch and Synchronization.
"""

import dataclasses
import re

from zerfoo_numba.errors import DeviceError

OLDEST, OLDEST_DRIVER = (9, 0), 12030  # the first driver that has such edges in a graph
INSTRUCTIONS = "\tgriddepcontrol.wait;\n\tgriddepcontrol.launch_dependents;\n"
_ENTRY = re.compile(r"\.entry\s+\w+\s*\([^)]*\)[^{]*\{")
_STATEMENT = re.compile(r"^[ \t]*[^.\s/]", re.M)  # a label or an instruction, no declaration


def require(gpu_name, cc, version):
    """Raise DeviceError where the GPU or the driver has no programmatic dependent launch."""
    if cc < OLDEST or version < OLDEST_DRIVER:
        raise DeviceError(
            f"programmatic dependent launch needs compute capability 9.0 and a driver for CUDA "
            f"12.3, and {gpu_name} has {cc[0]}.{cc[1]} with CUDA {version // 1000}."
            f"{version % 1000 // 10}; leave it off"
        )


def waiting(ptx):
    """The kernel `ptx` (a Ptx) with the two instructions before all others."""
    entry = _ENTRY.search(ptx.text)
    first = _STATEMENT.search(ptx.text, entry.end())
    text = ptx.text[: first.start()] + INSTRUCTIONS + ptx.text[first.start() :]
    return dataclasses.replace(ptx, text=text)

"""PTX executed by NumPy: every thread of a wave of blocks is one array element."""

from zerfoo_numba.ptx.emulator.checks import Checks
from zerfoo_numba.ptx.emulator.counters import Counters
from zerfoo_numba.ptx.emulator.faults import KernelFault
from zerfoo_numba.ptx.emulator.memory import Memory
from zerfoo_numba.ptx.emulator.program import Program, load

__all__ = ["Checks", "Counters", "KernelFault", "Memory", "Program", "load"]

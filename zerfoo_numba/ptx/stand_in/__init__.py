"""A stand-in for the GPU: unmodified Numba-CUDA programs on the emulator, or on the CPU.

`library` is a `libcuda.so.1` written in Python (`elf` makes the file; `api_device`, `api_memory`,
`api_module`, `api_stream` are its functions), `machines` what runs the kernels, `modules` and
`linking` their code, `numba_side` the few places of numba-cuda that must know.
"""

import contextlib
import threading

from zerfoo_numba.errors import DeviceError
from zerfoo_numba.ptx.stand_in import library
from zerfoo_numba.ptx.stand_in.machines import EmulatorMachine, Launch, NativeMachine, machine

__all__ = ["EmulatorMachine", "Launch", "NativeMachine", "without_gpu"]
_lock = threading.RLock()


@contextlib.contextmanager
def without_gpu(device="emulator", **options):
    """Run what uses `numba.cuda` without a GPU: `with without_gpu(): kernel[grid, block](x)`.

    `device` is "emulator" (options `checks`, on by default, `count`, `seed`, `threads`, `cc`) or
    "cpu" (options `threads`, `cc`). Gives the machine: `.launches` is what ran, with counters
    where `count` asked for them. What a kernel does wrong is raised at its launch as KernelFault,
    with the source line. Arrays and compiled kernels end with the block.

    Raises DeviceError where this process has already used a real driver, or on another system
    than Linux.
    """
    with _lock:
        if library.state.machine is not None:
            raise DeviceError("a stand-in for the GPU is already in use; they do not nest")
        library.load()
        library.state.machine = machine(device, **options)
        try:
            from zerfoo_numba.ptx.stand_in.numba_side import patched

            with patched():
                yield library.state.machine
        finally:
            library.state.machine = None
            library.state.take_error()

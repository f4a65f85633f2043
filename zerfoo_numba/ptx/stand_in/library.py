"""The stand-in for `libcuda.so.1`: a library whose functions are Python functions.

`driver_function` puts a function into the table under its name in the CUDA Driver API; `load`
makes the library and loads it. From then on whoever asks for the driver in this process
(cuda.bindings, cuda.core, numba-cuda, ctypes) gets this one. With no `machine` it is a driver that
finds no GPU.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import tempfile
import threading

from zerfoo_numba.errors import DeviceError, OutOfMemoryError
from zerfoo_numba.ptx.stand_in.elf import IDLE, SLOTS, shared_library

SONAME = "libcuda.so.1"
# CUresult, of the CUDA Driver API.
SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE = 0, 1, 2, 3, 100
INVALID_IMAGE, INVALID_CONTEXT, NO_BINARY, INVALID_PTX = 200, 201, 209, 218
INVALID_HANDLE, NOT_FOUND, LAUNCH_FAILED, NOT_SUPPORTED = 400, 500, 719, 801
_TYPES = {
    "p": ctypes.c_void_p, "q": ctypes.c_uint64, "i": ctypes.c_int, "u": ctypes.c_uint,
    "b": ctypes.c_ubyte, "h": ctypes.c_ushort,
}  # fmt: skip
_table: dict = {}  # name -> (signature, function)


class Refusal(Exception):
    """A driver function that ends with the status `code`."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class State:
    """What is plugged in: a machine that runs kernels, and the last error it had."""

    machine = None
    error = None

    def take_error(self):
        error, self.error = self.error, None
        return error


state = State()
thread = threading.local()  # .contexts: the stack of a thread's contexts


def contexts():
    """This thread's stack of current contexts, the last on top."""
    if not hasattr(thread, "contexts"):
        thread.contexts = []
    return thread.contexts


def driver_function(signature, *names, quiet=False, always=False):
    """Put a function into the library. Its arguments are C's: p pointer, q 64 bits, i int, u
    unsigned, b byte, h 16 bits. It returns a status, or None for success.

    Where no machine is plugged in it is refused; `always`: it is called nevertheless; `quiet`: it
    does nothing and succeeds, as what gives things back must.
    """

    def register(function):
        for name in names:
            _table[name] = signature, _guarded(function, quiet, always)
        return function

    return register


def _guarded(function, quiet, always):
    """The function as C may call it: every error becomes a status, and is kept for who asks."""

    @functools.wraps(function)
    def call(*arguments):
        if state.machine is None and not always:
            return SUCCESS if quiet else NO_DEVICE
        try:
            return function(*arguments) or SUCCESS
        except Refusal as refusal:
            return refusal.code
        except BaseException as error:  # nothing may cross C
            state.error = error
            return OUT_OF_MEMORY if isinstance(error, OutOfMemoryError) else LAUNCH_FAILED

    return call


def put(address, ctype, value):
    """Store a result where the caller wants it; a null pointer wants none."""
    if address:
        ctype.from_address(address).value = value


def put_pointer(address, value):
    put(address, ctypes.c_uint64, value)


def put_int(address, value):
    put(address, ctypes.c_int, value)


def words(address, count):
    """`count` 64-bit words at an address."""
    return list((ctypes.c_uint64 * count).from_address(address)) if count else []


def text(address):
    return ctypes.string_at(address).decode()


class Handles:
    """Objects by the opaque numbers under which C knows them."""

    def __init__(self, first, step=64):
        self._objects, self._next, self._step = {}, first, step

    def add(self, thing):
        handle, self._next = self._next, self._next + self._step
        self._objects[handle] = thing
        return handle

    def __getitem__(self, handle):
        if handle not in self._objects:
            raise Refusal(INVALID_HANDLE)
        return self._objects[handle]

    def pop(self, handle):
        return self._objects.pop(handle, None)


@functools.cache
def load():
    """Make the library and load it, once; DeviceError where another driver came first."""
    from zerfoo_numba.ptx.stand_in import api_device, api_memory, api_module, api_stream  # noqa: F401

    if os.name != "posix" or not hasattr(os, "RTLD_NOLOAD"):
        raise DeviceError("a stand-in for the CUDA driver exists for Linux only")
    if _loaded(SONAME):
        raise DeviceError(
            "this process already uses the GPU's driver; start the program with "
            "`python -m zerfoo_numba.ptx SCRIPT.py`, or enter before numba.cuda is used"
        )
    names = sorted({n + suffix for n in _table for suffix in ("", "_v2", "_v3", "_ptsz")})
    with tempfile.NamedTemporaryFile(suffix=f"-{SONAME}") as file:
        file.write(shared_library(SONAME, names))
        file.flush()
        library = ctypes.CDLL(file.name)
    slots = (ctypes.c_uint64 * len(names)).in_dll(library, SLOTS)
    idle = ctypes.cast(getattr(library, IDLE), ctypes.c_void_p).value
    kept = []
    for i, name in enumerate(names):
        found = next((n for n in _spellings(name) if n in _table), None)
        signature, function = _table[found]
        kept.append(ctypes.CFUNCTYPE(ctypes.c_int, *[_TYPES[c] for c in signature])(function))
        slots[i] = ctypes.cast(kept[-1], ctypes.c_void_p).value
    # C++ gives its handles back after the interpreter has gone: that must not call Python.
    atexit.register(lambda: slots.__setitem__(slice(None), [idle] * len(names)))
    return library, kept


def _spellings(name):
    """A function's name, and without what marks its version or its kind of default stream."""
    yield name
    for suffix in ("_ptsz", "_ptds", "_v2", "_v3"):
        if name.endswith(suffix):
            yield from _spellings(name.removesuffix(suffix))


def _loaded(name):
    with contextlib.suppress(OSError):
        return ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    return None


@driver_function("ppiqp", "cuGetProcAddress", always=True)
def get_address(name, result, version, flags, status):
    library, _ = load()
    found = next((n for n in _spellings(text(name)) if n in _table), None)
    if found is None:
        put_pointer(result, 0)
        put_int(status, 1)
        return NOT_FOUND
    put_pointer(result, ctypes.cast(getattr(library, found), ctypes.c_void_p).value)
    put_int(status, 0)
    return SUCCESS

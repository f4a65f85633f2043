"""Driver API: memory. Device addresses are the machine's; host memory is where the host has it.

Reference: NVIDIA, CUDA Driver API, modules "Memory Management" and "Unified Addressing".
"""

import ctypes

import numpy as np

from zerfoo_numba.ptx.stand_in.api_device import CONTEXT
from zerfoo_numba.ptx.stand_in.library import (
    INVALID_VALUE,
    NOT_SUPPORTED,
    Refusal,
    driver_function,
    put,
    put_int,
    put_pointer,
    state,
    words,
)

_DEVICE_MAP = 2  # of cuMemHostRegister's flags
_HOST, _DEVICE = 1, 2  # CUmemorytype


@driver_function("pp", "cuMemGetInfo")
def memory_info(free, total):
    for result, value in zip((free, total), state.machine.memory_info(), strict=True):
        put(result, ctypes.c_uint64, value)


@driver_function("pq", "cuMemAlloc")
def allocate(result, nbytes):
    if not nbytes:
        raise Refusal(INVALID_VALUE)
    put_pointer(result, state.machine.allocate(nbytes))


@driver_function("pqp", "cuMemAllocAsync")
def allocate_in_order(result, nbytes, stream):
    allocate(result, nbytes)


@driver_function("pqu", "cuMemAllocManaged")
def allocate_managed(result, nbytes, flags):
    put_pointer(result, state.machine.allocate(nbytes, shared_with_host=True))


@driver_function("q", "cuMemFree", quiet=True)
def free(address):
    if address:
        state.machine.free(address)


@driver_function("qp", "cuMemFreeAsync", quiet=True)
def free_in_order(address, stream):
    free(address)


@driver_function("pqu", "cuMemHostAlloc")
def allocate_host(result, nbytes, flags):
    machine = state.machine
    address = machine.allocate(max(nbytes, 1), shared_with_host=True)
    put_pointer(result, machine.host_address(address))


@driver_function("pq", "cuMemAllocHost")
def allocate_host_plainly(result, nbytes):
    allocate_host(result, nbytes, 0)


@driver_function("q", "cuMemFreeHost", quiet=True)
def free_host(address):
    state.machine.free(state.machine.device_address(address))


@driver_function("qqu", "cuMemHostRegister")
def register(address, nbytes, flags):
    state.machine.register(address, nbytes, bool(flags & _DEVICE_MAP))


@driver_function("q", "cuMemHostUnregister", quiet=True)
def unregister(address):
    state.machine.unregister(address)


@driver_function("pqu", "cuMemHostGetDevicePointer")
def device_pointer(result, address, flags):
    put_pointer(result, state.machine.device_address(address))


@driver_function("ppq", "cuMemGetAddressRange")
def address_range(base, size, address):
    found = state.machine.allocation(address)
    if found is None:
        raise Refusal(INVALID_VALUE)
    put_pointer(base, found[0])
    put(size, ctypes.c_uint64, found[1])


# CUpointer_attribute -> what to store, of (address, allocation or None).
def _pointer_attribute(number, address):
    machine = state.machine
    found = machine.allocation(address)
    match number:
        case 1:
            return ctypes.c_uint64, CONTEXT if found else 0
        case 2:
            return ctypes.c_uint, _DEVICE if found else 0
        case 3:
            return ctypes.c_uint64, address if found else 0
        case 4:
            return ctypes.c_uint64, address
        case 7:
            return ctypes.c_uint64, found[0] if found else 0
        case 8:
            return ctypes.c_uint, int(bool(found and found[2]))
        case 9:
            return ctypes.c_int, 0 if found else -2
        case 11:
            return ctypes.c_uint64, found[0] if found else 0
        case 12:
            return ctypes.c_uint64, found[1] if found else 0
        case 13:
            return ctypes.c_uint, int(found is not None)
    return ctypes.c_uint64, 0


@driver_function("piq", "cuPointerGetAttribute")
def pointer_attribute(result, number, address):
    if state.machine.allocation(address) is None:
        raise Refusal(INVALID_VALUE)
    put(result, *_pointer_attribute(number, address))


@driver_function("uppq", "cuPointerGetAttributes")
def pointer_attributes(count, numbers, results, address):
    asked = (ctypes.c_int * count).from_address(numbers)
    for number, result in zip(asked, words(results, count), strict=True):
        put(result, *_pointer_attribute(number, address))


def _copy(to, source, nbytes):
    machine = state.machine
    if nbytes:
        machine.bytes_at(to, nbytes, written=True)[:] = machine.bytes_at(source, nbytes)


@driver_function("qqq", "cuMemcpy", "cuMemcpyHtoD", "cuMemcpyDtoH", "cuMemcpyDtoD")
def copy(to, source, nbytes):
    _copy(to, source, nbytes)


@driver_function(
    "qqqp", "cuMemcpyAsync", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync"
)
def copy_in_order(to, source, nbytes, stream):
    _copy(to, source, nbytes)


def _fill(address, value, count, dtype):
    dtype = np.dtype(dtype)
    if address % dtype.itemsize:
        raise Refusal(INVALID_VALUE)
    room = state.machine.bytes_at(address, count * dtype.itemsize, written=True)
    room.view(dtype)[:] = value & (1 << 8 * dtype.itemsize) - 1


@driver_function("qbq", "cuMemsetD8")
def fill_bytes(address, value, count):
    _fill(address, value, count, np.uint8)


@driver_function("qbqp", "cuMemsetD8Async")
def fill_bytes_in_order(address, value, count, stream):
    _fill(address, value, count, np.uint8)


@driver_function("qhq", "cuMemsetD16")
def fill_halves(address, value, count):
    _fill(address, value, count, np.uint16)


@driver_function("qhqp", "cuMemsetD16Async")
def fill_halves_in_order(address, value, count, stream):
    _fill(address, value, count, np.uint16)


@driver_function("quq", "cuMemsetD32")
def fill_words(address, value, count):
    _fill(address, value, count, np.uint32)


@driver_function("quqp", "cuMemsetD32Async")
def fill_words_in_order(address, value, count, stream):
    _fill(address, value, count, np.uint32)


@driver_function("ppi", "cuIpcGetMemHandle", "cuIpcOpenMemHandle")
def no_other_process(result, address, flags):
    raise Refusal(NOT_SUPPORTED)


@driver_function("pq", "cuMemHostGetFlags")
def host_flags(result, address):
    put_int(result, _DEVICE_MAP)

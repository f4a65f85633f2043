"""Driver API: modules, kernels, launches, occupancy.

Reference: NVIDIA, CUDA Driver API, modules "Library Management", "Module Management", "Execution
Control" and "Occupancy".
"""

import ctypes

from zerfoo_numba.errors import ZerfooError
from zerfoo_numba.ptx.stand_in.api_device import ATTRIBUTES
from zerfoo_numba.ptx.stand_in.library import (
    INVALID_IMAGE,
    INVALID_PTX,
    INVALID_VALUE,
    NO_BINARY,
    NOT_FOUND,
    Handles,
    Refusal,
    driver_function,
    put,
    put_int,
    put_pointer,
    state,
    text,
    words,
)
from zerfoo_numba.ptx.stand_in.modules import Module

modules, kernels = Handles(0x100000), Handles(0x900000)
_handles: dict = {}  # kernel -> its handle
_names: dict = {}  # kernel -> its name as C keeps it
_SHARED_LIMIT = ATTRIBUTES[97]
_MAX_DYNAMIC = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_THREADS, _BLOCKS = 2048, 32  # per multiprocessor


def _load(result, image):
    start = ctypes.string_at(image, 4)
    if start in (b"\x7fELF", b"\x50\xed\x55\xba"):
        raise Refusal(NO_BINARY)
    try:
        put_pointer(result, modules.add(Module(text(image))))
    except UnicodeDecodeError:
        raise Refusal(INVALID_IMAGE) from None
    except ZerfooError as error:
        state.error = error
        raise Refusal(INVALID_PTX) from None


@driver_function("ppppuppu", "cuLibraryLoadData")
def library_load(result, image, jit, jit_values, jit_count, options, values, count):
    _load(result, image)


@driver_function("pp", "cuModuleLoadData")
def module_load(result, image):
    _load(result, image)


@driver_function("ppupp", "cuModuleLoadDataEx")
def module_load_with_options(result, image, count, options, values):
    _load(result, image)


@driver_function("q", "cuLibraryUnload", "cuModuleUnload", quiet=True)
def unload(module):
    modules.pop(module)


@driver_function("pq", "cuLibraryGetModule", "cuKernelGetFunction")
def same_handle(result, handle):
    put_pointer(result, handle)


@driver_function("pqp", "cuLibraryGetKernel", "cuModuleGetFunction")
def get_kernel(result, module, name):
    kernel = modules[module].kernels.get(text(name))
    if kernel is None:
        raise Refusal(NOT_FOUND)
    put_pointer(result, _handle(kernel))


def _handle(kernel):
    if kernel not in _handles:
        _handles[kernel] = kernels.add(kernel)
    return _handles[kernel]


@driver_function("pq", "cuLibraryGetKernelCount")
def kernel_count(result, module):
    put(result, ctypes.c_uint, len(modules[module].kernels))


@driver_function("puq", "cuLibraryEnumerateKernels")
def kernel_list(result, count, module):
    found = list(modules[module].kernels.values())[:count]
    for i, kernel in enumerate(found):
        put_pointer(result + 8 * i, _handle(kernel))


@driver_function("ppqp", "cuLibraryGetGlobal", "cuModuleGetGlobal")
def get_global(address, size, module, name):
    found = modules[module].variables.get(text(name))
    if found is None:
        raise Refusal(NOT_FOUND)
    places = state.machine.place_variables(modules[module])
    put_pointer(address, places[found.name])
    put(size, ctypes.c_uint64, found.size)


@driver_function("pq", "cuKernelGetName", "cuFuncGetName")
def kernel_name(result, kernel):
    found = kernels[kernel]
    name = _names.setdefault(found, ctypes.create_string_buffer(found.name.encode()))
    put_pointer(result, ctypes.addressof(name))


@driver_function("qqpp", "cuKernelGetParamInfo", "cuFuncGetParamInfo")
def parameter_info(kernel, index, offset, size):
    sizes = kernels[kernel].parsed.parameters
    if index >= len(sizes):
        raise Refusal(INVALID_VALUE)
    at = 0
    for parameter in sizes[: index + 1]:
        at = -(-at // parameter.align) * parameter.align
        start, at = at, at + parameter.size
    put(offset, ctypes.c_uint64, start)
    put(size, ctypes.c_uint64, sizes[index].size)


def _attribute(kernel, number):
    major, minor = kernel.ptx.cc[:2]
    match number:
        case 0:
            return kernel.most_threads
        case 1:
            return kernel.space_bytes("shared")
        case 2:
            return kernel.space_bytes("const")
        case 3:
            return kernel.space_bytes("local")
        case 4:
            return kernel.registers
        case 5 | 6:
            return 10 * major + minor
        case 8:
            return kernel.dynamic
    return 0


@driver_function("piqi", "cuKernelGetAttribute")
def kernel_attribute(result, number, kernel, device):
    put_int(result, _attribute(kernels[kernel], number))


@driver_function("piq", "cuFuncGetAttribute")
def function_attribute(result, number, kernel):
    put_int(result, _attribute(kernels[kernel], number))


@driver_function("iiqi", "cuKernelSetAttribute")
def set_kernel_attribute(number, value, kernel, device):
    _set_attribute(kernels[kernel], number, value)


@driver_function("qii", "cuFuncSetAttribute")
def set_function_attribute(kernel, number, value):
    _set_attribute(kernels[kernel], number, value)


def _set_attribute(kernel, number, value):
    if number == _MAX_DYNAMIC:
        if value + kernel.space_bytes("shared") > _SHARED_LIMIT:
            raise Refusal(INVALID_VALUE)
        kernel.dynamic = value


@driver_function("qii", "cuKernelSetCacheConfig")
def cache_preference(kernel, preference, device):
    """There is no cache to divide."""


@driver_function("qi", "cuFuncSetCacheConfig")
def function_cache_preference(kernel, preference):
    """There is no cache to divide."""


def _resident(threads):
    return min(_BLOCKS, _THREADS // max(1, -(-threads // 32) * 32))


@driver_function("pqiq", "cuOccupancyMaxActiveBlocksPerMultiprocessor")
def resident_blocks(result, kernel, threads, shared):
    put_int(result, _resident(threads))


@driver_function("pqiqu", "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags")
def resident_blocks_with_flags(result, kernel, threads, shared, flags):
    put_int(result, _resident(threads))


@driver_function("ppqpqi", "cuOccupancyMaxPotentialBlockSize")
def best_block(grid, block, kernel, of_block, shared, limit):
    most = kernels[kernel].most_threads
    threads = min(limit or most, most)
    put_int(block, threads)
    put_int(grid, _resident(threads) * ATTRIBUTES[16])


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_uint64),
        ("attributes", ctypes.c_uint64),
        ("count", ctypes.c_uint),
    )


@driver_function("pqpp", "cuLaunchKernelEx")
def launch_with_config(config, kernel, parameters, extra):
    shape = _Config.from_address(config)
    _launch(kernels[kernel], tuple(shape.grid), tuple(shape.block), shape.shared, parameters)


@driver_function("quuuuuuuppp", "cuLaunchKernel")
def launch(kernel, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
    _launch(kernels[kernel], (gx, gy, gz), (bx, by, bz), shared, parameters)


@driver_function("quuuuuuupp", "cuLaunchCooperativeKernel")
def launch_cooperative(kernel, gx, gy, gz, bx, by, bz, shared, stream, parameters):
    _launch(kernels[kernel], (gx, gy, gz), (bx, by, bz), shared, parameters)


def _launch(kernel, grid, block, shared, parameters):
    threads = block[0] * block[1] * block[2]
    most = [ATTRIBUTES[n] for n in (2, 3, 4, 5, 6, 7)]
    sizes = (*block, *grid)
    fits = all(1 <= size <= limit for size, limit in zip(sizes, most, strict=True))
    if not fits or threads > kernel.most_threads or shared > kernel.dynamic:
        raise Refusal(INVALID_VALUE)
    lengths = kernel.parameter_sizes
    places = words(parameters, len(lengths))
    values = [ctypes.string_at(at, size) for at, size in zip(places, lengths, strict=True)]
    state.machine.launch(kernel, grid, block, shared, values)

"""Driver API: initialisation, devices, contexts and error names.

Reference: NVIDIA, CUDA Driver API, modules "Initialization" to "Context Management".
"""

import ctypes

from zerfoo_numba.ptx.stand_in.library import (
    INVALID_CONTEXT,
    INVALID_VALUE,
    NO_DEVICE,
    SUCCESS,
    Refusal,
    contexts,
    driver_function,
    put,
    put_int,
    put_pointer,
    state,
)

VERSION = 13000
CONTEXT = 0x7C00  # the primary context of the one device
UUID = b"zerfoo-numba-ptx"
MULTIPROCESSORS = 8  # programs size their grids by it, so few
# CUdevice_attribute -> value: what an H100 answers, with fewer multiprocessors.
ATTRIBUTES = {
    1: 1024, 2: 1024, 3: 1024, 4: 64, 5: 2**31 - 1, 6: 65535, 7: 65535, 8: 48 << 10, 9: 64 << 10,
    10: 32, 11: 2**31 - 1, 12: 65536, 13: 1_785_000, 14: 512, 15: 1, 16: MULTIPROCESSORS, 17: 0,
    18: 0, 19: 1, 20: 0, 21: 131072, 22: 131072, 23: 65536, 30: 512, 31: 1, 32: 0, 33: 0, 34: 0,
    35: 0, 36: 2_619_000, 37: 5120, 38: 50 << 20, 39: 2048, 40: 1, 41: 1, 50: 0, 51: 32, 78: 1,
    79: 1, 80: 1, 81: 228 << 10, 82: 65536, 83: 1, 84: 0, 85: 0, 86: 0, 87: 2, 88: 0, 89: 1, 90: 1,
    91: 0, 95: 1, 96: 0, 97: 227 << 10, 99: 1, 100: 0, 101: 0, 106: 32, 108: 128 << 20, 111: 1024,
    115: 0,
}  # fmt: skip
_MAJOR, _MINOR = 75, 76
_NAMES = {
    0: "CUDA_SUCCESS", 1: "CUDA_ERROR_INVALID_VALUE", 2: "CUDA_ERROR_OUT_OF_MEMORY",
    3: "CUDA_ERROR_NOT_INITIALIZED", 100: "CUDA_ERROR_NO_DEVICE", 200: "CUDA_ERROR_INVALID_IMAGE",
    201: "CUDA_ERROR_INVALID_CONTEXT", 209: "CUDA_ERROR_NO_BINARY_FOR_GPU",
    218: "CUDA_ERROR_INVALID_PTX", 400: "CUDA_ERROR_INVALID_HANDLE", 500: "CUDA_ERROR_NOT_FOUND",
    719: "CUDA_ERROR_LAUNCH_FAILED", 801: "CUDA_ERROR_NOT_SUPPORTED",
}  # fmt: skip
_names = {code: ctypes.create_string_buffer(name.encode()) for code, name in _NAMES.items()}
_limits = {0: 1024, 1: 1 << 20, 2: 8 << 20}  # stack, printf and heap bytes


@driver_function("u", "cuInit", always=True)
def initialize(flags):
    return SUCCESS if state.machine is not None else NO_DEVICE


@driver_function("p", "cuDriverGetVersion", always=True)
def version(result):
    put_int(result, VERSION)


@driver_function("p", "cuDeviceGetCount", always=True)
def count(result):
    put_int(result, int(state.machine is not None))


@driver_function("ip", "cuGetErrorName", "cuGetErrorString", always=True)
def error_name(code, result):
    if code not in _names:
        put_pointer(result, 0)
        return INVALID_VALUE
    put_pointer(result, ctypes.addressof(_names[code]))
    return SUCCESS


@driver_function("pi", "cuDeviceGet")
def device_get(result, ordinal):
    if ordinal:
        raise Refusal(101)  # INVALID_DEVICE
    put_int(result, 0)


@driver_function("pii", "cuDeviceGetName")
def device_name(result, length, device):
    name = state.machine.description.encode()[: length - 1] + b"\0"
    ctypes.memmove(result, name, len(name))


@driver_function("pi", "cuDeviceGetUuid")
def device_uuid(result, device):
    ctypes.memmove(result, UUID, len(UUID))


@driver_function("pi", "cuDeviceTotalMem")
def device_memory(result, device):
    put(result, ctypes.c_uint64, state.machine.memory_info()[1])


@driver_function("pii", "cuDeviceGetAttribute")
def device_attribute(result, attribute, device):
    version = dict(zip((_MAJOR, _MINOR), state.machine.cc[:2], strict=True))
    put_int(result, version.get(attribute, ATTRIBUTES.get(attribute, 0)))


@driver_function("pii", "cuDeviceGetPCIBusId")
def device_bus(result, length, device):
    name = b"0000:00:00.0"[: length - 1] + b"\0"
    ctypes.memmove(result, name, len(name))


@driver_function("pii", "cuDeviceCanAccessPeer")
def device_peer(result, device, other):
    put_int(result, 0)


@driver_function("pi", "cuDevicePrimaryCtxRetain", quiet=True)
def context_retain(result, device):
    put_pointer(result, CONTEXT)


@driver_function("i", "cuDevicePrimaryCtxRelease", quiet=True)
def context_release(device):
    """The primary context lives as long as the device."""


@driver_function("i", "cuDevicePrimaryCtxReset", quiet=True)
def context_reset(device):
    contexts().clear()


@driver_function("iu", "cuDevicePrimaryCtxSetFlags")
def context_flags(device, flags):
    """Nothing to choose: a launch returns when it is done."""


@driver_function("ipp", "cuDevicePrimaryCtxGetState")
def context_state(device, flags, active):
    put_int(flags, 0)
    put_int(active, 1)


@driver_function("p", "cuCtxGetCurrent", quiet=True)
def context_current(result):
    put_pointer(result, contexts()[-1] if contexts() else 0)


@driver_function("p", "cuCtxSetCurrent", quiet=True)
def context_set(context):
    stack = contexts()
    if stack:
        stack.pop()
    if context:
        stack.append(context)


@driver_function("p", "cuCtxPushCurrent", quiet=True)
def context_push(context):
    contexts().append(context)


@driver_function("p", "cuCtxPopCurrent", quiet=True)
def context_pop(result):
    if not contexts():
        raise Refusal(INVALID_CONTEXT)
    put_pointer(result, contexts().pop())


@driver_function("p", "cuCtxGetDevice", quiet=True)
def context_device(result):
    if not contexts():
        raise Refusal(INVALID_CONTEXT)
    put_int(result, 0)


@driver_function("pp", "cuCtxGetApiVersion")
def context_version(context, result):
    put_int(result, VERSION)


@driver_function("p", "cuCtxGetFlags")
def context_get_flags(result):
    put_int(result, 0)


@driver_function("pp", "cuCtxGetId")
def context_id(context, result):
    put(result, ctypes.c_uint64, 1)


@driver_function("pp", "cuCtxGetStreamPriorityRange")
def context_priorities(least, greatest):
    put_int(least, 0)
    put_int(greatest, 0)


@driver_function("pi", "cuCtxGetLimit")
def context_limit(result, limit):
    put(result, ctypes.c_uint64, _limits.get(limit, 0))


@driver_function("iq", "cuCtxSetLimit")
def context_set_limit(limit, value):
    _limits[limit] = value


@driver_function("", "cuCtxSynchronize", "cuProfilerStart", "cuProfilerStop")
def synchronize():
    """A launch is done when it returns."""


_no_functions = (ctypes.c_uint64 * 8)(8)  # a table begins with its size in bytes


@driver_function("pp", "cuGetExportTable")
def export_table(result, which):
    """A table without functions: NVIDIA's libraries look whether one has what they want."""
    put_pointer(result, ctypes.addressof(_no_functions))

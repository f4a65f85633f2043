"""How fast the matvec of each block format reads its weights on the devices that are here."""

import statistics

import numpy as np

from bench.quants_counts import file_bytes
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import DeviceError
from zerfoo_numba.kernels import matvec, matvec_int8, quantize
from zerfoo_numba.quant.packed import LAYOUTS
from zerfoo_numba.weights import PackedWeight, Weight

SHAPE = (4096, 4096)  # rows x K, that of the attention matrices of Mistral 7B
REPEATS = 5
SHORTEST = 0.02  # seconds of one timing


def devices():
    """{name: device} of "cpu" and "cuda", where they exist."""
    found = {}
    for name in ("cpu", "cuda"):
        try:
            found[name] = open_device(name)
        except DeviceError:
            continue
    return found


def gb_per_s(device, type_name, path):
    """Bytes of the weight in the file, over the median time of its matvec; all quants are zero."""
    rows, K = SHAPE
    launch = _launch(device, type_name, path, rows, K)
    launch()  # compiled, and its memory touched
    device.synchronize()
    once = _seconds(device, launch, 1)
    count = max(1, round(SHORTEST / max(once, 1e-6)))
    seconds = statistics.median(_seconds(device, launch, count) for _ in range(REPEATS)) / count
    return file_bytes(type_name, rows, K) / seconds / 1e9


def _seconds(device, launch, count):
    with device.timer() as timing:
        for _ in range(count):
            launch()
    return timing.seconds


def _launch(device, type_name, path, rows, K):
    out = device.empty((1, rows), np.float32, "out")
    if path == "float":
        data = device.upload(np.zeros(file_bytes(type_name, rows, K), np.uint8), "weight")
        weight, x = Weight(data, type_name, rows, K), device.upload(np.ones((1, K), np.float32))
        return lambda: matvec.matmul(device, out, weight, x)
    layout, P = LAYOUTS[type_name], quantize.padded(K)
    data = device.upload(np.zeros(layout.packed_bytes(rows, K), np.uint8), "weight")
    weight = PackedWeight(data, type_name, rows, K, -(-K // layout.step))
    words = device.upload(np.ones((1, P // 4), np.uint32))
    x = quantize.QuantizedRows(words, device.upload(np.ones((1, P // 32, 4), np.float32)), 1)
    return lambda: matvec_int8.matmul_int8(device, out, weight, x)


def measure(names, found, progress):
    """{format: {device name: {"float": GB/s, "int8": GB/s or None}}}."""
    result = {name: {} for name in names}
    for device in found.values():
        for name in names:
            progress(f"speed of {name} on {device.name}")
            int8 = gb_per_s(device, name, "int8") if name in LAYOUTS else None
            result[name][device.name] = {"float": gb_per_s(device, name, "float"), "int8": int8}
    return result

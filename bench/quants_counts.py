"""What the matvec of each block format does, by the emulator, and what it has under way on a GPU.

A launch is recorded at its full shape. Its thread blocks all do the same work, so the emulator runs
a few and then a few more: the difference is what each of the rest adds.
"""

from dataclasses import asdict, dataclass

import numpy as np

from bench.gpus import SCHEDULERS, WARP, find_gpu
from bench.launches import SAMPLE, SECTOR, RecordingDevice
from zerfoo_numba.devices import Buffer
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.errors import DeviceError
from zerfoo_numba.kernels import matvec, matvec_int8, quantize
from zerfoo_numba.ptx.compile import Pointer, compile_ptx
from zerfoo_numba.ptx.link import cubin
from zerfoo_numba.ptx.parse import parse_module
from zerfoo_numba.ptx.structure import Instruction, Vector
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS, ROWS
from zerfoo_numba.weights import PackedWeight, Weight

# Rows x K of the weights of Gemma 3 1B (feed-forward, head) and Mistral 7B (feed-forward).
SHAPES = ((6912, 1152), (1152, 6912), (262144, 1152), (14336, 4096), (4096, 14336))
FLOAT_SHAPE = (1152, 6912)  # every block size divides its K
LIMITS = {"Q8_0": 1.6, "Q4_0": 1.6, "Q4_K": 1.8, "Q5_0": 2.5, "Q5_K": 2.5, "Q6_K": 2.5,
          "IQ4_XS": 2.5, "MXFP4": 2.5}  # fmt: skip  # thread-instructions per weight
SECTOR_LIMIT = 1.03  # sectors requested of the weight, in bytes, over its bytes in the file
ACTIVATION = ("x", "x_scales")

# CUDA Programming Guide, Compute Capabilities, 9.0: per multiprocessor; registers are given out
# to warps in units of 256; a block takes 1 KiB of shared memory more than it declares.
REGISTERS, THREADS, BLOCKS, SHARED = 65536, 2048, 32, 228 * 1024
REGISTER_UNIT, SHARED_UNIT = 256, 1024


@dataclass(frozen=True)
class Count:
    """One matvec of a (rows, K) weight; bytes requested are over those of its part of the file."""

    rows: int
    K: int
    instructions_per_weight: float
    weight_bytes_requested: float  # sectors of 32 bytes, summed over requests
    activation_bytes_requested: float
    bank_conflicts: int
    warps_per_row_group: int


class Recorder(RecordingDevice):
    """A device of the right compute capability that keeps a launch instead of making it."""

    def __init__(self, cc):
        super().__init__()
        self.cc = cc


def file_bytes(type_name, rows, K):
    quant = QUANTS[type_name]
    return rows * K // quant.block_size * quant.block_bytes


def launch_of(type_name, path, rows, K, device, nbytes=None):
    """Launch the matvec of a (rows, K) weight on `device`; path is "float" or "int8".

    `nbytes` of the weight are there, by default all.
    """
    if path == "float":
        data = _random(device, nbytes or file_bytes(type_name, rows, K), "weight")
        weight = Weight(data, type_name, rows, K)
        x = device.empty((1, K), np.float32, "x")
        matvec.matmul(device, device.empty((1, rows), np.float32, "out"), weight, x)
        return
    layout, P = LAYOUTS[type_name], quantize.padded(K)
    data = _random(device, nbytes or layout.packed_bytes(rows, K), "weight")
    weight = PackedWeight(data, type_name, rows, K, -(-K // layout.step))
    words = device.empty((1, P // 4), np.uint32, "x")
    scales = device.empty((1, P // 32, 4), np.float32, "x_scales")
    x = quantize.QuantizedRows(words, scales, 1)
    matvec_int8.matmul_int8(device, device.empty((1, rows), np.float32, "out"), weight, x)


def _random(device, nbytes, name):
    data = np.random.default_rng(0).integers(0, 256, min(nbytes, 1 << 20), np.uint8)
    buffer = device.empty(nbytes, np.uint8, name)
    for start in range(0, nbytes if device.name == "emulator" else 0, data.size):
        size = min(data.size, nbytes - start)
        device.write(buffer.view((size,), start), data[:size])
    return buffer


class FirstBlocks(EmulatorDevice):
    """Runs the first `blocks` thread blocks of a launch, with counters."""

    blocks = 1

    def launch(self, kernel, grid, block, args, shared=0):
        for buffer in (a for a in args if isinstance(a, Buffer) and a.dtype != np.uint8):
            self.write(buffer, np.ones(buffer.shape, buffer.dtype))
        super().launch(kernel, (self.blocks, *tuple(grid)[1:]), block, args, shared)
        self.warps = int(block) // WARP


class Counter:
    """Counts matvecs compiled for compute capability `cc`."""

    def __init__(self, cc=(9, 0)):
        self.device = FirstBlocks(cc=cc, count=True, threads=1)

    def count(self, type_name, path, rows, K):
        """The Count of a (rows, K) weight on `path`; None where no whole blocks make up a row."""
        if K % QUANTS[type_name].block_size:
            return None
        # Rows in the file's layout lie in their sectors as they did SAMPLE blocks before.
        more, per_block = (1, ROWS) if path == "int8" else (SAMPLE, matvec.WARPS)
        low = self._run(type_name, path, rows, K, 1, per_block)
        high = self._run(type_name, path, rows, K, 1 + more, per_block)
        loads = {name: traffic.loads.sectors - low.arrays[name].loads.sectors
                 for name, traffic in high.arrays.items()}  # fmt: skip
        size = file_bytes(type_name, more * per_block, K)
        instructions = high.thread_instructions - low.thread_instructions
        return Count(
            rows, K,
            instructions / (more * per_block * K),
            SECTOR * loads["weight"] / size,
            SECTOR * sum(loads.get(name, 0) for name in ACTIVATION) / size,
            high.bank_conflicts,
            self.device.warps if path == "int8" else 1,
        )  # fmt: skip

    def _run(self, type_name, path, rows, K, blocks, per_block):
        self.device.blocks = blocks
        counted = blocks * per_block
        if path == "int8":
            nbytes = LAYOUTS[type_name].packed_bytes(counted, K)
        else:
            nbytes = file_bytes(type_name, counted, K)
        launch_of(type_name, path, rows, K, self.device, nbytes)
        return self.device.counters.pop()


# In flight ------------------------------------------------------------------------------------


def records_before_use(text, fields):
    """Records that a warp asks for before it uses one: the most over the PTX's basic blocks.

    A record is `fields` loads by addresses made from the second parameter, the weight; they count
    until an instruction reads what one of them brings.
    """
    (function,) = parse_module(text).functions.values()
    addresses = {function.parameters[1].name}
    most, pending, brought = 0, 0, set()
    for item in function.body:
        if not isinstance(item, Instruction):
            pending, brought = 0, set()
            continue
        results, inputs = _names(item.operands[:1]), _names(item.operands[1:])
        if item.parts[:2] == ("ld", "global"):
            if inputs & addresses:
                pending += 1
                brought |= results
        elif inputs & brought:
            pending, brought = 0, set()
        elif inputs & addresses:
            addresses |= results
        most = max(most, pending // fields)
    return most


def _names(operands):
    """Names of the registers and symbols among operands, those of addresses and vectors too."""
    found = set()
    for operand in operands:
        items = operand.items if isinstance(operand, Vector) else (operand,)
        found |= {getattr(getattr(item, "base", item), "name", None) for item in items}
    return found - {None}


def in_flight(type_name, rows, K, gpu_name="H200"):
    """Bytes of the weight that each multiprocessor of a GPU has under way, and how they come about.

    Blocks resident at once (by registers, shared memory, the grid) x warps x the records that a
    warp asks for before it waits. None where the CUDA libraries are missing.
    """
    gpu, layout = find_gpu(gpu_name), LAYOUTS[type_name]
    recorder = Recorder(gpu.cc)
    launch_of(type_name, "int8", rows, K, recorder)
    launch = recorder.launches[-1]
    types = [Pointer(a.dtype) if isinstance(a, Buffer) else a for a in launch.args]
    ptx = compile_ptx(launch.kernel, types, gpu.cc)
    try:
        usage = cubin(ptx)[1]
    except DeviceError:
        return None
    warps = launch.block[0] // WARP
    resident = min(blocks_resident(usage, warps), launch.blocks / gpu.multiprocessors)
    steps = -(-K // layout.step)
    chunks = min(records_before_use(ptx.text, len(layout.lane_fields)), -(-steps // warps))
    return {
        "rows": rows,
        "K": K,
        "registers": usage.registers,
        "spill_bytes": usage.spill_bytes,
        "warps_per_multiprocessor": resident * warps,
        "chunks_ahead": chunks,
        "chunk_bytes": layout.chunk_bytes,
        "bytes_in_flight": round(resident * warps * chunks * layout.chunk_bytes),
    }


def blocks_resident(usage, warps):
    """Thread blocks of so many warps that one multiprocessor has room for."""
    per_warp = -(-usage.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    # Registers lie in the files of the schedulers, each of which takes whole warps.
    by_registers = SCHEDULERS * (REGISTERS // SCHEDULERS // per_warp) // warps
    shared = -(-usage.shared_bytes // SHARED_UNIT) * SHARED_UNIT + SHARED_UNIT
    return min(by_registers, THREADS // (WARP * warps), BLOCKS, SHARED // shared)


def measure(names, counter, progress):
    """{format: {"float": Count, "int8": [Count], "in_flight": [dict]}} as JSON-ready dicts."""
    result = {}
    for name in names:
        progress(f"instructions of {name}")
        count = counter.count(name, "float", *FLOAT_SHAPE)
        result[name] = {"float": asdict(count), "int8": [], "in_flight": []}
        if name in LAYOUTS:
            counts = [counter.count(name, "int8", *shape) for shape in SHAPES]
            counts = [c for c in counts if c is not None]
            result[name]["int8"] = [asdict(c) for c in counts]
            flights = [in_flight(name, c.rows, c.K) for c in counts]
            result[name]["in_flight"] = [f for f in flights if f is not None]
    return result

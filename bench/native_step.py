"""A decode step of a real model on the native engine, launch by launch; for bench.native."""

import statistics
import time
from dataclasses import dataclass, field

import numpy as np
from numba import cuda
from numba.cuda.types import uint32, uint64

import zerfoo_numba
from zerfoo_numba.devices import Buffer, triple
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.ptx.compile import Pointer, compile_ptx
from zerfoo_numba.ptx.instructions import load_u32x4
from zerfoo_numba.ptx.native import Launches, Program
from zerfoo_numba.ptx.native.layout import COUNTS
from zerfoo_numba.ptx.native.program import load, translate

HOT_BYTES, HOT_LAUNCHES = 1 << 19, 24
READ_BYTES = 768 << 20
EMULATED_BLOCKS = 16  # of a grid of more than four times as many, whose blocks all do the same
STEPS, CACHED = 12, 32
CHUNK = 512  # bytes that a warp of `read` takes at a time


@cuda.jit
def read(out, x, steps):
    """Every warp reads `steps` chunks one after another; the plainest kernel there is."""
    lane = uint32(cuda.threadIdx.x)
    at = uint64(uint64(uint32(cuda.blockIdx.x)) * uint64(steps) * uint64(CHUNK))
    at = uint64(at + uint64(uint32(lane << uint32(4))))
    mixed = uint32(0)
    for _ in range(steps):
        a, b, c, d = load_u32x4(x, at)
        mixed = uint32(mixed ^ a ^ b ^ c ^ d)
        at = uint64(at + uint64(CHUNK))
    out[uint32(uint32(uint32(cuda.blockIdx.x) << uint32(5)) + lane)] = mixed


@dataclass
class Launch:
    """One kernel launch of a step, and the operation that made it."""

    kernel: object
    grid: tuple
    block: tuple
    args: tuple
    shared: int
    call: object = None

    @property
    def values(self):
        return [np.uint64(a.address) if isinstance(a, Buffer) else a for a in self.args]

    @property
    def key(self):
        return self.call.name, *self.call.shape.items(), self.kernel.py_func.__name__


class NotingDevice(CpuDevice):
    """Keeps what it is asked to launch while `noted` is a list."""

    noted = None

    def launch(self, kernel, grid, block, args, shared=0):
        if self.noted is not None:
            self.noted.append(Launch(kernel, triple(grid), triple(block), tuple(args), shared))
        super().launch(kernel, grid, block, args, shared)

    def ptx(self, launch):
        types = [Pointer(a.dtype) if isinstance(a, Buffer) else a for a in launch.args]
        return compile_ptx(launch.kernel, tuple(types), self.cc)


@dataclass
class Group:
    """The launches of a step that do the same work, with their times in seconds, step by step."""

    launch: Launch
    places: list = field(default_factory=list)
    cold: list = field(default_factory=list)

    @property
    def seconds(self):
        return statistics.median(self.cold)


class Step:
    """A captured greedy decode step of a model file, after CACHED tokens."""

    def __init__(self, path, activation, threads):
        self.device = NotingDevice(threads=threads)
        context = CACHED + STEPS + HOT_LAUNCHES + 8
        self.model = zerfoo_numba.load_model(
            path, device=self.device, context=context, activation=activation
        )
        self.walk = self.model.walk
        self.model.prefill([1 + i % 7 for i in range(CACHED)])
        self.model.greedy_start()
        self.walk.ops.calls, self.device.noted = [], []
        self.graph = self.device.capture(self._step)
        self.launches, self.device.noted = self.device.noted, None
        for launch, call in zip(self.launches, self.walk.ops.calls, strict=True):
            launch.call = call

    def _step(self):
        """The first launch only marks the time at which the step begins."""
        self.walk.ops.advance(self.walk.position, 0)
        self.walk.embed(1)
        self.walk.layers(1, CACHED)
        self.walk.project(self.walk.logits, 0)
        self.walk.choose(1)

    def rewind(self):
        self.device.write(self.walk.position, np.full(1, CACHED, np.uint32))

    def groups(self):
        """Time STEPS steps. -> (the groups, the slowest first; seconds of a step)"""
        self.rewind()
        stamps = np.zeros((STEPS, len(self.launches), 2), np.int64)
        for times in stamps:
            self.run(self.graph.calls, times)
        nanoseconds = stamps[..., 0] * 10**9 + stamps[..., 1]
        taken = np.diff(nanoseconds, axis=1) / 1e9
        found = {}
        for i, launch in enumerate(self.launches[1:]):
            group = found.setdefault(launch.key, Group(launch))
            group.places.append(i + 1)
            group.cold += taken[:, i].tolist()
        whole = statistics.median((nanoseconds[:, -1] - nanoseconds[:, 0]) / 1e9)
        return sorted(found.values(), key=lambda g: -g.seconds * len(g.places)), whole

    def run(self, launches, times):
        one = self.device.threads == 1
        clock = time.CLOCK_THREAD_CPUTIME_ID if one else time.CLOCK_MONOTONIC
        self.device.pool.run(launches, times, clock)

    def hot(self, group):
        """(bytes, seconds) of the launch on the blocks that fit HOT_BYTES, the best of a few."""
        launch, bytes_ = group.launch, group.launch.call.cost.bytes
        blocks = launch.grid[0]
        few = max(1, min(blocks, blocks * HOT_BYTES // max(bytes_, 1)))
        ptx, launches = self.device.ptx(launch), Launches(self.device.threads)
        program = load(ptx, launch.block, self.device.target)
        grid = (few, *launch.grid[1:])
        for _ in range(HOT_LAUNCHES):
            launches.add(ptx, program, grid, launch.values, launch.shared)
        best, times = np.inf, np.zeros((HOT_LAUNCHES, 2), np.int64)
        for _ in range(5):
            self.rewind()
            self.run(launches, times)
            taken = np.diff(times[:, 0] * 10**9 + times[:, 1]) / 1e9
            best = min(best, float(np.median(taken)))
        return bytes_ * few / blocks, best

    def masked_share(self, group):
        """(seconds to compile, share of the warps' instructions that run masked)."""
        launch, device = group.launch, self.device
        ptx = device.ptx(launch)
        start = time.process_time()
        translate(ptx, launch.block, device.target)
        seconds = time.process_time() - start
        code = translate(ptx, launch.block, device.target, counted=True)
        program, launches = Program(ptx.entry, *code, device.target), Launches(1)
        launches.add(ptx, program, launch.grid, launch.values, launch.shared)
        self.rewind()
        device.pool.run(launches)
        unmasked, masked = launches.record(0)[COUNTS : COUNTS + 16].view(np.uint64).tolist()
        return seconds, masked / max(1, masked + unmasked)


def thread_instructions(launch, device):
    """By the emulator. Weights keep what they happen to be: no kernel branches on them."""
    emulator = EmulatorDevice(cc=device.cc, count=True, threads=1)
    copies = {}
    for a in launch.args:
        if isinstance(a, Buffer) and a.address not in copies:
            copies[a.address] = emulator.empty(a.shape, a.dtype)
            if a.nbytes <= 1 << 21:
                emulator.write(copies[a.address], device.read(a))
    args = [copies[a.address] if isinstance(a, Buffer) else a for a in launch.args]
    blocks = launch.grid[0]
    few = EMULATED_BLOCKS if blocks > 4 * EMULATED_BLOCKS else blocks
    emulator.launch(launch.kernel, (few, *launch.grid[1:]), launch.block, args, launch.shared)
    return emulator.counters.pop().thread_instructions * blocks // few


def read_bandwidth(device, nbytes=READ_BYTES):
    """{how: bytes per second} of reading memory that no cache holds, on one core, in CPU time."""
    x = np.ones(nbytes, np.uint8)
    steps = 128
    blocks = nbytes // (steps * CHUNK)
    out = np.zeros(32 * blocks, np.uint32)
    pointer = Pointer(np.dtype(np.uint32))
    ptx = compile_ptx(read, (pointer, pointer, np.uint32(0)), device.cc)
    launches = Launches(1)
    values = [np.uint64(out.ctypes.data), np.uint64(x.ctypes.data), np.uint32(steps)]
    launches.add(ptx, load(ptx, (32, 1, 1), device.target), (blocks, 1, 1), values, 0)
    ways = {"numpy": lambda: x.view(np.float64).sum(), "kernel": lambda: device.pool.run(launches)}
    found = {}
    for name, way in ways.items():
        samples = []
        for _ in range(4):
            start = time.thread_time()
            way()
            samples.append(time.thread_time() - start)
        found[name] = nbytes / min(samples)
    return found

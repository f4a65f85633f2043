"""A compiled kernel, ready to run: translated blocks, memory layout, and waves of thread blocks."""

import functools
import itertools
import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from zerfoo_numba.errors import InputError
from zerfoo_numba.ptx import control_flow, effects
from zerfoo_numba.ptx.emulator.casting import numpy_type
from zerfoo_numba.ptx.emulator.checks import Checks
from zerfoo_numba.ptx.emulator.schedule import Scheduler
from zerfoo_numba.ptx.emulator.trace import Trace
from zerfoo_numba.ptx.emulator.translate import BlockTranslator
from zerfoo_numba.ptx.emulator.wave import Wave
from zerfoo_numba.ptx.emulator.workers import share

WAVE = 32768  # lanes: a register of 32 bits then takes 128 KiB, and the live ones stay in cache
SMALL = 4096  # lanes below which a second process does not pay
LARGEST_BLOCK = 1024  # threads, on every architecture
WORTH = 0.003  # seconds that a launch must be expected to take to be shared
VARIANTS = ("plain", "traced", "perturbed")


class TranslatedBlock:
    """A basic block and, once it has run, its generated function."""

    def __init__(self, program, number, variant):
        self.variant = variant
        block = program.kernel.blocks[number]
        self.program, self.number = program, number
        self.live_in, self.waits, self.end = block.live_in, block.waits, block.end
        self.last, self.targets = block.last, block.targets
        self.first = block.instructions[0] if block.instructions else block.last
        meets = block.instructions and effects.is_warp_synchronous(self.first)
        self.meets = self.first if meets else None
        self.code = self.reads = self.source = None
        self.stores = 0

    def translate(self):
        """Generate the function; a traced one reports its memory accesses."""
        program = self.program
        translator = BlockTranslator(program.kernel, self.number, program.layout, self.variant)
        code, self.source, self.reads, self.stores = translator.translate()
        self.targets = translator.targets
        self.code = code


class Program:
    """One kernel; `run` executes it."""

    def __init__(self, ptx):
        self.ptx, self.name = ptx, ptx.entry
        self.seconds_per_lane = 0.0  # of the last launch
        self.kernel = control_flow.parse(ptx.text, ptx.entry)
        # Registers that nothing has written yet hold zeros, as good as any value.
        self.initial = [numpy_type(r.type).type(0) for r in self.kernel.registers]
        self._lay_out()
        count = range(len(self.kernel.blocks))
        self.variants = {v: [TranslatedBlock(self, n, v) for n in count] for v in VARIANTS}
        self.together = self._needs_whole_grid()
        items = (i for b in self.kernel.blocks for i in b.instructions)
        self.calls_host = any(i.parts[0] == "host" for i in items)
        self.symbols = WeakKeyDictionary()  # memory -> addresses of module variables

    def _lay_out(self):
        """Offsets of shared and local variables; dynamic shared memory follows the static."""
        self.layout, self.shared_names = {}, []
        sizes = {"shared": 0, "local": 0}
        ordered = sorted(self.kernel.variables, key=lambda v: v.external)
        for variable in ordered:
            if variable.space in sizes:
                at = -(-sizes[variable.space] // variable.align) * variable.align
                if variable.external:
                    at = -(-sizes["shared"] // 16) * 16
                self.layout[variable.name] = at
                sizes[variable.space] = at + variable.size
                if variable.space == "shared":
                    self.shared_names.append((variable.name, at))
        self.shared_bytes, self.local_bytes = sizes["shared"], sizes["local"]

    def _needs_whole_grid(self):
        """Threads of different blocks wait for each other: a grid barrier or polled memory."""
        blocks = self.kernel.blocks
        grid = any(b.last is not None and b.last.parts[0] == "grid" for b in blocks)
        return grid or any(b.waits for b in blocks)

    def addresses(self, memory):
        """Module variables in global and constant memory, placed there at the first launch."""
        if memory not in self.symbols:
            table = {}
            for variable in self.kernel.variables:
                if variable.space in ("global", "const"):
                    address = memory.allocate(variable.size, variable.name)
                    memory.write(address, np.frombuffer(variable.data, np.uint8))
                    table[variable.name] = np.uint64(address)
            self.symbols[memory] = table
        return self.symbols[memory]

    def run(
        self, memory, grid, block, params, shared=0, checks=None, count=False, seed=None, threads=1
    ):
        """Execute the kernel over a grid; -> Counters if `count` or `checks`, else None."""
        launch = Launch(
            _three(grid), _three(block), Parameters(self.kernel, params), int(shared),
            self.addresses(memory),
        )  # fmt: skip
        wanted = Checks.of(checks)
        if count or checks is not None:
            launch.trace = Trace(self, memory, launch.grid, launch.block, wanted, seed)
        if launch.trace is None or not wanted.uninitialized:
            memory.forget_unwritten()
        if seed is not None:
            launch.shuffle = np.random.default_rng(seed)
        blocks, threads_of_block = int(np.prod(launch.grid)), int(np.prod(launch.block))
        if threads_of_block > LARGEST_BLOCK:
            raise InputError(f"a block has at most 1024 threads, not {threads_of_block}")
        numbers = np.arange(blocks)
        waves = np.array_split(numbers, self._wave_count(blocks, launch.block, threads))
        if launch.shuffle is not None:
            numbers = launch.shuffle.permutation(blocks)
            waves = np.array_split(numbers, len(waves))
        self._run_waves(memory, launch, waves, threads)
        return launch.trace.finish() if launch.trace is not None else None

    def _run_waves(self, memory, launch, waves, threads):
        """All waves: here, or in several processes if that is known to take long enough."""
        lanes = sum(len(w) for w in waves) * int(np.prod(launch.block))
        alone = len(waves) == 1 or launch.trace is not None or launch.shuffle is not None
        alone = alone or self.calls_host
        if threads > 1 and not alone and memory.file is not None:
            long = self.seconds_per_lane * lanes > WORTH
            if long and share(self, memory, launch, waves, threads):
                return
        start = time.perf_counter()
        for numbers in waves:
            self.run_wave(memory, launch, numbers)
        self.seconds_per_lane = (time.perf_counter() - start) / lanes

    def run_wave(self, memory, launch, numbers):
        """Execute the blocks `numbers` of the grid together."""
        with np.errstate(all="ignore"):
            wave = Wave(self, memory, launch, numbers)
            if launch.trace is None:
                Scheduler(wave, self.variants["plain"]).run()
                return
            launch.trace.begin(wave)
            variant = "perturbed" if launch.trace.checks.perturb else "traced"
            Scheduler(wave, self.variants[variant]).run()
            launch.trace.end(wave)

    def _wave_count(self, blocks, block, threads):
        if self.together:
            return 1
        lanes = int(np.prod(block))
        count = -(-blocks // max(1, WAVE // lanes))
        if threads > 1 and blocks * lanes >= threads * SMALL:
            count = -(-count // threads) * threads
        return min(count, blocks)


@dataclass
class Launch:
    """What the waves of one launch share; `shuffle` is a random generator if a seed was given."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    parameters: dict
    shared: int
    symbols: dict
    trace: object = None
    shuffle: object = None


class Parameters(dict):
    """Values of `(parameter, byte offset, PTX type)`, from the launch's arguments."""

    def __init__(self, kernel, values):
        super().__init__()
        if len(values) != len(kernel.parameters):
            raise InputError(
                f"kernel {kernel.name} takes {len(kernel.parameters)} parameters, not {len(values)}"
            )
        self.bytes = {
            p.name: _parameter_bytes(kernel.name, p, v)
            for p, v in zip(kernel.parameters, values, strict=True)
        }

    def __missing__(self, key):
        name, offset, kind = key
        dtype = numpy_type(kind)
        self[key] = value = np.frombuffer(self.bytes[name], dtype, 1, offset)[0]
        return value


def _parameter_bytes(kernel, parameter, value):
    if isinstance(value, int):
        return (value & (1 << 8 * parameter.size) - 1).to_bytes(parameter.size, "little")
    data = np.asarray(value).tobytes()
    if len(data) != parameter.size:
        raise InputError(
            f"parameter {parameter.name} of kernel {kernel} has {parameter.size} bytes, "
            f"but the argument {value!r} has {len(data)}"
        )
    return data


def _three(shape):
    """An int or a tuple of up to 3 as (x, y, z)."""
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    shape = tuple(int(n) for n in itertools.chain(shape, (1,) * (3 - len(shape))))
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"a grid or block has 1 to 3 dimensions of 1 or more, not {shape}")
    return shape


@functools.lru_cache(maxsize=1024)
def load(ptx):
    """A `Ptx` as a `Program`, parsed once."""
    return Program(ptx)

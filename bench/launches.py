"""The launches of one step of a model, recorded from the walk itself and counted by the emulator.

Recording needs the shapes and types of the weights, not the weights: a device that keeps launches
instead of running them takes the walk through a model of any size. Counting then runs each distinct
launch once on the emulator, at its full shape, or for a matvec a few blocks of its grid.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from zerfoo_numba.config import ModelConfig
from zerfoo_numba.devices import Buffer, Device, triple
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.errors import InputError
from zerfoo_numba.model import Walk
from zerfoo_numba.ops import Call, Ops

SECTOR = 32  # bytes that one memory transaction moves at least
PRODUCTS = ("matvec", "matmul", "matvec_int8", "matmul_int8", "matvec_prologue")
SAMPLE = 8  # blocks after which the sectors of a matvec's rows lie as before (see `sampled`)


@dataclass(frozen=True)
class Launch:
    """One kernel launch; `names` are those of the buffers among `args`, in order."""

    kernel: object
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    args: tuple
    shared: int
    names: tuple[str, ...]

    @property
    def blocks(self):
        return math.prod(self.grid)

    @property
    def warps(self):
        return self.blocks * -(-math.prod(self.block) // 32)

    @property
    def key(self):
        """Equal for launches that do the same amount of work."""
        args = (a.shape if isinstance(a, Buffer) else a.item() for a in self.args)
        return self.kernel, self.grid, self.block, self.shared, tuple(args)


class RecordingDevice(Device):
    """Gives out addresses without memory behind them and keeps the launches it is asked for.

    They are those of the device `like`, if one is given: its chunk, its fusions, its kernels.
    """

    name = "recording"
    CHOICES = ("chunk", "threads", "fusions", "attention_splits", "attention_piece", "broadcasts",
               "tensor_cores")  # fmt: skip

    def __init__(self, like=None):
        super().__init__()
        for name in self.CHOICES if like is not None else ():
            setattr(self, name, getattr(like, name))
        self.launches = []
        self._end, self._names, self._sizes = 256, {}, {}

    def allocate(self, nbytes, name, element):
        address = self._end
        self._end += -(-nbytes // 256) * 256
        self._names[address], self._sizes[address] = name, nbytes
        return address

    def release(self, address):
        del self._sizes[address]

    def held(self):
        """(name, bytes) of every buffer that is still there."""
        return [(self._names[address], nbytes) for address, nbytes in self._sizes.items()]

    def write(self, buffer, array):
        pass

    def read(self, buffer):
        return np.zeros(buffer.shape, buffer.dtype)

    def synchronize(self):
        pass

    def launch(self, kernel, grid, block, args, shared=0):
        self.launch_count += 1
        owners = (a.owner.address for a in args if isinstance(a, Buffer))
        names = tuple(self._names[address] for address in owners)
        launch = Launch(kernel, triple(grid), triple(block), tuple(args), shared, names)
        self.launches.append(launch)


@dataclass
class Group:
    """Launches of one step that do the same work: the operation, one of them, and how many.

    `weights` are the names of the tensors that the one reads, `parts` all their kinds (`ffn_gate`),
    `weight_bytes` all their bytes, without the embedding where only rows of it are read.
    """

    call: Call
    launch: Launch
    weights: list[str]
    launches: int = 0
    cache_bytes: int = 0  # of keys and values that all the launches attend to
    parts: set[str] = field(default_factory=set)
    weight_bytes: int = 0


def record(gguf, tokens, cached, cache_type, activation="float", like=None, fuse=True):
    """The groups of a step over `tokens` after `cached` others; one token is a greedy decode step.

    `gguf` as from bench.model_header; InputError for more tokens than one chunk of a prefill.
    """
    calls, launches = recorded(gguf, tokens, cached, cache_type, activation, like, fuse)[1:]
    return grouped(gguf, calls, launches)


def recorded(gguf, tokens, cached, cache_type, activation="float", like=None, fuse=True):
    """(the walk, the calls and the launches in their order) of the step that `record` describes."""
    device = RecordingDevice(like)
    chunk = device.chunk
    if tokens > chunk:
        raise InputError(f"a prefill of {tokens} tokens is more than one chunk of {chunk}")
    ops = Ops(device)
    room = cached + max(tokens, chunk) + 1
    walk = Walk(ops, gguf, ModelConfig.from_gguf(gguf), room, cache_type, activation, fuse=fuse)
    ops.calls = []
    device.launches.clear()  # those that packed weights
    walk.embed(tokens)
    walk.layers(tokens, cached)
    walk.project(walk.logits, tokens - 1)
    if tokens == 1:
        walk.choose(1)
    else:
        ops.advance(walk.position, tokens)
    return walk, ops.calls, device.launches


def grouped(gguf, calls, launches):
    """The calls and launches of a step as Groups, in the order of the first of each."""
    groups = {}
    for call, launch in zip(calls, launches, strict=True):
        key = (call.name, tuple(call.shape.items()), launch.key)
        read = [name for name in dict.fromkeys(launch.names) if name in gguf.tensors]
        group = groups.setdefault(key, Group(call, launch, read))
        group.launches += 1
        group.parts.update(name.split(".")[-2] for name in read)
        if call.name != "embed":
            group.weight_bytes += sum(gguf.tensors[name].data.nbytes for name in read)
        if call.name.startswith("attention"):
            group.cache_bytes += _attended(call, launch)
    return list(groups.values())


def _attended(call, launch):
    """Bytes of the rows of keys and values between the window's begin and the last token."""
    seen = call.shape["S"] + call.shape["T"]
    rows = min(seen, call.shape["window"] or seen)
    buffers = (a for a in launch.args if isinstance(a, Buffer))
    named = zip(launch.names, buffers, strict=True)
    return sum(rows * a.nbytes // a.shape[0] for name, a in named if name.endswith("_cache"))


def sampled(group):
    """Whether every block of the launch does the same, so that some of them tell of all.

    A product's blocks take as many rows each, of whole bytes: 8 blocks later the rows lie as they
    did within their 32-byte sectors, and all counts have grown by the same numbers.
    """
    blocks = group.launch.grid[0]
    if group.call.name not in PRODUCTS or blocks <= 3 * SAMPLE:
        return False
    rows = group.call.shape.get("rows") or (group.call.shape["N"],)
    return len(rows) == 1 and rows[0] % -(-rows[0] // blocks) == 0


@dataclass(frozen=True)
class Counts:
    """What one launch does, by the emulator.

    Sectors of 32 bytes are counted once for each request of a warp that touches them; of those,
    `weight_sectors` lie in the model's tensors, `cache_sectors` are loads from keys and values.
    `unique_sectors` are counted once for the launch, loads and stores apart: what memory must
    deliver and take if no cache helped.
    `origin` says which blocks of the grid were run.
    """

    thread_instructions: int
    warp_instructions: int
    sectors: int
    weight_sectors: int
    cache_sectors: int
    unique_sectors: int
    dot_instructions: int
    tensor_instructions: int
    origin: str


class LaunchCounter:
    """Runs launches on the emulator, compiled for compute capability `cc`, each kind once."""

    def __init__(self, cc):
        self.device = EmulatorDevice(cc=cc, count=True, threads=1)
        self.rng = np.random.default_rng(0)
        self._counts = {}

    def count(self, group, position):
        """The Counts of one launch of `group` with `position` tokens before it."""
        key = (group.launch.key, position)
        if key not in self._counts:
            self._counts[key] = self._count(group, position)
        return self._counts[key]

    def _count(self, group, position):
        blocks = group.launch.grid[0]
        if not sampled(group):
            return Counts(*self._run(group, blocks, position), "the whole grid")
        few = SAMPLE + blocks % SAMPLE
        more = few + SAMPLE
        low = self._run(group, few, position)
        high = self._run(group, more, position)
        steps = (blocks - few) // SAMPLE
        whole = (a + steps * (b - a) for a, b in zip(low, high, strict=True))
        origin = f"{few} and {more} of {blocks} blocks: {few}'s count + {steps} x the difference"
        return Counts(*whole, origin)

    def _run(self, group, blocks, position):
        """The counts, in the order of Counts, of the first `blocks` of the grid's x direction."""
        launch = group.launch
        buffers = self._buffers(launch, position)
        args = [buffers[a.address] if isinstance(a, Buffer) else a for a in launch.args]
        grid = (blocks, *launch.grid[1:])
        self.device.launch(launch.kernel, grid, launch.block, args, launch.shared)
        counters = self.device.counters.pop()
        return (
            counters.thread_instructions,
            counters.warp_instructions,
            counters.loads.sectors + counters.stores.sectors,
            sum(counters.arrays[name].loads.sectors for name in group.weights),
            sum(a.loads.sectors for n, a in counters.arrays.items() if n.endswith("_cache")),
            counters.unique_sectors,
            *(counters.classes.get(kind, 0) for kind in ("dot", "tensor")),
        )

    def _buffers(self, launch, position):
        """{recorded address: buffer}; of the contents, only the position and the logits matter."""
        buffers = {}
        recorded = [a for a in launch.args if isinstance(a, Buffer)]
        for name, old in zip(launch.names, recorded, strict=True):
            if old.address in buffers:
                continue
            new = buffers[old.address] = self.device.empty(old.shape, old.dtype, name)
            if old.dtype == np.float32:
                self.device.write(new, self.rng.standard_normal(old.shape, np.float32))
            elif old.dtype == np.uint32:
                self.device.write(new, np.full(old.shape, position * (name == "position")))
        return buffers

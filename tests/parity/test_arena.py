"""The plan of a walk's buffers: what it is made of, and that no buffer is read after its reuse.

For the proof each buffer has memory of its own, in which everything that the plan lays over another
buffer is forgotten as soon as a launch uses that one: a later read of it is then one of memory that
was never written, which the emulator finds, byte by byte. What the plan was made of has no part in
that.
"""

import numpy as np
import pytest

import zerfoo_numba
from tests.parity.conftest import GOLDEN, golden_tokens
from zerfoo_numba import arena
from zerfoo_numba.arena import ALIGNMENT, Use, live, plan
from zerfoo_numba.devices import Buffer
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.fusion import FUSIONS
from zerfoo_numba.ptx import Checks, KernelFault
from zerfoo_numba.ptx.accesses import Access, accesses
from zerfoo_numba.ptx.compile import Pointer, compile_ptx

UNWRITTEN = Checks(races=False, barriers=False, copies=False)


def load(name, device, activation="float", **more):
    path = GOLDEN / name / "model.gguf"
    options = {"context": 16, "activation": activation, "cache_type": "f32", **more}
    return zerfoo_numba.load_model(path, device=device, **options)


def overlapping(places, lives):
    """The pairs of buffers that share bytes and are live at once."""
    for a, (start, size) in places.items():
        for b, (other, length) in places.items():
            beside = start < other + length and other < start + size
            if a < b and beside and not lives[a].isdisjoint(lives[b]):
                yield a, b


# The plan --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_buffers_that_live_at_once_lie_apart(seed):
    rng = np.random.default_rng(seed)
    names = [f"b{i}" for i in range(rng.integers(1, 25))]
    sizes = {name: int(rng.integers(1, 5000)) for name in names}
    lives = {name: set() for name in names}
    for name in names:
        for _ in range(rng.integers(1, 4)):
            first = int(rng.integers(0, 60))
            lives[name] |= set(range(first, first + int(rng.integers(1, 12))))
    found = plan(sizes, lives)
    assert not list(overlapping(found.places, lives))
    assert found.peak <= found.size <= found.unshared
    assert found == plan(dict(sizes), dict(lives))
    for name, (start, size) in found.places.items():
        assert start % ALIGNMENT == 0 and size >= sizes[name] and start + size <= found.size


def test_the_smallest_gap_that_fits_is_taken():
    sizes = {"a": 4096, "b": 3072, "c": 2048, "d": 1024, "e": 512}
    lives = {"a": {0, 1}, "b": {0, 2}, "c": {0, 1, 2, 3}, "d": {0, 2, 3}, "e": {2, 3}}
    found = plan(sizes, lives)
    assert [found.places[n][0] for n in "abcd"] == [0, 4096, 7168, 9216]
    # free beside b, c and d: the 4096 bytes of a, which is over, and nothing smaller
    assert found.places["e"][0] == 0
    assert (found.unshared, found.size, found.peak) == (10752, 10240, 10240)


def test_a_buffer_is_live_while_bytes_in_it_will_be_read():
    def use(name, start, end, kind):
        return [Use(name, start, end, "r" in kind, "w" in kind)]

    step = [
        use("a", 0, 8, "w"),
        use("b", 0, 8, "w"),
        use("a", 0, 8, "r"),
        use("a", 0, 4, "w"),  # half of it is new, and nothing of the rest is wanted
        use("b", 0, 4, "w"),  # the other half is still read below
        use("a", 0, 4, "rw"),
        use("b", 4, 8, "r"),
        use("c", 0, 4, "w"),
    ]
    assert live([step]) == {"a": {0, 1, 2, 3, 4, 5}, "b": set(range(1, 7)), "c": {7}}
    over = [use("a", 0, 8, "w"), use("a", 0, 8, "r"), use("b", 0, 8, "w"), use("a", 0, 8, "w")]
    assert live([over])["a"] == {0, 1, 3}


def test_what_a_step_finds_in_a_buffer_lives_in_every_step():
    steps = [[[Use("a", 0, 4, True, True)]], [[Use("b", 0, 4, False, True)]] * 3]
    assert live(steps) == {"a": {0, 1, 2, 3}, "b": {1, 2, 3}}


# What it is made of ----------------------------------------------------------------------------


class Counting(EmulatorDevice):
    """Holds what each launch did to each of its buffers against what its PTX says."""

    def __init__(self):
        super().__init__(count=True)
        self.shares, self.compared = False, set()

    def allocate(self, nbytes, name, element):
        return super().allocate(nbytes, f"{name} {len(self.memory.allocations())}", element)

    def launch(self, kernel, grid, block, args, shared=0):
        super().launch(kernel, grid, block, args, shared)
        types = tuple(Pointer(a.dtype) if isinstance(a, Buffer) else a for a in args)
        said = accesses(compile_ptx(kernel, types, self.cc))
        names = {a.start: a.name for a in self.memory.allocations()}
        expected = {}
        for access, value in zip(said, args, strict=True):
            if isinstance(value, Buffer):
                before = expected.get(names[value.owner.address], Access(False, False))
                both = Access(before.reads | access.reads, before.writes | access.writes)
                expected[names[value.owner.address]] = both
            else:
                assert access == (False, False)
        for name, found in self.counters.pop().arrays.items():
            assert expected[name].reads >= (found.loads.requests > 0), (kernel, name)
            assert expected[name].writes >= (found.stores.requests > 0), (kernel, name)
            self.compared.add((kernel, name, *expected[name]))


@pytest.mark.parametrize("name, activation", [("gemma3_Q4_K_M", "int8"), ("qwen2moe", "float")])
def test_what_ptx_says_of_its_pointers_covers_what_the_emulator_sees(name, activation):
    device = Counting()
    load(name, device, activation, graph=False).greedy_ids(golden_tokens(name, "short")[:3], 2)
    # ... and is no more than that for most: an output is not read, an input is not written.
    exact = sum(reads != writes for *_, reads, writes in device.compared)
    assert exact > 0.8 * len(device.compared) > 20


# No read after reuse ---------------------------------------------------------------------------


class Forgetting(EmulatorDevice):
    """Once `places` are set: a launch that uses a buffer ends what the plan lays over it."""

    chunk = 4

    def __init__(self):
        super().__init__(checks=UNWRITTEN, threads=1)
        self.places, self.buffers = {}, {}

    def allocate(self, nbytes, name, element):
        address = super().allocate(nbytes, name, element)
        self.buffers[name] = address
        return address

    def follow(self, places):
        self.places = {self.buffers[n]: (n, place) for n, place in places.items()}

    def launch(self, kernel, grid, block, args, shared=0):
        for value in args:
            if isinstance(value, Buffer) and value.owner.address in self.places:
                self.end_others(value)
        super().launch(kernel, grid, block, args, shared)

    def end_others(self, used):
        name, (offset, _) = self.places[used.owner.address]
        first = offset + used.address - used.owner.address
        end = first + used.nbytes
        for address, (other, (start, size)) in self.places.items():
            low, high = max(first, start), min(end, start + size)
            if other != name and low < high:
                nbytes = self.memory.find(address, address + 1).nbytes
                high = min(high, start + nbytes)
                if low < high:
                    self.memory.forget(address + low - start, high - low)

    def read(self, buffer):
        if buffer.owner.address in self.places:
            offset = buffer.address - buffer.owner.address
            written = self.memory.written[buffer.owner.address]
            held = written.whole or written.holds(offset + np.arange(buffer.nbytes), 1).all()
            assert held, f"{self.places[buffer.owner.address][0]} is read after its reuse"
        return super().read(buffer)


def run(model, ids):
    """Chunks of several sizes, steps and taps."""
    taps = model.taps(ids)
    model.taps(ids[:1])
    return model.greedy_ids(ids, 3), taps["result_output"]


@pytest.mark.parametrize(
    "name, activation, fuse",
    [
        ("gemma3_Q4_K_M", "int8", True),
        pytest.param("gemma3_Q4_K_M", "int8", set(FUSIONS), marks=pytest.mark.slow),
        ("qwen2moe", "float", True),
        ("mamba", "float", True),
        ("rwkv7", "float", True),
    ],
)
def test_no_buffer_is_read_after_it_was_reused(name, activation, fuse):
    device, ids = Forgetting(), golden_tokens(name, "short")[:5]
    model = load(name, device, activation, fuse=fuse)
    shared = sum(size for _, size in model.walk.plan.places.values()) - model.walk.plan.size
    assert shared > 0
    device.follow(model.walk.plan.places)
    chosen, logits = run(model, ids)
    plain_device = EmulatorDevice()
    plain_device.chunk = device.chunk
    plain = load(name, plain_device, activation, fuse=fuse)
    assert plain.greedy_ids(ids, 3) == chosen
    assert np.array_equal(plain.logits(ids), logits)


def test_a_lifetime_that_is_an_operation_too_short_is_noticed(monkeypatch):
    made = []

    def keep(sizes, lives):
        made.append((sizes, lives))
        return plan(sizes, lives)

    monkeypatch.setattr(arena, "plan", keep)
    device, ids = Forgetting(), golden_tokens("gemma3_Q4_K_M", "short")[:5]
    model = load("gemma3_Q4_K_M", device, "int8")
    ((sizes, lives),) = made
    noticed = []
    for name, moments in lives.items():
        short = {moment for moment in moments if moment + 1 in moments}
        found = plan(sizes, lives)
        freed = [n for n in lives if n != name and short.isdisjoint(lives[n])]
        wrong = [n for n in freed if not moments.isdisjoint(lives[n])]
        if wrong:  # these two share memory of their own, as the shorter life allows
            together = {n: (found.size, max(sizes[name], sizes[n])) for n in (name, wrong[0])}
            device.follow(found.places | together)
            with pytest.raises((KernelFault, AssertionError), match=r"written|reuse"):
                run(model, ids)
            noticed.append(name)
    assert len(noticed) >= 5, noticed


# What a model does with it ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name, activation", [("gemma3_Q4_K_M", "int8"), ("qwen2moe", "float"),
                                              ("rwkv6", "float")])  # fmt: skip
def test_sharing_changes_no_number(name, activation):
    ids = golden_tokens(name, "long")[:14]
    found = []
    for shares in (True, False):
        device = CpuDevice()
        device.shares, device.chunk = shares, 12
        model = load(name, device, activation)
        found.append((model.taps(ids), model.taps(ids[:1]), model.greedy_ids(ids, 3)))
    (taps, first, chosen), (taps_apart, first_apart, chosen_apart) = found
    assert chosen == chosen_apart
    assert all(np.array_equal(taps[n], taps_apart[n]) for n in taps)
    assert all(np.array_equal(first[n], first_apart[n]) for n in first)


@pytest.mark.parametrize("graph", [True, False])
def test_nothing_is_allocated_in_a_step(graph, monkeypatch):
    name, device = "gemma3_Q4_K_M", CpuDevice()
    model = zerfoo_numba.load_model(GOLDEN / name / "model.gguf", device=device, graph=graph)

    def refuse(nbytes, name, element):
        raise AssertionError(f"{nbytes} bytes for {name} are allocated in a step")

    monkeypatch.setattr(device, "allocate", refuse)
    model.prefill(golden_tokens(name, "long"))
    model.greedy_start()
    model.continue_greedy(3)
    model.decode(5)

"""Random small kernels: a Numba kernel and its meaning in NumPy, printed from one random program.

In NumPy a statement runs on all threads at once under a mask of those that have come to it.
"""

import random

from tests.ptx.random_expressions import (
    ARRAYS,
    ELEMENTS,
    LIMIT,
    LOCAL,
    Expression,
    Expressions,
    binary,
    cast,
    number,
)

BLOCKS = 3
SLOTS = 6  # results of each thread; the last two are written on the way
PARAMETERS = ", ".join(["out", *ARRAYS, "n0", "n1"])
_HEAD = '''"""Seed {seed}, blocks of {threads} threads."""

import math

import numpy as np
from numba import cuda
from numba.cuda.types import float32, float64, int32, uint8, uint16, uint32, uint64

from tests.ptx.random_expressions import bit_reverse, leading_zeros, shifted

FULL = 0xFFFFFFFF


@cuda.jit
def kernel({parameters}):
    t = uint32(cuda.threadIdx.x)
    block = uint32(cuda.blockIdx.x)
    i = uint32(uint32(block * uint32({threads})) + t)
    lane = uint32(t & uint32(31))
    box = cuda.shared.array(128, uint32)
    own = cuda.local.array({local}, uint32)
    for k in range({local}):
        own[k] = uint32(k)
    u0, u1, u2 = words[i], uint32(i * uint32(3)), n0
    i0, i1, i2 = int32(lane), int32(-5), int32(words[t])
    w0, w1 = longs[i], uint64(t)
    f0, f1, f2 = float32(1.0), floats[i], float32(int32(t))
'''
_NUMPY_HEAD = """

def expected({parameters}):
    total = {total}
    i = np.arange(total, dtype=np.uint32)
    t, block = i % np.uint32({threads}), i // np.uint32({threads})
    lane = t & np.uint32(31)
    n0, n1 = np.full(total, n0), np.full(total, n1)
    own = np.tile(np.arange({local}, dtype=np.uint32), (total, 1))
    u0, u1, u2 = words[i], i * np.uint32(3), n0
    i0, i1, i2 = lane.astype(np.int32), np.full(total, -5, np.int32), words[t].astype(np.int32)
    w0, w1 = longs[i], t.astype(np.uint64)
    f0, f1, f2 = np.ones(total, np.float32), floats[i], t.astype(np.float32)
    m0 = np.ones(total, bool)
"""


class Program(Expressions):
    """`text` is a module with `kernel` and `expected`, for BLOCKS blocks of `threads` threads."""

    def __init__(self, seed):
        super().__init__(random.Random(seed))
        self.threads = self.rng.choice((128, 96, 64, 32, 50, 40))
        self.kernel, self.numpy = [], []
        self.indents = [1, 1]
        self.names = 0
        self.together = True  # no thread has gone another way
        self.exited = False  # some thread may have returned
        self.turning = 0  # loops around whose next turn may need all threads
        self.loop = None  # of the innermost loop that may be left: masks `done` and `rest`
        self.statements("m0", self.rng.randrange(6, 11), 3)
        self._end()
        sizes = {"threads": self.threads, "total": BLOCKS * self.threads, "local": LOCAL}
        head, numpy_head = (
            text.format(seed=seed, parameters=PARAMETERS, **sizes) for text in (_HEAD, _NUMPY_HEAD)
        )
        self.text = "".join([head, *self.kernel, numpy_head, *self.numpy])

    # ---- text

    def name(self, prefix):
        self.names += 1
        return f"{prefix}{self.names}"

    def both(self, kernel, *numpy):
        if kernel:
            self.kernel.append("    " * self.indents[0] + kernel + "\n")
        self.numpy += ["    " * self.indents[1] + line + "\n" for line in numpy]

    def assign(self, mask, name, e):
        numpy = f"np.where({mask}, {e.numpy}, {name})"
        self.both(f"{name} = {e.numba}", f"{name} = {numpy}")

    def store(self, mask, slot, e):
        at = f"out[uint32(uint32(i * uint32({SLOTS})) + uint32({slot}))]"
        value = f"np.broadcast_to({e.numpy}, total)[{mask}]"
        self.both(f"{at} = {e.numba}", f"out[i[{mask}] * {SLOTS} + {slot}] = {value}")

    # ---- statements

    def statements(self, mask, count, depth):
        for _ in range(count):
            ways = [self._assignment] * 5 + [self._store, self._own, self._guarded]
            if depth > 0:
                ways += [self._if] * 3 + [self._for] * 2 + [self._while]
            if self.together and not self.exited:
                ways += [self._shuffle, self._vote] * (self.threads % 32 == 0)
                ways += [self._exchange, self._count]
            elif self.loop or (not self.turning and self.rng.randrange(4) == 0):
                ways += [self._leave] * 2
            self.rng.choice(ways)(mask, depth)

    def _assignment(self, mask, depth):
        kind = self.rng.choice(("u32", "u32", "u32", "i32", "f32", "u64"))
        e = self.make(kind, 3)
        if kind == "f32" and e.bound > LIMIT:
            e = cast("f32", binary("i32", "&", cast("i32", e), number("i32", LIMIT - 1)))
        self.assign(mask, self.rng.choice(self.variables[kind]), e)

    def _store(self, mask, depth):
        self.store(mask, self.rng.choice((4, 5)), self.make("u32", 2))

    def _own(self, mask, depth):
        at = binary("u32", "&", self._leaf("u32"), number("u32", LOCAL - 1))
        e = self.make("u32", 2)
        value = f"np.broadcast_to({e.numpy}, total)[{mask}]"
        place = f"own[i[{mask}], np.broadcast_to({at.numpy}, total)[{mask}]]"
        self.both(f"own[{at.numba}] = {e.numba}", f"{place} = {value}")

    def _guarded(self, mask, depth):
        """An element number that wraps around in the threads that do not use it."""
        first, name = number("u32", self._small()), self.rng.choice(self.variables["u32"])
        at = binary("u32", "-", Expression("t", "t"), first)
        inner = self.name("m")
        self.both(f"if {at.numba} < uint32({self.threads}):")
        self.numpy.append(
            "    " * self.indents[1]
            + f"{inner} = {mask} & ({at.numpy} < np.uint32({self.threads}))\n"
        )
        self.indents[0] += 1
        load = Expression(f"words[{at.numba}]", f"words[{at.numpy} % np.uint32({ELEMENTS})]")
        self.assign(inner, name, load)
        self.indents[0] -= 1

    def _if(self, mask, depth):
        condition, yes, no = self.condition(2), self.name("m"), self.name("m")
        self.both(
            "", f"{no} = {condition.numpy}", f"{yes} = {mask} & {no}", f"{no} = {mask} & ~{no}"
        )
        together, self.together = self.together, False
        self.both(f"if {condition.numba}:")
        self._inside(yes, depth, 1, 0)
        if self.rng.randrange(2):
            self.both("else:")
            self._inside(no, depth, 1, 0)
        self.both("", f"{mask} = {yes} | {no}")
        self.together = together

    def _inside(self, mask, depth, *indents):
        """The statements of a nested block; its indentation in both texts."""
        self.indents = [a + b for a, b in zip(self.indents, indents, strict=True)]
        self.statements(mask, self.rng.randrange(1, 4), depth - 1)
        self.indents = [a - b for a, b in zip(self.indents, indents, strict=True)]

    def _for(self, mask, depth):
        counter, turns = self.name("c"), self.rng.randrange(4)
        limit = number("u32", self.rng.randrange(1, 6))
        if turns == 1:
            limit = binary("u32", "&", Expression("n1", "n1"), number("u32", 3))
        elif turns > 1:
            limit = binary("u32", "&", self._leaf("u32"), number("u32", 7))
        index = self.name("k")
        self._repeat(
            mask, depth, turns < 2, f"for {index} in range(int32({limit.numba})):",
            f"{counter} < {counter}_limit", f"{counter} = uint32({index})", counter, limit,
        )  # fmt: skip

    def _while(self, mask, depth):
        counter, condition = self.name("c"), self.condition(2)
        self.both(f"{counter} = uint32(0)")
        self._repeat(
            mask, depth, False, f"while {condition.numba} and {counter} < uint32(9):",
            f"({condition.numpy}) & ({counter} < np.uint32(9))",
            f"{counter} = uint32({counter} + uint32(1))", counter, None,
        )  # fmt: skip

    def _repeat(self, mask, depth, uniform, head, test, first, counter, limit):
        """A loop: `uniform` when all threads make the same turns and none leaves early."""
        body, done, rest = self.name("m"), self.name("done"), self.name("rest")
        outer, together = self.loop, self.together
        self.together = together and uniform and not self.exited
        self.loop = None if self.together else (done, rest)
        self.turning += self.together
        self.both(head, f"{body}, {done} = {mask}.copy(), np.zeros(total, bool)",
                  f"{counter} = np.zeros(total, np.uint32)")  # fmt: skip
        if limit is not None:
            self.both("", f"{counter}_limit = np.broadcast_to({limit.numpy}, total)")
        self.both("", "while True:")
        self.indents = [n + 1 for n in self.indents]
        step = f"{counter} = {counter} + np.uint32(1)"
        early = [step] if limit is None else []
        self.both(
            first, f"{done} |= {body} & ~({test})", f"{body} = {body} & ({test})",
            f"if not {body}.any():", "    break", f"{rest} = np.zeros(total, bool)", *early,
        )  # fmt: skip
        self.counters.append(counter)
        self._inside(body, depth, 0, 0)
        self.counters.pop()
        self.both("", f"{body} = {body} | {rest}", *([] if early else [step]))
        self.indents = [n - 1 for n in self.indents]
        self.both("", f"{mask} = {done}")
        self.turning -= self.together
        self.loop, self.together = outer, together

    def _leave(self, mask, depth):
        """break, continue or return, under a condition."""
        ways = ["break", "continue"] * 3 if self.loop else []
        way = self.rng.choice(ways + ["return"] * (not self.turning))
        condition = self.condition(2)
        leaving = self.name("m")
        self.both(f"if {condition.numba}:", f"{leaving} = {mask} & {condition.numpy}")
        self.both(f"    {way}", f"{mask} = {mask} & ~{leaving}")
        if way == "return":
            self.exited = True
        else:
            into = self.loop[way == "continue"]
            self.both("", f"{into} |= {leaving}")

    # ---- threads together

    def _shuffle(self, mask, depth):
        name, e = self.rng.choice(self.variables["i32"]), self.make("i32", 2)
        distance = self.rng.randrange(1, 32)
        verb, source = self.rng.choice((
            ("xor", f"lambda n: n ^ {distance}"), ("down", f"lambda n: n + {distance}"),
            ("", f"lambda n: np.full(32, {distance})"),
        ))  # fmt: skip
        verb = f"shfl_{verb}_sync" if verb else "shfl_sync"
        numba = f"int32(cuda.{verb}(FULL, {e.numba}, {distance}))"
        self.assign(
            mask, name, Expression(numba, f"shifted(np.broadcast_to({e.numpy}, total), {source})")
        )

    def _vote(self, mask, depth):
        name, e = self.rng.choice(self.variables["u32"]), self.condition(2)
        votes = f"np.packbits(np.broadcast_to({e.numpy}, total), bitorder='little').view('<u4')"
        numba = f"uint32(cuda.ballot_sync(FULL, {e.numba}))"
        self.assign(mask, name, Expression(numba, f"{votes}.repeat(32)"))

    def _exchange(self, mask, depth):
        name, e = self.rng.choice(self.variables["u32"]), self.make("u32", 2)
        distance, T = self.rng.randrange(1, self.threads), self.threads
        self.both(f"box[t] = {e.numba}")
        self.both("cuda.syncthreads()")
        at = f"box[uint32(uint32(t + uint32({distance})) % uint32({T}))]"
        rows = f"np.broadcast_to({e.numpy}, total).reshape(-1, {T})"
        self.assign(mask, name, Expression(at, f"np.roll({rows}, -{distance}, 1).reshape(-1)"))
        self.both("cuda.syncthreads()")

    def _count(self, mask, depth):
        name, e = self.rng.choice(self.variables["i32"]), self.condition(2)
        rows = f"np.broadcast_to({e.numpy}, total).reshape(-1, {self.threads})"
        counts = f"{rows}.sum(1).repeat({self.threads}).astype(np.int32)"
        numba = f"int32(cuda.syncthreads_count(int32({e.numba})))"
        self.assign(mask, name, Expression(numba, counts))

    def _end(self):
        """The variables, mixed by type, to the first slots."""

        def mixed(kind):
            e = Expression(*[self.variables[kind][0]] * 2)
            for other in self.variables[kind][1:]:
                seven = binary(kind, "*", Expression(other, other), number(kind, 7))
                e = binary(kind, "+", binary(kind, "*", e, number(kind, 3)), seven)
            return e

        floats = cast("u32", cast("i32", mixed("f32")))
        long = mixed("u64")
        high = cast("u32", binary("u64", ">>", long, number("u64", 32)))
        long = binary("u32", "^", cast("u32", long), high)
        for slot, e in enumerate((mixed("u32"), cast("u32", mixed("i32")), floats, long)):
            self.store("m0", slot, e)

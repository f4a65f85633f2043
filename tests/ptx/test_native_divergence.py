"""Lanes that go different ways on the native engine: branches, loops, early exits, part warps."""

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import float32, int32, uint32

from tests.ptx.native_agree import LEVELS, agree, assembled

SIZES = (128, 96, 50, 40)
ROWS = 3  # blocks


@cuda.jit
def collatz(x, out):
    i = uint32(cuda.grid(1))
    value, steps = uint32(x[i] & 1023) + uint32(1), uint32(0)
    while value != uint32(1):
        if value & uint32(1):
            value = uint32(uint32(value * uint32(3)) + uint32(1))
        else:
            value = uint32(value >> uint32(1))
        steps = uint32(steps + uint32(1))
    out[i] = steps


@cuda.jit
def nested(x, out):
    """Loops in loops with breaks and continues, and trip counts from data."""
    i = uint32(cuda.grid(1))
    total = uint32(0)
    for a in range(int32(x[i] & 7)):
        if a == 3 and x[i] & 16:
            continue
        b = uint32(x[uint32(i ^ uint32(5))] & 15)
        while b:
            total = uint32(total * uint32(5) + uint32(b * uint32(a + 1)))
            if (total & uint32(63)) == uint32(9):
                break
            for c in range(int32(b & uint32(3))):
                total = uint32(total ^ uint32(x[uint32((i + uint32(c)) & uint32(31))] >> uint32(c)))
                if total & uint32(1024):
                    break
            b = uint32(b - uint32(1))
        if total & uint32(0x8000):
            break
    out[i] = total


@cuda.jit
def tangle(x, out):
    """Different inner loops on the two sides, accesses and divisions by data, an early return."""
    i = uint32(cuda.grid(1))
    value = uint32(x[i])
    if value % uint32(11) == uint32(0):
        out[i] = uint32(77)
        return
    total = float32(0.0)
    if value & uint32(2):
        k = uint32(value % uint32(7))
        while k < uint32(20):
            total += float32(int32(x[uint32(uint32(i + k) % uint32(40))] & 255))
            k = uint32(k + uint32(1) + uint32(value & uint32(1)))
    else:
        for k in range(int32(value & uint32(3)) + 1):
            total -= float32(int32(uint32(value // uint32(k + 3)) & uint32(1023)))
        if total < float32(-600.0):
            out[i] = uint32(i)
            return
    out[i] = uint32(int32(total))


@cuda.jit
def uniform_then_not(x, out):
    """A loop that is uniform in fact but not provably, with one divergent turn in the middle."""
    i = uint32(cuda.grid(1))
    total = uint32(0)
    turn = uint32(0)
    while turn < uint32(x[0] & 31) + uint32(2):
        word = x[uint32(turn * uint32(cuda.blockDim.x) & uint32(63)) + uint32(i & uint32(31))]
        if turn == uint32(3):
            if word & 1:
                total = uint32(total + word)
            else:
                total = uint32(total ^ uint32(word * uint32(3)))
        total = uint32(uint32(total << uint32(3)) - uint32(word >> uint32(turn & uint32(7))))
        turn = uint32(turn + uint32(1))
    out[i] = total


@cuda.jit
def lanes(x, out):
    """Branches on the lane alone: one lane, a part of the warp, whole warps."""
    t = uint32(cuda.threadIdx.x)
    i = uint32(cuda.grid(1))
    lane = uint32(t & uint32(31))
    value = uint32(x[i])
    if lane == uint32(0):
        value = uint32(value + uint32(1000))
    if lane < uint32(9):
        value = uint32(value * uint32(3))
    elif t >= uint32(32):
        value = uint32(value + t)
    if t == uint32(37) or lane >= uint32(30):
        value = uint32(~value)
    while lane < uint32(40):
        value = uint32(uint32(value * uint32(7)) + lane)
        lane = uint32(lane + uint32(16))
    out[i] = value


@pytest.mark.parametrize("threads", SIZES)
@pytest.mark.parametrize("kernel", [collatz, nested, tangle, uniform_then_not, lanes])
def test_divergence(kernel, threads):
    x = np.random.default_rng(threads).integers(0, 1 << 32, ROWS * 128, np.uint32)
    out = np.zeros(ROWS * 128, np.uint32)
    agree(kernel, ROWS, threads, x, out, levels=LEVELS if threads == 50 else ["host"])


@pytest.mark.parametrize("kernel", [collatz, nested, tangle])
def test_lanes_that_all_go_the_same_way(kernel):
    x = np.repeat(np.random.default_rng(9).integers(0, 1 << 32, 3, np.uint32), 128)
    agree(kernel, 3, 128, x, np.zeros_like(x))


@pytest.mark.parametrize("block", [(8, 4), (5, 3, 2), (1, 33), (16, 2, 4), (3, 1, 11)])
def test_blocks_of_several_dimensions(block):
    @cuda.jit
    def indices(out):
        x, y, z = cuda.threadIdx.x, cuda.threadIdx.y, cuda.threadIdx.z
        n = x + cuda.blockDim.x * (y + cuda.blockDim.y * z)
        b = cuda.blockIdx.x + cuda.gridDim.x * (cuda.blockIdx.y + cuda.gridDim.y * cuda.blockIdx.z)
        threads = cuda.blockDim.x * cuda.blockDim.y * cuda.blockDim.z
        out[uint32(b * threads + n)] = x + 100 * y + 10000 * z + 1000000 * b

    size = int(np.prod(block)) * 12
    (out,) = agree(indices, (2, 3, 2), block, np.zeros(size, np.int32))
    assert len(np.unique(out)) == size


def test_a_switch_over_lanes():
    """brx.idx: every lane its own way, several to each target, and a whole warp to one."""
    body = [
        "cases: .branchtargets zero, one, two, three;",
        "mad.wide.u32 %at, %number, 4, %a; ld.global.u32 %x, [%at]; mov.u32 %y, %x;",
        "and.b32 %index, %x, 3; brx.idx %index, cases;",
        "zero: add.u32 %y, %y, %tid; bra.uni end;",
        "one: mul.lo.u32 %y, %y, 3; bra.uni end;",
        "two: shr.u32 %y, %y, 5;",
        "three: xor.b32 %y, %y, 0x55555555;",
        "end: mad.wide.u32 %at, %number, 4, %b; st.global.u32 [%at], %y;",
    ]
    declared = [".reg .b32 %x, %y, %index;", ".reg .b64 %at;"]
    x = np.random.default_rng(11).integers(0, 1 << 32, 128, np.uint32)
    x[32:64] = x[32:64] & ~np.uint32(3) | 2
    x[64:96] = 8
    _, out = agree(assembled(body, declared), 1, 128, x, np.zeros_like(x), levels=LEVELS)
    ways = [x + np.arange(128, dtype=np.uint32), x * 3, x >> 5 ^ 0x55555555, x ^ 0x55555555]
    assert (out == np.choose(x & 3, ways)).all()


def test_guarded_instructions():
    body = [
        "mad.wide.u32 %at, %number, 4, %a; ld.global.u32 %x, [%at];",
        "mad.wide.u32 %to, %number, 4, %b;",
        "setp.gt.s32 %p, %x, 0; setp.lt.u32 %q|%r, %tid, 7;",
        "@%p add.u32 %x, %x, 1; @!%p mul.lo.u32 %x, %x, 3;",
        "@%q st.global.u32 [%to], %x; @%r st.global.u32 [%to], %tid;",
        "@!%q ld.global.u32 %x, [%a]; @%p exit; st.global.u32 [%to], %x;",
    ]
    declared = [".reg .b32 %x;", ".reg .b64 %at, %to;", ".reg .pred %p, %q, %r;"]
    x = np.random.default_rng(12).integers(-99, 99, 128, np.int32)
    agree(assembled(body, declared), 2, 50, x, np.zeros_like(x), levels=LEVELS)

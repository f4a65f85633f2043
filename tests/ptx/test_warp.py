"""Shuffles, votes, matches, reductions and tensor instructions of a warp."""

import numpy as np
import pytest
from numba import cuda, float32, int32
from numba.cuda import types

from zerfoo_numba import ptx
from zerfoo_numba.ptx.compile import ptx_op
from zerfoo_numba.ptx.emulator import KernelFault

u16, u32, i32, u64, f32 = types.uint16, types.uint32, types.int32, types.uint64, types.float32
LANE = np.arange(32)


def shuffled(mode, x, b, c):
    """The definition of shfl in the PTX ISA, lane by lane."""
    out, inside = np.zeros_like(x), np.zeros(32, bool)
    segment, limit = c >> 8 & 31, c & 31
    for lane in range(32):
        low, high = lane & segment, (lane & segment) | (limit & ~segment & 31)
        source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b}.get(mode)
        if mode == "idx":
            source = low | (b & ~segment & 31)
        inside[lane] = source >= high if mode == "up" else source <= high
        out[lane] = x[source] if inside[lane] else x[lane]
    return out, inside


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize(
    ("b", "c"), [(1, 31), (5, 31), (16, 31), (3, 0x181F), (2, 0), (31, 0x1C07)]
)
def test_shuffle_modes_with_their_predicate(mode, b, c):
    if mode == "up":
        c &= ~31
    op = ptx_op(
        (i32, u32), (i32, u32, u32),
        f"{{ .reg .pred p; shfl.sync.{mode}.b32 $0|p, $2, $3, $4, -1;"
        " selp.u32 $1, 1, 0, p; }",
        volatile=True,
    )  # fmt: skip

    @cuda.jit
    def kernel(x, out, inside, b, c):
        i = cuda.grid(1)
        out[i], inside[i] = op(x[i], b, c)

    x = np.random.default_rng(0).integers(-1000, 1000, 64).astype(np.int32)
    out, inside = np.zeros(64, np.int32), np.zeros(64, np.uint32)
    ptx.emulate(kernel, 1, 64, x, out, inside, np.uint32(b), np.uint32(c))
    for half in (0, 32):
        value, within = shuffled(mode, x[half : half + 32], b, c)
        assert (out[half : half + 32] == value).all()
        assert (inside[half : half + 32] == within).all()


@cuda.jit
def read_lane(x, source, out):
    i = cuda.grid(1)
    out[i] = cuda.shfl_sync(0xFFFFFFFF, x[i], source[i])


def test_a_shuffle_with_a_source_of_each_lane():
    rng = np.random.default_rng(0)
    x, source = rng.integers(0, 99, 128).astype(np.int32), rng.integers(0, 32, 128).astype(np.int32)
    out = np.zeros(128, np.int32)
    ptx.emulate(read_lane, 2, 64, x, source, out)
    assert (out == np.take_along_axis(x.reshape(-1, 32), source.reshape(-1, 32), 1).ravel()).all()


@cuda.jit
def partial(x, out):
    """The first 10 lanes of each warp exchange values among themselves."""
    i = cuda.grid(1)
    lane = cuda.threadIdx.x & 31
    if lane < 10:
        out[i] = cuda.shfl_down_sync(0x3FF, x[i], 2)
    else:
        out[i] = -1


def test_a_shuffle_of_some_lanes():
    x, out = np.arange(96, dtype=np.int32), np.zeros(96, np.int32)
    ptx.emulate(partial, 1, 96, x, out)
    lane = np.arange(96) % 32
    assert (out[lane < 8] == x[lane < 8] + 2).all()
    assert (out[lane >= 10] == -1).all()


@cuda.jit
def votes(x, out):
    i = cuda.grid(1)
    out[i, 0] = cuda.all_sync(0xFFFFFFFF, x[i])
    out[i, 1] = cuda.any_sync(0xFFFFFFFF, x[i])
    out[i, 2] = cuda.eq_sync(0xFFFFFFFF, x[i])
    out[i, 3] = cuda.ballot_sync(0xFFFFFFFF, x[i])
    out[i, 4] = cuda.activemask()


@pytest.mark.parametrize("threads", [64, 40])
def test_votes(threads):
    x = np.random.default_rng(2).integers(0, 2, 3 * threads).astype(np.int32)
    x[:threads], x[threads : threads + 32] = 1, 0
    out = np.zeros((3 * threads, 5), np.uint32)
    ptx.emulate(votes, 3, threads, x, out)
    for block in range(3):
        for start in range(0, threads, 32):
            at = slice(block * threads + start, block * threads + min(start + 32, threads))
            flags = x[at]
            bits = int((flags.astype(np.uint64) << np.arange(len(flags), dtype=np.uint64)).sum())
            expected = [
                flags.all(), flags.any(), flags.min() == flags.max(), bits, (1 << len(flags)) - 1,
            ]  # fmt: skip
            assert (out[at] == np.array(expected, np.uint64)).all()


@cuda.jit
def vote_of_mask(x, mask, out):
    i = cuda.grid(1)
    if mask[i] >> (i & 31) & 1:
        out[i] = cuda.ballot_sync(mask[i], x[i])


def test_a_vote_with_a_mask_in_a_register():
    x = np.random.default_rng(3).integers(0, 2, 64).astype(np.int32)
    halves = np.where(np.arange(64) % 32 < 16, 0xFFFF, 0xFFFF0000)
    mask = np.where(np.arange(64) < 32, halves, 0x0F0F0F0F).astype(np.uint32)
    out = np.zeros(64, np.uint32)
    ptx.emulate(vote_of_mask, 1, 64, x, mask, out)
    for lane in range(64):
        warp = x[lane // 32 * 32 :][:32].astype(np.uint64)
        bits = int((warp << LANE.astype(np.uint64)).sum()) & int(mask[lane])
        assert out[lane] == (bits if mask[lane] >> (lane % 32) & 1 else 0)


match_all_32 = ptx_op(
    (u32, u32), (i32,),
    "{ .reg .pred p; match.all.sync.b32 $0|p, $2, -1; selp.u32 $1, 1, 0, p; }", volatile=True,
)  # fmt: skip


@cuda.jit
def matches(x, y, out):
    i = cuda.grid(1)
    out[i, 0] = cuda.match_any_sync(0xFFFFFFFF, x[i])
    out[i, 1], out[i, 2] = match_all_32(int32(x[i]))
    out[i, 3] = cuda.match_any_sync(0xFFFFFFFF, y[i])


def test_matches_of_32_and_64_bits():
    rng = np.random.default_rng(4)
    x = rng.integers(0, 5, 64).astype(np.int32)
    x[32:] = 3
    y = rng.integers(0, 3, 64) << 40 | rng.integers(0, 2, 64)
    out = np.zeros((64, 4), np.uint32)
    ptx.emulate(matches, 1, 64, x, y, out)
    bit = 1 << LANE
    for lane in range(64):
        warp = slice(lane // 32 * 32, lane // 32 * 32 + 32)
        agree = lane >= 32
        assert out[lane, 0] == bit[x[warp] == x[lane]].sum()
        assert tuple(out[lane, 1:3]) == (0xFFFFFFFF * agree, agree)
        assert out[lane, 3] == bit[y[warp] == y[lane]].sum()


@pytest.mark.parametrize("threads", [64, 44])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("add.s32", np.sum), ("min.s32", np.min), ("max.s32", np.max),
        ("and.b32", np.bitwise_and.reduce), ("or.b32", np.bitwise_or.reduce),
        ("xor.b32", np.bitwise_xor.reduce),
    ],
)  # fmt: skip
def test_reductions(name, expected, threads):
    op = ptx_op((i32,), (i32,), f"redux.sync.{name} $0, $1, -1;", volatile=True)

    @cuda.jit
    def kernel(x, out):
        i = cuda.grid(1)
        out[i] = op(x[i])

    x = np.random.default_rng(5).integers(-(2**31), 2**31, 2 * threads).astype(np.int32)
    out = np.zeros_like(x)
    ptx.emulate(kernel, 2, threads, x, out)
    for block in range(2):
        for start in range(0, threads, 32):
            at = slice(block * threads + start, block * threads + min(start + 32, threads))
            assert (out[at] == np.int64(expected(x[at])).astype(np.int32)).all()


@pytest.mark.parametrize("first", [0, 5])
def test_one_lane_is_elected(first):
    op = ptx_op(
        (u32, u32), (u32,),
        "{ .reg .pred p; elect.sync $0|p, $2; selp.u32 $1, 1, 0, p; }", volatile=True,
    )  # fmt: skip

    @cuda.jit
    def kernel(leader, is_leader, mask, first):
        i = cuda.grid(1)
        if cuda.threadIdx.x & 31 >= first:
            leader[i], is_leader[i] = op(mask)

    leader, is_leader = np.full(64, 99, np.uint32), np.full(64, 99, np.uint32)
    mask = np.uint32(0xFFFFFFFF << first & 0xFFFFFFFF)
    ptx.emulate(kernel, 1, 64, leader, is_leader, mask, np.int32(first))
    lane = np.arange(64) % 32
    assert (leader[lane >= first] == first).all()
    assert (is_leader[lane >= first] == (lane == first)[lane >= first]).all()


def test_a_shuffle_that_some_lanes_never_reach_is_a_deadlock():
    @cuda.jit
    def kernel(x):
        lane = cuda.threadIdx.x
        if lane < 16:
            x[lane] = cuda.shfl_xor_sync(0xFFFFFFFF, x[lane], 1)
        else:
            cuda.syncthreads()
            x[lane] = 0

    with pytest.raises(KernelFault, match="never come to this"):
        ptx.emulate(kernel, 1, 32, np.zeros(32, np.int32), checks=False)


@cuda.jit
def warp_exchange(x, out):
    shared = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    shared[t] = x[t]
    cuda.syncwarp()
    out[t] = shared[t ^ 1]


def test_a_warp_barrier_orders_shared_memory():
    x, out = np.random.default_rng(6).random(64).astype(np.float32), np.zeros(64, np.float32)
    ptx.emulate(warp_exchange, 1, 64, x, out)
    assert (out == x[np.arange(64) ^ 1]).all()


@cuda.jit
def one_sided_barriers(out):
    """Both sides of a branch wait for the whole warp, each at its own bar.warp.sync."""
    lane = cuda.threadIdx.x
    if lane < 7:
        out[lane] = 1
        cuda.syncwarp()
    else:
        out[lane] = 2
        cuda.syncwarp()
        out[lane] += 1


def test_warp_barriers_on_both_sides_of_a_branch_match():
    out = np.zeros(32, np.int32)
    ptx.emulate(one_sided_barriers, 1, 32, out)
    assert (out == np.where(LANE < 7, 1, 3)).all()

"""matvec_prologue, matvec_gated_prologue: products of one token that make their operand themselves.

What `matvec_int8`, `matvec_group` and `matvec_gated` make of one, of two or three, and of a gated
pair of matrices, after the steps of `prologue`: in one launch, and equal to them bit for bit.

version 1: every block repeats the steps in shared memory, with all of its 8 warps. So that few
blocks do, teams of warps take the rows that `matvec_int8` gives to blocks, one group of rows after
another.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, blocks, matvec_group, prologue
from zerfoo_numba.kernels.matvec_group import ACTS, dealt, flags, make_part, of_three, over_lanes
from zerfoo_numba.kernels.matvec_int8 import make_store
from zerfoo_numba.kernels.prologue import THREADS, WARPS, padded_to, prepare, shared_bytes
from zerfoo_numba.kernels.warp import lane_id, madd, warp_id
from zerfoo_numba.ptx.instructions import f32_after
from zerfoo_numba.quant.packed import LAYOUTS, ROWS

SHARED_LIMIT = 48 << 10  # of a block that asks for no more than every GPU gives
ROOM = 32 * WARPS
BUSY, MOST = 128, 256  # blocks that a large GPU has work for, and that it runs at once
SINGLES = tuple((name, None, None) for name in LAYOUTS)

device = cuda.jit(device=True, forceinline=True)


def make_chosen(types):
    """`chosen`: `row_part` of matrix number `which`; neighbours of one format share the code."""
    part = make_part(types[0])
    same = next((i for i, name in enumerate(types) if name != types[0]), len(types))
    if same == len(types):

        @device
        def only(which, weight, x, x_scales, group, steps, step, count):
            return part(weight, x, x_scales, group, steps, step, count, uint32(0))

        return only
    others = make_chosen(types[same:])

    @device
    def chosen(which, weight, x, x_scales, group, steps, step, count):
        if which < uint32(same):
            return part(weight, x, x_scales, group, steps, step, count, uint32(0))
        which = uint32(which - uint32(same))
        return others(which, weight, x, x_scales, group, steps, step, count)

    return chosen


@device
def over_team(partial, value, warps, leads):
    """The sum over the warps of a team, in the warp that leads it."""
    if warps == uint32(1):
        return value
    at, total = uint32(cuda.threadIdx.x), float32(0.0)
    partial[at] = value
    cuda.syncthreads()
    if leads:
        end = madd(warps, uint32(32), at)
        while at < end:
            total += partial[at]
            at = uint32(at + uint32(32))
    cuda.syncthreads()
    return total


@device
def groups_of(rows):
    return uint32(uint32(rows + uint32(ROWS - 1)) // uint32(ROWS))


@functools.cache
def make_matvec_prologue_kernel1(types):
    """`types`: the formats of three matrices, the last of them None where there are fewer."""
    chosen, store = make_chosen([name for name in types if name]), make_store(1)

    @cuda.jit
    def matvec_prologue_kernel1(
        out0, out1, out2, weight0, weight1, weight2, bias0, bias1, bias2,
        x, post, residual, total, norm, N0, N1, N2, steps0, steps1, steps2, part0, part1, part2,
        biased, groups, warps, teams, turns, K, mean_factor, eps, steps,
    ):  # fmt: skip
        data, partial = cuda.shared.array(0, uint32, 16), cuda.shared.array(ROOM, float32)
        scales = f32_after(data, padded_to(K))
        prepare(data, scales, x, post, residual, total, norm, K, mean_factor, eps, steps)
        zero, one, warp = uint32(0), uint32(1), warp_id()
        team, member = uint32(warp // warps), uint32(warp % warps)
        first, second = groups_of(N0), groups_of(N1)
        group, turn = madd(uint32(uint32(cuda.blockIdx.x) * turns), teams, team), zero
        while turn < turns:
            live = team < teams and group < groups
            later, last = group >= first, group >= uint32(first + second)
            which = uint32(uint32(later) + uint32(last))
            weight = weight2 if last else (weight1 if later else weight0)
            chunks = steps2 if last else (steps1 if later else steps0)
            part = part2 if last else (part1 if later else part0)
            own = uint32(group - (uint32(first + second) if last else (first if later else zero)))
            value = float32(0.0)
            if live:
                step = uint32(member * part)
                value = chosen(which, weight, data, scales, own, chunks, step, part)
            leads = live and member == zero
            value = over_team(partial, value, warps, leads)
            if leads:
                out = out2 if last else (out1 if later else out0)
                bias = bias2 if last else (bias1 if later else bias0)
                N = N2 if last else (N1 if later else N0)
                flag = uint32(uint32(biased >> which) & one)
                store(out, bias, value, own, zero, zero, N, one, flag)
            group, turn = uint32(group + teams), uint32(turn + one)

    return matvec_prologue_kernel1


@functools.cache
def make_matvec_gated_prologue_kernel1(gate_type, up_type, kind):
    gate_part, up_part, act = make_part(gate_type), make_part(up_type), ACTS[kind]

    @cuda.jit
    def matvec_gated_prologue_kernel1(
        out, gate, up, gate_bias, up_bias, x, post, residual, total, norm,
        N, gate_steps, up_steps, gate_count, up_count,
        biased, groups, warps, teams, turns, K, mean_factor, eps, steps,
    ):  # fmt: skip
        data, partial = cuda.shared.array(0, uint32, 16), cuda.shared.array(ROOM, float32)
        scales = f32_after(data, padded_to(K))
        prepare(data, scales, x, post, residual, total, norm, K, mean_factor, eps, steps)
        zero, one, warp = uint32(0), uint32(1), warp_id()
        team, member = uint32(warp // warps), uint32(warp % warps)
        group, turn = madd(uint32(uint32(cuda.blockIdx.x) * turns), teams, team), zero
        while turn < turns:
            live = team < teams and group < groups
            a, b = float32(0.0), float32(0.0)
            if live:
                step = uint32(member * gate_count)
                a = gate_part(gate, data, scales, group, gate_steps, step, gate_count, zero)
                step = uint32(member * up_count)
                b = up_part(up, data, scales, group, up_steps, step, up_count, zero)
            leads = live and member == zero
            a = over_team(partial, a, warps, leads)
            b = over_team(partial, b, warps, leads)
            if leads:
                lane = lane_id()
                row = madd(group, uint32(ROWS), uint32(lane >> uint32(2)))
                a, b = over_lanes(a), over_lanes(b)
                if uint32(lane & uint32(3)) == zero and row < N:
                    if uint32(biased & one) != zero:
                        a += gate_bias[row]
                    if uint32(biased & uint32(2)) != zero:
                        b += up_bias[row]
                    out[row] = act(a) * b
            group, turn = uint32(group + teams), uint32(turn + one)

    return matvec_gated_prologue_kernel1


def fits(K):
    """Whether a block has room for an operand of K elements."""
    return shared_bytes(K) + 4 * (ROOM + 2 * WARPS) <= SHARED_LIMIT


def _launch(device, kernel, arrays, sizes, biases, groups, warps, x):
    """`arrays` and `sizes` are those of the matrices, `x` the Prologue."""
    teams = min(WARPS // warps, max(1, groups // BUSY))
    turns = blocks(groups, teams * MOST)
    K = x.shape[1]
    sizes = (*sizes, flags(biases), groups, warps, teams, turns, K)
    numbers = (np.float32(1.0 / K), np.float32(x.eps), np.uint32(x.steps))
    args = (*arrays, *x.arrays, *(np.uint32(n) for n in sizes), *numbers)
    device.launch(kernel, blocks(groups, teams * turns), THREADS, args, shared_bytes(K))


def matvec_prologue(device, outs, weights, x, biases):
    """Up to three PackedWeights of as many columns; `x` a Prologue; of the `biases` each may be
    None."""
    warps, parts = dealt(weights)
    kernel = make_matvec_prologue_kernel1(tuple([*(w.type for w in weights), None, None][:3]))
    arrays, sizes = of_three(outs, weights, biases, parts, x.x)
    groups = sum(blocks(w.rows, ROWS) for w in weights)
    _launch(device, kernel, arrays, sizes, biases, groups, warps, x)


def matvec_gated_prologue(device, out, gate, up, x, biases, kind):
    """`gate` and `up` PackedWeights of the same shape; `biases` theirs, each may be None."""
    warps, parts = dealt((gate, up))
    kernel = make_matvec_gated_prologue_kernel1(gate.type, up.type, kind)
    arrays = (out, gate.data, up.data, *(x.x if bias is None else bias for bias in biases))
    sizes = (gate.rows, gate.steps, up.steps, *parts)
    _launch(device, kernel, arrays, sizes, biases, blocks(gate.rows, ROWS), warps, x)


def cost(rows, K, types, steps):
    """Of matrices (N, K) for the N of `rows`, after `steps` of the prologue; the operand is read as
    float32."""
    return _with_prologue(matvec_group.group_cost(rows, K, types), K, steps)


def gated_cost(N, K, types, steps):
    return _with_prologue(matvec_group.gated_cost(N, K, types), K, steps)


def _with_prologue(product, K, steps):
    return product + prologue.cost(K, steps) + Cost(4 * K - K - K // 2, 0)

"""matvec_group, matvec_gated: products of one token with several matrices in one launch.

matvec_group: out_i = weight_i @ x + bias_i for two or three matrices (N_i, K).
matvec_gated: out = act(gate @ x + bias) * (up @ x + bias), with act and kinds as in `activation`.
Weights are packed, each in a format of its own, and stay where they are; x is one row of 8-bit
activations as `quantize` leaves it. Equal, bit for bit, to `matvec_int8` of each (and `gated`).

version 1: the blocks of one matrix after those of another, every row dealt to as many warps as
matvec_int8 gives it; for the gated one a warp takes both its pieces of a row.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels import Cost, activation, blocks, matvec_int8
from zerfoo_numba.kernels.matvec_int8 import WARPS_MOST, chunks_ahead, deal, make_dot, make_store
from zerfoo_numba.kernels.quantize import padded
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id
from zerfoo_numba.quant.packed import LANES_PER_ROW, LAYOUTS, ROWS

device = cuda.jit(device=True, forceinline=True)
ACTS = {"geglu": activation.gelu_tanh, "swiglu": activation.silu}
# The formats that a walk merges: one for all, and what llama.cpp's mixtures give q, k and v.
_ALIKE = ("Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K")
GATED = tuple((name, name) for name in _ALIKE)
GROUPS = (
    *((name, name, name) for name in _ALIKE),
    ("Q4_K", "Q4_K", "Q6_K"),
    ("Q5_K", "Q5_K", "Q6_K"),
    ("Q4_K", "Q4_K", "Q5_K"),
    ("Q5_0", "Q5_0", "Q8_0"),
    ("Q4_K", "Q8_0", "Q8_0"),
    ("Q5_K", "Q8_0", "Q8_0"),
)


def make_part(type_name):
    """`row_part`: a lane's part of the sums of a group of rows, of `part` chunks from `step` on."""
    layout, dot = LAYOUTS[type_name], make_dot(type_name, 1)
    size, blocks_of_chunk = layout.chunk_bytes, LANES_PER_ROW * layout.units

    @device
    def row_part(weight, x, x_scales, group, steps, step, part, row_blocks):
        lane, total = lane_id(), cuda.local.array(1, float32)
        total[0] = float32(0.0)
        if step < steps:
            count = min(part, uint32(steps - step))
            chunk = uint64(uint64(madd(group, steps, step)) * uint64(size))
            block = uint64(madd(step, uint32(blocks_of_chunk), uint32(lane & uint32(3))))
            one, first = uint32(1), uint32(0)
            dot(total, weight, chunk, lane, x, x_scales, block, count, first, row_blocks, one)
        return total[0]

    return row_part


def make_sum(type_name):
    """`row_sum`: a lane's part of the sums of a group of rows, over the warps that share it."""
    row_part = make_part(type_name)

    @device
    def row_sum(weight, x, x_scales, group, steps, part, row_blocks, partial):
        thread, lane = uint32(cuda.threadIdx.x), lane_id()
        step = uint32(warp_id() * part)
        total = row_part(weight, x, x_scales, group, steps, step, part, row_blocks)
        if uint32(cuda.blockDim.x) == uint32(32):
            return total
        partial[thread] = total
        cuda.syncthreads()
        value, at = float32(0.0), lane
        while at < uint32(cuda.blockDim.x):
            value += partial[at]
            at = uint32(at + uint32(32))
        return value

    return row_sum


@functools.cache
def make_matvec_group_kernel1(types):
    """`types`: the formats of three matrices, the last of them None where there are two."""
    sums = [make_sum(name) if name else None for name in types]
    first_sum, second_sum, third_sum = sums[0], sums[1], sums[2] or sums[1]
    store, room = make_store(1), 32 * WARPS_MOST

    @cuda.jit
    def matvec_group_kernel1(
        out0, out1, out2, weight0, weight1, weight2, bias0, bias1, bias2, x, x_scales,
        N0, N1, N2, steps0, steps1, steps2, part0, part1, part2, row_blocks, biased,
    ):  # fmt: skip
        partial = cuda.shared.array(room, float32)
        group, zero, one = uint32(cuda.blockIdx.x), uint32(0), uint32(1)
        groups0, groups1 = uint32(uint32(N0 + uint32(7)) >> uint32(3)), uint32(N1 + uint32(7))
        groups1 = uint32(groups1 >> uint32(3))
        if group < groups0:
            value = first_sum(weight0, x, x_scales, group, steps0, part0, row_blocks, partial)
            if warp_id() == zero:
                store(out0, bias0, value, group, zero, zero, N0, one, uint32(biased & one))
        elif group < uint32(groups0 + groups1):
            group = uint32(group - groups0)
            value = second_sum(weight1, x, x_scales, group, steps1, part1, row_blocks, partial)
            if warp_id() == zero:
                store(out1, bias1, value, group, zero, zero, N1, one, uint32(biased & uint32(2)))
        else:
            group = uint32(group - uint32(groups0 + groups1))
            value = third_sum(weight2, x, x_scales, group, steps2, part2, row_blocks, partial)
            if warp_id() == zero:
                store(out2, bias2, value, group, zero, zero, N2, one, uint32(biased & uint32(4)))

    return matvec_group_kernel1


@device
def over_lanes(value):
    """The sum over the four lanes of a row."""
    value += cuda.shfl_xor_sync(FULL, value, 1)
    return value + cuda.shfl_xor_sync(FULL, value, 2)


@functools.cache
def make_matvec_gated_kernel1(gate_type, up_type, kind):
    gate_sum, up_sum, act, room = (
        make_sum(gate_type),
        make_sum(up_type),
        ACTS[kind],
        32 * WARPS_MOST,
    )

    @cuda.jit
    def matvec_gated_kernel1(
        out, gate, up, gate_bias, up_bias, x, x_scales, N, gate_steps, up_steps, gate_part,
        up_part, row_blocks, biased,
    ):  # fmt: skip
        partial, other = cuda.shared.array(room, float32), cuda.shared.array(room, float32)
        group = uint32(cuda.blockIdx.x)
        a = gate_sum(gate, x, x_scales, group, gate_steps, gate_part, row_blocks, partial)
        b = up_sum(up, x, x_scales, group, up_steps, up_part, row_blocks, other)
        if warp_id() == uint32(0):
            lane = lane_id()
            row = madd(group, uint32(ROWS), uint32(lane >> uint32(2)))
            a, b = over_lanes(a), over_lanes(b)
            if uint32(lane & uint32(3)) == uint32(0) and row < N:
                if uint32(biased & uint32(1)) != uint32(0):
                    a += gate_bias[row]
                if uint32(biased & uint32(2)) != uint32(0):
                    b += up_bias[row]
                out[row] = act(a) * b

    return matvec_gated_kernel1


def dealt(weights):
    """(warps of a row, the parts of each weight)."""
    shares = [deal(w.rows, w.steps, chunks_ahead(w.type, 1)) for w in weights]
    return max(warps for warps, _ in shares), [part for _, part in shares]


def of_three(outs, weights, biases, parts, absent):
    """Outputs, weights and biases, then rows, chunks of a row and parts, as a kernel of up to three
    matrices takes them; the buffer `absent` stands for a bias that is not there."""
    buffers = [absent if bias is None else bias for bias in biases]
    columns = [list(outs), [w.data for w in weights], buffers]
    arrays = [a for column in columns for a in (column + 2 * column[-1:])[:3]]
    columns = [[w.rows for w in weights], [w.steps for w in weights], parts]
    return arrays, [n for column in columns for n in [*column, 0, 0][:3]]


def flags(biases):
    return sum(1 << i for i, bias in enumerate(biases) if bias is not None)


def matvec_group(device, outs, weights, x, biases):
    """Two or three PackedWeights of as many columns; `x` QuantizedRows of one row; of the `biases`
    each may be None."""
    warps, parts = dealt(weights)
    groups = sum(blocks(w.rows, ROWS) for w in weights)
    kernel = make_matvec_group_kernel1(tuple([*(w.type for w in weights), None][:3]))
    arrays, sizes = of_three(outs, weights, biases, parts, x.scales)
    sizes += [padded(weights[0].columns) // 32, flags(biases)]
    args = (*arrays, x.data, x.scales, *(np.uint32(n) for n in sizes))
    device.launch(kernel, groups, 32 * warps, args)


def matvec_gated(device, out, gate, up, x, biases, kind):
    """`gate` and `up` PackedWeights of the same shape; `biases` theirs, each may be None."""
    warps, parts = dealt((gate, up))
    buffers = [x.scales if bias is None else bias for bias in biases]
    sizes = (gate.rows, gate.steps, up.steps, *parts, padded(gate.columns) // 32, flags(biases))
    args = (out, gate.data, up.data, *buffers, x.data, x.scales, *(np.uint32(n) for n in sizes))
    kernel = make_matvec_gated_kernel1(gate.type, up.type, kind)
    device.launch(kernel, blocks(gate.rows, ROWS), 32 * warps, args)


def group_cost(rows, K, types):
    """Of matrices (N, K) for the N of `rows`."""
    each = (matvec_int8.cost(1, N, K, name) for N, name in zip(rows, types, strict=True))
    read_again = (len(rows) - 1) * (K + K // 2)
    return sum(each, Cost(-read_again, 0))


def gated_cost(N, K, types):
    """gate and up (N, K); one output instead of two."""
    return group_cost((N, N), K, types) + Cost(-4 * N, 10 * N)

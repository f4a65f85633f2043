"""The first steps of the guided matvec (bench.guided): Q4_K from a thread per row to whole blocks.

out (N,) = weight (N, K) x (K,), float32; weight in the file's Q4_K layout, K a multiple of 1024.
"""

from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels.warp import lane_id, madd, warp_id, warp_sum
from zerfoo_numba.ptx.instructions import f32_from_f16, load_f32x4, load_u16, load_u32x4
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.kquants import scale_and_min

BLOCK, BYTES = 256, 144  # of a Q4_K super-block: elements, bytes in the file
WARPS = 4
decode = QUANTS["Q4_K"].decode


@cuda.jit
def thread_per_row(out, weight, x, N, K):
    """Step 1: what one would write first. Each thread walks a row of its own."""
    row = madd(uint32(cuda.blockIdx.x), uint32(cuda.blockDim.x), uint32(cuda.threadIdx.x))
    if row < N:
        total = float32(0.0)
        first = uint32(row * uint32(K // uint32(BLOCK)))
        for k in range(K):
            block = uint32(first + uint32(uint32(k) // uint32(BLOCK)))
            value = decode(weight, uint32(block * uint32(BYTES)), uint32(uint32(k) % uint32(BLOCK)))
            total += value * x[uint32(k)]
        out[row] = total


@cuda.jit
def warp_per_row(out, weight, x, N, K):
    """Step 2: the lanes of a warp share a row, so that they read neighbouring bytes together."""
    lane = lane_id()
    row = madd(uint32(cuda.blockIdx.x), uint32(WARPS), warp_id())
    if row < N:
        total = float32(0.0)
        first = uint32(row * uint32(K // uint32(BLOCK)))
        start = uint32(0)
        while start < K:
            k = uint32(start + lane)
            block = uint32(first + uint32(k // uint32(BLOCK)))
            value = decode(weight, uint32(block * uint32(BYTES)), uint32(k % uint32(BLOCK)))
            total += value * x[k]
            start = uint32(start + uint32(32))
        total = warp_sum(total)
        if lane == uint32(0):
            out[row] = total


@cuda.jit(device=True)
def four_products(word, high, x, at, weighted, plain):
    """The four nibbles of `word` (the high ones if `high`) by x[at ..], and those x alone."""
    a, b, c, d = load_f32x4(x, uint64(uint64(at) << uint64(2)))
    word = uint32(word >> uint32(high << uint32(2)))
    weighted += a * float32(uint32(word & uint32(15)))
    weighted += b * float32(uint32(uint32(word >> uint32(8)) & uint32(15)))
    weighted += c * float32(uint32(uint32(word >> uint32(16)) & uint32(15)))
    weighted += d * float32(uint32(uint32(word >> uint32(24)) & uint32(15)))
    return weighted, plain + ((a + b) + (c + d))


@cuda.jit
def part_per_lane(out, weight, x, N, K):
    """Step 3: a lane takes 16 bytes in one load, which are 32 elements of two sub-blocks, and
    applies each scale and min once: d s (sum of q x) - dmin m (sum of x)."""
    lane = lane_id()
    row = madd(uint32(cuda.blockIdx.x), uint32(WARPS), warp_id())
    if row < N:
        total = float32(0.0)
        first = uint32(row * uint32(K // uint32(BLOCK)))
        part = uint32(lane & uint32(7))  # of the 128 bytes of nibbles in a block
        start = uint32(0)
        while start < K:
            number = uint32(uint32(start // uint32(BLOCK)) + uint32(lane >> uint32(3)))
            block = uint32(uint32(first + number) * uint32(BYTES))
            quants = uint32(block + uint32(uint32(16) + uint32(part << uint32(4))))
            words = load_u32x4(weight, uint64(quants))
            d = f32_from_f16(load_u16(weight, block))
            least = f32_from_f16(load_u16(weight, uint32(block + uint32(2))))
            pair = uint32(
                part >> uint32(1)
            )  # sub-blocks 2 pair, of the low nibbles, and 2 pair + 1
            within = uint32(
                uint32(pair << uint32(6)) + uint32(uint32(part & uint32(1)) << uint32(4))
            )
            at = madd(number, uint32(BLOCK), within)
            for high in range(2):
                scale, offset = scale_and_min(
                    weight,
                    uint32(block + uint32(4)),
                    uint32(uint32(pair << uint32(1)) + uint32(high)),
                )
                weighted, plain = float32(0.0), float32(0.0)
                for j in range(4):
                    here = uint32(at + uint32(uint32(uint32(high) << uint32(5)) + uint32(4 * j)))
                    weighted, plain = four_products(
                        words[j], uint32(high), x, here, weighted, plain
                    )
                total += (d * float32(scale)) * weighted - (least * float32(offset)) * plain
            start = uint32(start + uint32(1024))
        total = warp_sum(total)
        if lane == uint32(0):
            out[row] = total

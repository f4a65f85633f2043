"""Loads and stores of a warp whose addresses are one scalar plus a constant per lane.

The bytes between the first and the last address are read in vectors and the lanes' elements picked
by constant shuffles. All bytes read lie between two accessed ones less than a page apart, so
nothing outside the pages that the kernel itself touches is read.
"""

from zerfoo_numba.ptx.native.lanes import concatenate, shuffle, vector
from zerfoo_numba.ptx.native.text import indices, wide
from zerfoo_numba.ptx.native.value import BITS, LANES, Value

MOST_SPREAD = 4  # times the bytes that the lanes want; reading more is dearer than gathering
CHUNK_BYTES = 64


def positions(address, size, count):
    """Element numbers of the lanes, counted from the lowest address; None if they do not align."""
    low = address.low_lane
    offsets = [c - low for c in address.lanes]
    if any(offset % size for offset in offsets):
        return None
    if max(offsets) + size * count > MOST_SPREAD * LANES * size * count:
        return None
    return [offset // size for offset in offsets]


def load(code, pointer, type_name, count, places):
    """`count` values per lane: element places[lane] + j of the array at `pointer`."""
    size = BITS[type_name] // 8
    if count == 1 and places == list(range(LANES)):
        text = f"load {wide(type_name)}, ptr {pointer}, align {size}"
        return [Value(type_name, vector=code.value(text))]
    if count == 4 and size == 4 and places == [4 * i for i in range(LANES)]:
        return _load_transposed(code, pointer, type_name)
    chunks, lanes, where = _load_chunks(code, pointer, type_name, max(places) + count)
    while len(chunks) & (len(chunks) - 1):
        chunks.append("poison")
    joined = concatenate(code, type_name, chunks, lanes)
    total = lanes * len(chunks)
    results = []
    for j in range(count):
        picked = shuffle(code, type_name, joined, None, [where[p + j] for p in places], total)
        results.append(Value(type_name, vector=picked))
    return results


def _load_chunks(code, pointer, type_name, needed):
    """-> vectors of `lanes` elements that cover `needed` elements, and where each element is."""
    size = BITS[type_name] // 8
    lanes = CHUNK_BYTES // size
    while lanes > needed:
        lanes //= 2
    starts = list(range(0, needed - lanes + 1, lanes))
    if starts[-1] + lanes < needed:
        starts.append(needed - lanes)
    where, chunks = {}, []
    for i, start in enumerate(starts):
        at = code.offset(pointer, start * size)
        chunks.append(code.value(f"load {wide(type_name, lanes)}, ptr {at}, align {size}"))
        where.update({start + k: i * lanes + k for k in range(lanes)})
    return chunks, lanes, where


def _load_transposed(code, pointer, type_name):
    """Four consecutive 32-bit elements per lane: two 4 x 4 transposes of 16-lane vectors.

    Each result costs two two-source shuffles, the least there is; LLVM alone needs twice that.
    """
    quarter = [0, 4, 8, 12, 16, 20, 24, 28]
    low = [*quarter, *(q + 1 for q in quarter)]
    high = [*(q + 2 for q in quarter), *(q + 3 for q in quarter)]
    first = [*range(8), *range(16, 24)]
    second = [*range(8, 16), *range(24, 32)]
    halves = []
    for h in range(2):
        places = [code.offset(pointer, 256 * h + 64 * q) for q in range(4)]
        z = [code.value(f"load {wide(type_name, 16)}, ptr {at}, align 16") for at in places]
        a, b = (shuffle(code, type_name, z[i], z[i + 1], low, 16) for i in (0, 2))
        c, d = (shuffle(code, type_name, z[i], z[i + 1], high, 16) for i in (0, 2))
        pairs = ((a, b, first), (a, b, second), (c, d, first), (c, d, second))
        halves.append([shuffle(code, type_name, x, y, n, 16) for x, y, n in pairs])
    return [
        Value(type_name, vector=concatenate(code, type_name, pair, 16))
        for pair in zip(*halves, strict=True)
    ]


def store_order(places, count):
    """For every element of the stored range, the (component, lane) that ends up in it.

    None where the range has gaps. Of several lanes that store one element, the highest wins.
    """
    owner = {}
    for lane, place in enumerate(places):
        for j in range(count):
            owner[place + j] = (j, lane)
    if len(owner) != max(owner) + 1:
        return None
    return [owner[i] for i in range(len(owner))]


def store(code, pointer, type_name, values, order):
    """Store the lanes' values in the order of memory, as one vector."""
    size = BITS[type_name] // 8
    operands = [vector(code, v) for v in values]
    if len(values) == 1 and order == [(0, lane) for lane in range(LANES)]:
        stored = operands[0]
    else:
        while len(operands) & (len(operands) - 1):
            operands.append("poison")
        joined = concatenate(code, type_name, operands, LANES)
        kind = wide(type_name, LANES * len(operands))
        numbers = indices([j * LANES + lane for j, lane in order])
        stored = code.value(f"shufflevector {kind} {joined}, {kind} poison, {numbers}")
    code.line(f"store {wide(type_name, len(order))} {stored}, ptr {pointer}, align {size}")

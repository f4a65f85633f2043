"""Rung "quant": every block format, bit for bit.

reference = the gguf package = fixed blocks (made with the gguf package, the same bits from ggml's
C code) = the kernels' decode on every device.
"""

import functools
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from numba import cuda

from reference.quant import FORMATS, dequantize
from reference.quant_iq import GRIDS
from tests.parity.random_blocks import HALF_FIELDS
from zerfoo_numba.errors import FileError, InputError, UnsupportedError
from zerfoo_numba.gguf_file import TYPE_BY_NAME
from zerfoo_numba.ptx.instructions import u32
from zerfoo_numba.quant import QUANTS, fp8

BLOCKS = Path(__file__).parent / "blocks"
FLOATS = ("F64", "F32", "F16", "BF16")
OURS = ("F8_E4M3", "F8_E5M2")  # no GGUF types
GGUF = [name for name in FORMATS if name not in OURS]

# Zeros, the subnormals at both ends, the least normal, ordinary ones, the largest; both signs.
HALVES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0xA9C3, 0x3C00, 0x7BFF, 0xFBFF],
    np.uint16,
)
# 6-bit scales, whose two parts stand apart: bytes that set all positions of a block to v.
SIX_BITS = {
    "Q3_K": lambda v: {96: [(v & 15) * 17] * 8, 104: [(v >> 4) * 0x55] * 4},
    "Q4_K": lambda v: {4: [v >> 4 << 6 | v] * 8, 12: [(v & 15) * 17] * 4},
    "Q5_K": lambda v: {4: [v >> 4 << 6 | v] * 8, 12: [(v & 15) * 17] * 4},
    "IQ4_XS": lambda v: {2: [(v >> 4) * 0x55] * 2, 4: [(v & 15) * 17] * 4},
}


@functools.cache
def corner_blocks(name):
    """Blocks (B, block_bytes): every byte value at every position at once, then random bytes.

    Among them are all quants zero, all quants the largest, every value of every 6-bit scale and min
    and of every eight-bit scale. float16 scales are finite and begin with HALVES.
    """
    rng = np.random.default_rng(list(name.encode()))
    width = FORMATS[name].block_bytes
    uniform = np.repeat(np.arange(256, dtype=np.uint8)[:, None], width, axis=1)
    blocks = np.concatenate([uniform, rng.integers(0, 256, (256, width), dtype=np.uint8)])
    for k, at in enumerate(HALF_FIELDS.get(name, ())):
        # Two strides, so that every pair of d and m occurs in the first 121; then any finite ones.
        halves = HALVES[np.arange(len(blocks)) // (1, len(HALVES))[k] % len(HALVES)]
        finite = rng.integers(0, 0x7C00, len(blocks)) | rng.integers(0, 2, len(blocks)) << 15
        halves[384:] = finite[384:]
        blocks[:, at : at + 2] = halves[:, None].astype("<u2").view(np.uint8)
    for v in range(64 if name in SIX_BITS else 0):
        for at, values in SIX_BITS[name](v).items():
            blocks[256 + v, at : at + len(values)] = values
    if name == "IQ1_M":  # the top nibbles of bytes 49, 51, 53 and 55, lowest first
        halves = HALVES[np.arange(len(blocks)) % len(HALVES)]
        nibbles = (halves[:, None] >> np.array([0, 4, 8, 12]) & 15).astype(np.uint8)
        blocks[:, 49::2] = blocks[:, 49::2] & 15 | nibbles << 4
    if name in OURS:
        scales = rng.choice(np.array([1, -0.0, 3e-39, 0.3337, -1.7e3], np.float32), len(blocks))
        blocks[:, :4] = scales[:, None].view(np.uint8)
        blocks[: len(uniform), 4:] = (np.arange(256)[:, None] + np.arange(32)).astype(np.uint8)
    return blocks


def flat(blocks, name):
    return dequantize(blocks.reshape(-1), name, (len(blocks) * FORMATS[name].block_size,))


def from_gguf_package(blocks, name):
    with np.errstate(all="ignore"):
        if name == "F64":  # the package leaves it alone
            return blocks.view(np.float64).astype(np.float32).reshape(-1)
        return gguf.quants.dequantize(blocks, GGMLQuantizationType[name]).reshape(-1)


def assert_same_bits(name, actual, expected):
    """Fails unless all bits agree; only float formats may hold a NaN, of any payload."""
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    both_nan = np.isnan(actual) & np.isnan(expected)
    assert name in FLOATS + OURS or not both_nan.any()
    differ = np.flatnonzero((actual.view(np.uint32) != expected.view(np.uint32)) & ~both_nan)
    size = FORMATS[name].block_size
    assert not differ.size, (
        f"{name}: {differ.size} of {actual.size} elements differ, first element "
        f"{differ[0] % size} of block {differ[0] // size}: {actual[differ[0]]!r} instead of "
        f"{expected[differ[0]]!r}"
    )


@pytest.mark.parametrize("name", GGUF)
def test_reference_is_the_gguf_package(name):
    blocks = corner_blocks(name)
    assert_same_bits(name, flat(blocks, name), from_gguf_package(blocks, name))


@pytest.mark.parametrize("name", sorted(p.stem for p in BLOCKS.glob("*.bin")))
def test_reference_is_the_fixed_blocks(name):
    blocks = np.fromfile(BLOCKS / f"{name}.bin", np.uint8).reshape(-1, FORMATS[name].block_bytes)
    assert_same_bits(name, flat(blocks, name), np.load(BLOCKS / f"{name}.npy").reshape(-1))


def make_decode_kernel(quant):
    decode, size, width = quant.decode, quant.block_size, quant.block_bytes

    @cuda.jit
    def decode_kernel(out, w, count):
        i = u32(u32(cuda.threadIdx.x) + u32(u32(cuda.blockIdx.x) * u32(cuda.blockDim.x)))
        if i < count:
            out[i] = decode(w, u32(u32(i // u32(size)) * u32(width)), u32(i % u32(size)))

    return decode_kernel


@pytest.mark.parametrize("name", QUANTS)
def test_decode_is_the_reference(device, name):
    quant, blocks = QUANTS[name], corner_blocks(name)
    expected = flat(blocks, name)
    out = device.upload(np.full(expected.size, np.nan, np.float32))
    args = (out, device.upload(blocks), np.uint32(expected.size))
    device.launch(make_decode_kernel(quant), -(-expected.size // 256), 256, args)
    assert_same_bits(name, device.read(out), expected)


def test_layouts_agree():
    assert set(QUANTS) == set(FORMATS) - {"F64"}
    for name, form in FORMATS.items():
        sizes = (form.block_size, form.block_bytes)
        if name in QUANTS:
            assert sizes == (QUANTS[name].block_size, QUANTS[name].block_bytes)
        if name not in OURS:
            assert sizes == gguf.GGML_QUANT_SIZES[GGMLQuantizationType[name]]
            assert sizes == TYPE_BY_NAME[name][1:]


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K"])
def test_corner_blocks_reach_every_six_bit_scale_and_min(name):
    packed = corner_blocks(name)[:, 4:16]
    for scales in gguf.quants.Q4_K.get_scale_min(packed):
        for position in range(8):
            assert set(scales[:, position].tolist()) == set(range(64))


@pytest.mark.parametrize("name", GRIDS)
def test_grid_points_are_those_of_the_gguf_package(name):
    package = getattr(gguf.quants, "IQ1_S" if name == "IQ1" else name)
    package.init_grid()
    np.testing.assert_array_equal(GRIDS[name], package.grid[0, 0])


def e4m3(code):
    """The value that the OCP specification gives to an E4M3 code."""
    sign, exponent, mantissa = -1.0 if code >> 7 else 1.0, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return np.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (8 + mantissa) * 2.0 ** (exponent - 10)


def e5m2(code):
    """E5M2 is a float16 without its lower eight bits."""
    return struct.unpack("<e", bytes([0, code]))[0]


@pytest.mark.parametrize(("name", "value"), [("F8_E4M3", e4m3), ("F8_E5M2", e5m2)])
def test_every_float8_code(name, value):
    codes = np.arange(256, dtype=np.uint8).reshape(1, 256)
    blocks = fp8.float8_blocks(codes, 1.0)
    expected = np.array([value(code) for code in range(256)], np.float32)
    assert_same_bits(name, flat(blocks.reshape(8, 36), name), expected)


@pytest.mark.parametrize("tile", [None, (1, 32), (3, 64), (128, 128)])
def test_float8_scales_cover_their_tiles(tile):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 0x7F, (7, 160), dtype=np.uint8)
    height, width = tile or codes.shape
    scale = rng.uniform(0.5, 2, (-(-7 // height), -(-160 // width))).astype(np.float32)
    blocks = fp8.float8_blocks(codes, scale, tile)
    values = dequantize(blocks.reshape(-1), "F8_E4M3", (160, 7))
    for row, column in np.ndindex(codes.shape):
        of_tile = scale[row // height, column // width]
        assert values[row, column] == np.float32(e4m3(int(codes[row, column]))) * of_tile


def test_float8_shapes_that_do_not_agree_are_refused():
    codes = np.zeros((4, 96), np.uint8)
    with pytest.raises(InputError, match="blocks of 32"):
        fp8.float8_blocks(np.zeros((4, 40), np.uint8), 1.0)
    with pytest.raises(InputError, match="blocks of 32"):
        fp8.float8_blocks(codes, 1.0, (4, 48))
    with pytest.raises(InputError, match="1 scales do not cover"):
        fp8.float8_blocks(codes, 1.0, (2, 32))


def test_f64_becomes_f32():
    values = np.array([np.pi, -0.0, 1e-300, 2.0**-149, 1 + 2.0**-24], np.float64)
    actual = dequantize(values.view(np.uint8), "F64", (5,))
    assert_same_bits("F64", actual, values.astype(np.float32))


def test_shape_is_reversed_and_rows_stay_rows():
    values = np.arange(24, dtype=np.float32)
    actual = dequantize(values.view(np.uint8), "F32", (2, 3, 4))
    np.testing.assert_array_equal(actual, values.reshape(4, 3, 2))


@pytest.mark.parametrize(
    ("size", "name", "shape", "error"),
    [
        (144, "Q9_K", (256,), UnsupportedError),
        (145, "Q4_K", (256,), FileError),
        (144, "Q4_K", (128, 2), FileError),
        (144, "Q4_K", (512,), FileError),
    ],
)
def test_disagreements_are_refused(size, name, shape, error):
    with pytest.raises(error, match=name):
        dequantize(np.zeros(size, np.uint8), name, shape)

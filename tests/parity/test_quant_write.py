"""Writing block formats: the gguf package's bytes where it writes them, error bounds where not."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from reference.quant import FORMATS, dequantize
from zerfoo_numba.errors import InputError, UnsupportedError
from zerfoo_numba.quant.write import WRITERS, quantize

# rms error relative to the rms of Gaussian weights. llama.cpp has, in files of a Gaussian model
# against the Q8_0 file (whose own error is 0.0054): Q4_0 0.087, Q4_K 0.072, Q6_K 0.0187.
RELATIVE_ERROR = {"Q8_0": 0.0056, "Q4_0": 0.0875, "Q4_K": 0.0730, "Q6_K": 0.0180}


def restored(array, name):
    data = quantize(array, name)
    size, width = FORMATS[name][:2]
    assert data.dtype == np.uint8
    assert data.shape == (*array.shape[:-1], array.shape[-1] // size * width)
    return dequantize(data.reshape(-1), name, array.shape[::-1])


def weights(shape=(64, 512), seed=0):
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_bytes_are_those_of_the_gguf_package(name):
    x = weights()
    x[0] = 0
    x[1, ::2] = -0.0
    x[2] = np.arange(512) - 256.5  # halves between two codes
    x[3] *= 1e-6  # scales that are subnormal as float16
    expected = gguf.quants.quantize(x, GGMLQuantizationType[name])
    np.testing.assert_array_equal(quantize(x, name), np.ascontiguousarray(expected).view(np.uint8))


@pytest.mark.parametrize("name", RELATIVE_ERROR)
def test_error_on_gaussian_weights(name):
    x = weights()
    error = np.sqrt(((restored(x, name) - x) ** 2).mean() / (x**2).mean())
    assert error < RELATIVE_ERROR[name]


@pytest.mark.parametrize("name", RELATIVE_ERROR)
def test_error_bound_of_llama_cpp(name):
    """test-quantize-fns of llama.cpp: sqrt(sum of squares) / n of this curve is at most 0.002."""
    x = (0.1 + 2 * np.cos(np.arange(32 * 128))).astype(np.float32)
    assert np.sqrt(((restored(x, name) - x) ** 2).sum()) / x.size < 0.002


@pytest.mark.parametrize("name", RELATIVE_ERROR)
def test_no_element_is_far_off(name):
    """No error beyond 1.5 steps of the widest sub-block grid: nothing is clipped or misplaced."""
    x = weights()
    levels = {"Q8_0": 127, "Q4_0": 8, "Q4_K": 7.5, "Q6_K": 32}[name]
    run = {"Q6_K": 16}.get(name, 32)
    largest = np.abs(x.reshape(-1, run)).max(axis=1, keepdims=True)
    error = np.abs(restored(x, name) - x).reshape(-1, run)
    assert (error <= 1.5 * largest / levels).all()


@pytest.mark.parametrize("name", RELATIVE_ERROR)
@pytest.mark.parametrize("value", [0.0, -0.37, 0.37, 1e-7, -65504.0, 1e-30, 1e-42])
def test_constant_blocks(name, value):
    x = np.full((1, 256), value, np.float32)
    # The smallest float16 is 6e-8: a smaller scale is zero or that.
    assert np.abs(restored(x, name) - x).max() <= max(abs(value) / 64, 4e-6)


@pytest.mark.parametrize("name", RELATIVE_ERROR)
def test_what_was_written_is_written_again(name):
    """Restored values lie on a grid of the format: a second pass stays near them."""
    once = restored(weights(), name)
    twice = restored(once, name)
    error = np.sqrt(((twice - once) ** 2).mean() / (once**2).mean())
    assert error < RELATIVE_ERROR[name] / 2


def test_rows_are_independent():
    x = weights((5, 256))
    for name in WRITERS:
        rows = np.stack([quantize(row, name) for row in x])
        np.testing.assert_array_equal(quantize(x, name), rows)


def test_what_cannot_be_written_is_refused():
    with pytest.raises(UnsupportedError, match="Q5_K cannot be written"):
        quantize(weights(), "Q5_K")
    with pytest.raises(InputError, match="blocks of 256"):
        quantize(weights((2, 128)), "Q4_K")
    for value in (np.nan, np.inf, 65536.0):
        with pytest.raises(InputError, match="65504"):
            quantize(np.full(32, value, np.float32), "Q8_0")


def test_bf16_keeps_nan_and_infinity():
    bits = np.array([0x7F800001, 0xFFFFFFFF, 0x7F800000, 0x7F7FFFFF, 0x3F808000], np.uint32)
    written = quantize(bits.view(np.float32), "BF16").view(np.uint16)
    assert written.tolist() == [0x7FC0, 0xFFFF, 0x7F80, 0x7F80, 0x3F80]

"""Rung "op": norms and rotation of q and k, and what is appended to the KV cache."""

import numpy as np
import pytest

from reference import ops as reference_ops
from tests.parity.compare import assert_close
from tests.parity.test_ops import kv_cache, wide
from tests.parity.tolerances import OP
from zerfoo_numba.config import LongFactors, Rope, Yarn
from zerfoo_numba.devices import open_device
from zerfoo_numba.gguf_file import Tensor
from zerfoo_numba.kernels import rope
from zerfoo_numba.kernels.kv import CACHE_TYPES
from zerfoo_numba.rope_tables import RopeTable, RopeTables

T, S, H, KH, HD, VD, START = 3, 9, 4, 2, 24, 40, 5
STORED = {"f32": "rope", "f16": "f16_store", "q8_0": "q8_0_store"}
NORMS = {
    "none": (None, None, None),
    "rms": ("rms", (HD,), (HD,)),
    "rms of q alone": ("rms", (HD,), None),
    "layer": ("layer", (HD,), (HD,)),
    "layer per head": ("layer", (H, HD), (KH, HD)),
    "rms of k alone per head": ("rms", None, (KH, HD)),
}


def normed(x, kind, weight):
    """x (T, heads, HD) in float64 as the reference normalises it."""
    if weight is None:
        return wide(x)
    if kind == "rms":
        return reference_ops.rmsnorm(wide(x), wide(weight), 1e-2)
    return reference_ops.layernorm(wide(x), wide(weight), None, 1e-2)


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pairs, dims", [("half", 24), ("interleaved", 24), ("half", 16)])
def test_qk_norm_rope_append(device, pairs, dims, norm, cache_type):
    rng = np.random.default_rng(9)
    q, k = (rng.standard_normal((T, n, HD), np.float32) + 1 for n in (H, KH))
    v = rng.standard_normal((T, KH, VD), np.float32)
    cache, before = kv_cache(device, rng, S, KH, HD, VD, cache_type)
    angles = rng.uniform(0, 6, (S, dims // 2))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    table = RopeTable(device.upload(cos), device.upload(sin), dims, pairs)
    kind, *shapes = NORMS[norm]
    weights = [None if n is None else rng.standard_normal(n, np.float32) for n in shapes]
    uploaded = [None if w is None else device.upload(w) for w in weights]
    position = device.upload(np.array([START], np.uint32))
    buffers = [device.upload(x) for x in (q, k, v)]
    rope.qk_norm_rope_append(device, *buffers, cache, position, table, kind, uploaded, 1e-2)
    now = slice(START, START + T)
    want = [
        reference_ops.rope(normed(x, kind, weight), wide(cos[now]), wide(sin[now]), pairs)
        for x, weight in zip((q, k), weights, strict=True)
    ]
    assert_close("q", device.read(buffers[0]), want[0], OP["rope"])
    keys = wide(CACHE_TYPES[cache_type].to_float32(device.read(cache.k), HD))
    assert_close("k", keys[now], want[1], OP[STORED[cache_type]])
    others = np.delete(np.arange(S), np.arange(S)[now])
    np.testing.assert_array_equal(keys[others], before[0][others])
    stored = CACHE_TYPES[cache_type].to_float32(device.read(cache.v), VD)[now]
    if cache_type == "q8_0":
        assert_close("v", stored, v, OP["q8_0_store"])
    else:
        np.testing.assert_array_equal(stored, v if cache_type == "f32" else v.astype(np.float16))


class Factors:
    """A file with factors of the frequencies."""

    path = "factors.gguf"

    def __init__(self, **values):
        self.arrays = {name: np.array(x, np.float32) for name, x in values.items()}
        self.tensors = {
            name: Tensor(x.shape, "F32", x.view(np.uint8)) for name, x in self.arrays.items()
        }


LONG = LongFactors("long", 6)
ROPES = {
    "plain": Rope("half", 8, 500.0),
    "linear": Rope("half", 8, 500.0, 4.0),
    "by factors": Rope("interleaved", 8, 500.0, 2.0, freq_factors="short"),
    "longrope": Rope("half", 8, 500.0, freq_factors="short", long_factors=LONG, attn_factor=1.2),
    "yarn": Rope("half", 16, 500.0, 4.0, Yarn(32, 1.5, 0.2), attn_factor=1.1),
    "yarn of a short context": Rope("half", 16, 500.0, 4.0, Yarn(4, 32.0, 1.0)),
    "yarn of a long context": Rope("half", 16, 500.0, 4.0, Yarn(10**6, 32.0, 1.0)),
    "yarn without a ramp": Rope("half", 16, 500.0, 4.0, Yarn(32, 1.0, 1.0)),
}


@pytest.mark.parametrize("length", [6, 7])
@pytest.mark.parametrize("name", ROPES)
def test_tables_are_those_of_the_reference(name, length):
    device, turning = open_device("emulator"), ROPES[name]
    file = Factors(short=[1, 2, 3, 4], long=[5, 6, 7, 8])
    tables = RopeTables(device, {turning}, 20, file)
    assert tables.fit(length) == (name == "longrope" and length == 7)
    factors = turning.freq_factors
    if turning.long_factors is not None and length == 7:
        factors = "long"
    want = reference_ops.rope_table(np.arange(20), turning, file.arrays.get(factors))
    table = tables[turning]
    for buffer, array in zip((table.cos, table.sin), want, strict=True):
        np.testing.assert_allclose(device.read(buffer), array, atol=1e-6)
    assert (table.dims, table.pairs) == (turning.dims, turning.kind)


def test_a_table_that_fits_is_left_alone():
    tables = RopeTables(
        open_device("emulator"), {ROPES["longrope"]}, 20, Factors(short=[1] * 4, long=[2] * 4)
    )
    assert [tables.fit(n) for n in (1, 6, 7, 20, 3)] == [False, False, True, False, True]

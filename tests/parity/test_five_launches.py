"""Five launches a layer: products that make their own operand, attention with all before it."""

import numpy as np
import pytest

import zerfoo_numba
from tests.parity.caches import kv_cache
from tests.parity.test_fusion import biases, packed
from tests.parity.test_ops import filled
from zerfoo_numba import synth
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.fusion import FUSIONS
from zerfoo_numba.kernels import (
    activation,
    add,
    attention_append,
    attention_decode,
    matvec_int8,
    matvec_prologue,
    prologue,
    quantize,
    rmsnorm,
    rope,
)
from zerfoo_numba.kernels.prologue import ADD, NORM, POST, Prologue
from zerfoo_numba.rope_tables import RopeTable
from zerfoo_numba.synth_shapes import Shape

EPS = 1e-3
STEPS = (0, NORM, ADD | NORM, POST | ADD | NORM, POST | ADD)
TOKENS = 256


def operand(device, rng, K, steps):
    """(a Prologue over random numbers, the QuantizedRows that the plain operations make of it)."""

    def upload(*shape):
        return device.upload(rng.standard_normal(shape, np.float32))

    x, post, weight = upload(1, K), upload(K), upload(K)
    residual, total = upload(1, K), filled(device, (1, K))
    there = [steps & POST and post, steps & ADD and residual, steps & ADD and total]
    fused = Prologue(x, *(b or None for b in (*there, steps & NORM and weight)), EPS)
    plain = device.upload(device.read(x))
    if steps & POST:
        rmsnorm.rmsnorm(device, plain, plain, post, EPS)
    if steps & ADD:
        expected = device.upload(device.read(residual))
        add.add(device, expected, plain)
        plain = expected
    else:
        expected = total
    if steps & NORM:
        plain = filled(device, (1, K))
        rmsnorm.rmsnorm(device, plain, expected if steps & ADD else x, weight, EPS)
    P = quantize.padded(K)
    words, scales = filled(device, (1, P // 4), np.uint32), filled(device, (1, P // 32, 4))
    rows = quantize.QuantizedRows(words, scales, 1)
    quantize.quantize(device, rows, plain)
    return fused, rows, (total, expected)


def equal(device, found, expected):
    np.testing.assert_array_equal(device.read(found), device.read(expected))


# Formats, rows of each, width: odd rows; a team of several warps a row and idle ones beside it;
# many groups of rows, which blocks take in turns.
PRODUCTS = (
    (("Q4_K", "Q4_K", "Q6_K"), (40, 9, 17), 1280),
    (("Q8_0",), (37,), 3 * 1024 + 160),
    (("Q8_0",), (16500,), 32),
)


@pytest.mark.slow_on_cpu
@pytest.mark.parametrize("types, rows, K", PRODUCTS)
def test_matvec_prologue(device, types, rows, K):
    rng = np.random.default_rng(1)
    weights = [packed(device, rng, t, N, K) for t, N in zip(types, rows, strict=True)]
    vectors = biases(device, rng, rows)
    for steps in STEPS:
        x, quantized, sums = operand(device, rng, K, steps)
        outs = [filled(device, (1, N)) for N in rows]
        matvec_prologue.matvec_prologue(device, outs, weights, x, vectors)
        for out, weight, vector in zip(outs, weights, vectors, strict=True):
            alone = filled(device, out.shape)
            matvec_int8.matmul_int8(device, alone, weight, quantized, vector)
            equal(device, out, alone)
        equal(device, *sums)


@pytest.mark.slow_on_cpu
@pytest.mark.parametrize("N, K", [(41, 256), (24, 2048)])
def test_matvec_gated_prologue(device, N, K):
    rng = np.random.default_rng(2)
    gate, up = (packed(device, rng, "Q4_K", N, K) for _ in range(2))
    x, quantized, sums = operand(device, rng, K, POST | ADD | NORM)
    vectors, out = biases(device, rng, (N, N)), filled(device, (1, N))
    matvec_prologue.matvec_gated_prologue(device, out, gate, up, x, vectors, "geglu")
    parts = [filled(device, (1, N)) for _ in range(2)]
    for part, weight, vector in zip(parts, (gate, up), vectors, strict=True):
        matvec_int8.matmul_int8(device, part, weight, quantized, vector)
    plain = filled(device, (1, N))
    activation.gated(device, plain, *parts, "geglu")
    equal(device, out, plain)
    equal(device, *sums)


def test_an_operand_may_be_as_wide_as_shared_memory():
    assert matvec_prologue.fits(28672)
    assert not matvec_prologue.fits(32768)
    assert prologue.shared_bytes(1152) == 1280 + 40 * 16


# H, KH, HD, VD; cache types; pairs, norm, rotated; rows, position, window, softcap: several blocks
# of keys; a full ring and the first token; values of another width.
ATTENTIONS = (
    ((4, 1, 256, 256), ("f16", "f16"), ("half", "rms", 256), (90, 89, None, 5.0)),
    ((4, 2, 64, 64), ("f16", "f16"), ("interleaved", None, 64), (107, 1234, 100, None)),
    ((4, 2, 64, 64), ("f16", "f16"), ("interleaved", None, 64), (12, 0, None, None)),
)
UNUSUAL = (
    ((6, 2, 48, 40), ("q8_0", "f32"), ("interleaved", "layer", 32), (300, 1234, 280, 5.0)),
    ((5, 1, 80, 80), ("q8_0", "q8_0"), ("half", "rms", 40), (300, 299, None, None)),
)


def attended(device, heads, types, turned, place, fused):
    """What is left of one token's attention: (out, K cache, V cache)."""
    rng, (H, KH, HD, VD) = np.random.default_rng(3), heads
    (pairs, norm, dims), (rows, p, window, softcap) = turned, place
    cache, _ = kv_cache(device, rng, rows, KH, HD, VD, types[0], H, types[1])
    sizes = ((1, H, HD), (1, KH, HD), (1, KH, VD), (HD,), (KH, HD))
    q, k, v, *weights = (device.upload(rng.standard_normal(s, np.float32)) for s in sizes)
    weights = weights if norm else (None, None)
    angles = rng.uniform(0, 6, (p + 1, dims // 2))
    cos, sin = (device.upload(f(angles).astype(np.float32)) for f in (np.cos, np.sin))
    table, position = RopeTable(cos, sin, dims, pairs), device.upload(np.array([p], np.uint32))
    out, more = filled(device, (1, H, VD)), (cache, position, RopeTable(cos, sin, dims, pairs))
    if fused:
        assert attention_append.fits(H, KH, HD, VD, cache)
        more = (*more, norm, weights, EPS, 0.2, window, softcap)
        attention_append.attention_append(device, out, q, k, v, *more)
    else:
        rope.qk_norm_rope_append(device, q, k, v, cache, position, table, norm, weights, EPS)
        decode = attention_decode.attention_decode
        decode(device, out, q, cache, position, 0.2, window, softcap)
    assert not device.read(cache.scratch.tickets).any()
    return [device.read(b) for b in (out, cache.k, cache.v)]


def check_attention(device, case):
    found, plain = (attended(device, *case, fused) for fused in (True, False))
    for array, expected in zip(found, plain, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.slow_on_cpu
@pytest.mark.parametrize("case", ATTENTIONS, ids=str)
def test_attention_append(device, case):
    check_attention(device, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", UNUSUAL, ids=str)
def test_attention_append_of_any_cache(device, case):
    check_attention(device, case)


@pytest.mark.parametrize("seed", [5, 6])
def test_no_block_meets_another(seed):
    """Races, bounds and reads of what nobody wrote, in any order of blocks."""
    device, rng = EmulatorDevice(checks=True, seed=seed), np.random.default_rng(4)
    for case in ATTENTIONS[:2]:
        attended(device, *case, True)
    weight = packed(device, rng, "Q4_K", 2100, 256)
    x, _, sums = operand(device, rng, 256, POST | ADD | NORM)
    matvec_prologue.matvec_prologue(device, [filled(device, (1, 2100))], [weight], x, [None])
    equal(device, *sums)


def test_many_heads_of_one_key_head_stay_apart():
    device, rng = EmulatorDevice(), np.random.default_rng(5)
    cache, _ = kv_cache(device, rng, 4, 1, 64, 64, "f16", 9)
    assert not attention_append.fits(9, 1, 64, 64, cache)
    assert attention_append.fits(8, 1, 64, 64, cache)


GEMMA = Shape(
    "gemma3", 2, 256, 256, 768, 4, 1, 256, 2048, "Q4_K_M", gains=synth.SHAPES["gemma3-tiny"].gains,
    keys={"attention.sliding_window": 16, "rope.freq_base": 1e6},
)  # fmt: skip
MODELS = {
    "gemma": GEMMA,  # norms of q and k, norms after the branches, windows
    "llama": synth.SHAPES["llama-3.2-tiny"],
    "deepseek": synth.SHAPES["deepseek-r1-tiny"],  # biases
}


def greedy(folder, name, device, fuse, steps, **options):
    """(greedy ids, launches of a token, share of them in the graph) of one of MODELS."""
    path = folder / f"{name}.gguf"
    if not path.exists():
        synth.write_shape(name, MODELS[name], path)
    options |= {"context": steps + 8, "activation": "int8", "fuse": set(fuse)}
    model = zerfoo_numba.load_model(path, device=device, **options)
    ids = model.greedy_ids([5, 9, 2, 7], steps)
    return ids, model.stats.launches / (steps - 1), model.stats.graph_share


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("five_launches")


@pytest.mark.parametrize("name", ["gemma", pytest.param("llama", marks=pytest.mark.slow)])
def test_five_launches_a_layer_and_four_a_token(folder, name):
    plain, more, _ = greedy(folder, name, EmulatorDevice(checks=True), (), 4)
    ids, launches, share = greedy(folder, name, EmulatorDevice(checks=True), tuple(FUSIONS), 4)
    assert ids == plain
    assert launches <= 5 * MODELS[name].L + 4 < more
    assert share == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_ids_are_those_of_the_plain_operations(folder, name, cache_type):
    plain, _, _ = greedy(folder, name, "cpu", (), TOKENS, cache_type=cache_type)
    ids, launches, share = greedy(
        folder, name, "cpu", tuple(FUSIONS), TOKENS, cache_type=cache_type
    )
    assert ids == plain
    assert launches <= 5 * MODELS[name].L + 4
    assert share == 1.0
    assert len(set(plain)) > 4  # a walk that got stuck would prove little

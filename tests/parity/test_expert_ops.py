"""Rung "op" of a mixture of experts: routing, placement, products, sums."""

import numpy as np
import pytest

from reference import ops as reference_ops
from reference.quant import dequantize
from tests.parity.compare import assert_close
from tests.parity.random_blocks import random_blocks
from tests.parity.test_int8 import packed_weight, quantized
from tests.parity.test_ops import FORMATS, filled, wide
from tests.parity.tolerances import OP
from zerfoo_numba.kernels import add, experts_sum, matvec, matvec_experts, router
from zerfoo_numba.quant.packed import LAYOUTS
from zerfoo_numba.weights import PackedWeight, Weight

NONE = router.NONE
# E, N, K: rows that fill groups of 8, and rows that do not.
MATRICES = ((3, 16, 256), (5, 11, 768))


def routed(device, logits, U, normed, scale=1.0):
    T = len(logits)
    experts, weights = filled(device, (T, U), np.uint32), filled(device, (T, U))
    router.route(device, experts, weights, device.upload(logits), normed, scale)
    return device.read(experts), device.read(weights)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("shape", router.SHAPES, ids=str)
def test_route(device, shape, normed):
    T, E, U = shape["T"], shape["E"], shape["U"]
    logits = router.inputs(np.random.default_rng(1), T, E)["logits"]
    experts, weights = routed(device, logits, U, normed, 2.5)
    want = np.argsort(-logits, axis=1, kind="stable")[:, :U]
    np.testing.assert_array_equal(experts, want)
    share = np.exp(wide(logits))
    chosen = np.take_along_axis(share, want, 1)
    total = (chosen if normed else share).sum(axis=1, keepdims=True)
    assert_close("weights", weights, 2.5 * chosen / total, OP["softmax"])


def test_of_equal_logits_the_lowest_experts_are_chosen(device):
    logits = np.zeros((2, 40), np.float32)
    logits[1, [3, 35, 39]] = 5, 5, 7
    experts, weights = routed(device, logits, 3, True)
    np.testing.assert_array_equal(experts, [[0, 1, 2], [39, 3, 35]])
    np.testing.assert_allclose(weights[0], 1 / 3, rtol=1e-6)


def test_logits_far_from_zero_and_infinite_ones_are_routed(device):
    logits = np.array([[500.0, 501.0, -np.inf, 400.0], [-np.inf, -np.inf, -900.0, -np.inf]])
    experts, weights = routed(device, logits.astype(np.float32), 2, False)
    np.testing.assert_array_equal(experts, [[1, 0], [2, 0]])
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(weights, [[share, 1 - share], [1, 0]], rtol=1e-6)


def test_logits_that_are_no_numbers_choose_experts_that_exist(device):
    experts, weights = routed(device, np.full((1, 5), np.nan, np.float32), 2, False)
    assert (experts < 5).all() and np.isnan(weights).all()


@pytest.mark.parametrize("T, E, U", [(2, 8, 2), (9, 5, 3), (40, 130, 4), (64, 4, 4)])
def test_place_deals_every_pair_to_a_tile_of_its_expert(device, T, E, U):
    rng = np.random.default_rng(2)
    chosen = np.stack([rng.permutation(E)[:U] for _ in range(T)]).astype(np.uint32)
    M = router.most_tiles(T * U, E)
    tiles, sources = filled(device, M, np.uint32), filled(device, M * router.TILE, np.uint32)
    slots = filled(device, T * U, np.uint32)
    router.place(device, tiles, sources, slots, device.upload(chosen), E)
    tiles, sources, slots = (device.read(b) for b in (tiles, sources, slots))
    np.testing.assert_array_equal(sources[slots], np.arange(T * U))
    assert (sources != NONE).sum() == T * U
    np.testing.assert_array_equal(tiles[slots // router.TILE], chosen.reshape(-1))
    counts = np.bincount(chosen.reshape(-1), minlength=E)
    used = -(-counts // router.TILE)  # no expert is read by more tiles than it needs
    np.testing.assert_array_equal(np.bincount(tiles[tiles != NONE], minlength=E), used)
    assert (tiles[used.sum() :] == NONE).all() and (
        sources[used.sum() * router.TILE :] == NONE
    ).all()


def test_most_tiles_is_reached_and_never_exceeded():
    rng = np.random.default_rng(3)
    for E, pairs in ((8, 2), (8, 16), (5, 40), (128, 512)):
        worst = np.zeros(E, int)
        for at in range(pairs):  # one in each tile first, then whole tiles
            worst[at if at < E else 0] += 1
        assert -(-worst // router.TILE).sum() <= router.most_tiles(pairs, E)
        for _ in range(50):
            counts = np.bincount(rng.integers(0, E, pairs), minlength=E)
            assert (-(-counts // router.TILE)).sum() <= router.most_tiles(pairs, E)


def test_gather(device):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((3, 200), np.float32)
    sources = np.array([5, NONE, 0, 2], np.uint32)
    out = filled(device, (4, 200))
    router.gather(device, out, device.upload(x), device.upload(sources), 2)
    np.testing.assert_array_equal(device.read(out), [x[2], np.zeros(200), x[0], x[1]])


def expert_weights(device, rng, type_name, E, N, K, packed=False):
    """Random weights of E experts, and what the reference makes of them in float64."""
    data = random_blocks(rng, type_name, E * N, K)
    values = wide(dequantize(data, type_name, (K, N, E)))
    if not packed:
        return Weight(device.upload(data), type_name, N, K), values
    each = [packed_weight(device, part, type_name, N, K) for part in np.split(data, E)]
    whole = np.concatenate([device.read(w.data) for w in each])
    return PackedWeight(device.upload(whole), type_name, N, K, each[0].steps), values


def poisoned(device, weight, kept, E):
    """The same weight with the bytes of every expert but `kept` set to 255: a NaN in F32."""
    data = device.read(weight.data).reshape(E, -1).copy()
    data[[e for e in range(E) if e not in kept]] = 255
    return Weight(device.upload(data.reshape(-1)), weight.type, weight.rows, weight.columns)


@pytest.mark.parametrize("type_name", FORMATS)
def test_products_of_one_token(device, type_name):
    rng = np.random.default_rng(5)
    for E, N, K in MATRICES:
        weight, values = expert_weights(device, rng, type_name, E, N, K)
        experts = np.array([E - 1, 0], np.uint32)
        for rows in (1, 2):  # x of the token, or one for each expert
            x, out = rng.standard_normal((rows, K), np.float32), filled(device, (2, N))
            args = (out, weight, device.upload(x), device.upload(experts))
            matvec_experts.matmul_experts(device, *args)
            want = np.einsum("unk,uk->un", values[experts], np.broadcast_to(wide(x), (2, K)))
            assert_close(f"{type_name} {E}x{N}x{K}", device.read(out), want, OP["matvec"])


@pytest.mark.parametrize("type_name", FORMATS)
def test_products_of_tiles(device, type_name):
    rng = np.random.default_rng(6)
    for E, N, K in MATRICES:
        weight, values = expert_weights(device, rng, type_name, E, N, K)
        tiles = np.array([2, 0, NONE], np.uint32)
        x = rng.standard_normal((12, K), np.float32)
        out = filled(device, (12, N))
        args = (out, weight, device.upload(x), device.upload(tiles))
        matvec_experts.matmul_experts(device, *args)
        want = np.einsum("tnk,tjk->tjn", values[[2, 0]], wide(x[:8]).reshape(2, 4, K))
        got = device.read(out)
        assert_close(f"{type_name} {E}x{N}x{K}", got[:8], want.reshape(8, N), OP["matvec"])
        assert not got[8:].any()


@pytest.mark.parametrize("type_name", LAYOUTS)
def test_integer_products(device, type_name):
    rng = np.random.default_rng(7)
    for E, N, K in MATRICES:
        weight, values = expert_weights(device, rng, type_name, E, N, K, packed=True)
        for ids, rows in (([E - 1, 0], 1), ([E - 1, 0], 2), ([2, 0, NONE], 12)):
            rows, x = quantized(device, rng.standard_normal((rows, K), np.float32))
            S = 2 if len(ids) == 2 else 12
            out = filled(device, (S, N))
            chosen = device.upload(np.array(ids, np.uint32))
            matvec_experts.matmul_experts_int8(device, out, weight, rows, chosen)
            x = np.broadcast_to(x[:, :K], (S, K)).reshape(len(ids), -1, K)
            want = np.einsum("enk,ejk->ejn", values[ids[:2]], x[:2]).reshape(-1, N)
            got = device.read(out)
            assert_close(f"{type_name} {E}x{N}x{K}", got[: len(want)], want, OP["matvec"])
            assert not got[len(want) :].any()


@pytest.mark.parametrize("type_name", ["F32", "Q4_0", "Q6_K", "IQ4_XS"])
def test_a_tile_and_one_token_and_the_plain_product_agree_bit_for_bit(device, type_name):
    rng = np.random.default_rng(8)
    E, N, K = 3, 9, 512
    weight, _ = expert_weights(device, rng, type_name, E, N, K)
    x = rng.standard_normal((4, K), np.float32)
    together, alone, plain = filled(device, (4, N)), filled(device, (1, N)), filled(device, (1, N))
    expert = device.upload(np.array([1], np.uint32))
    matvec_experts.matmul_experts(device, together, weight, device.upload(x), expert)
    data = device.read(weight.data)
    one = Weight(device.upload(np.split(data, E)[1]), type_name, N, K)
    for t in range(4):
        row = device.upload(x[t : t + 1])
        matvec_experts.matmul_experts(device, alone, weight, row, expert)
        matvec.matmul(device, plain, one, row)
        np.testing.assert_array_equal(device.read(together)[t], device.read(alone)[0])
        np.testing.assert_array_equal(device.read(alone), device.read(plain))


def test_only_the_chosen_experts_are_read(device):
    rng = np.random.default_rng(9)
    weight, values = expert_weights(device, rng, "F32", 5, 12, 64)
    weight = poisoned(device, weight, (3, 1), 5)
    x, out = rng.standard_normal((1, 64), np.float32), filled(device, (2, 12))
    experts = device.upload(np.array([3, 1], np.uint32))
    matvec_experts.matmul_experts(device, out, weight, device.upload(x), experts)
    assert_close("chosen", device.read(out), values[[3, 1]] @ wide(x[0]), OP["matvec"])


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("shape", experts_sum.SHAPES, ids=str)
def test_experts_sum(device, shape, placed):
    T, U, D = shape["T"], shape["U"], shape["D"]
    rng = np.random.default_rng(10)
    y, w = rng.standard_normal((2 * T * U, D), np.float32), rng.random((T, U), np.float32)
    slots = rng.permutation(2 * T * U)[: T * U].astype(np.uint32)
    out = filled(device, (T, D))
    arrays = (device.upload(a) for a in (y, w, slots))
    experts_sum.experts_sum(device, out, *arrays, placed)
    used = y[slots if placed else np.arange(T * U)].reshape(T, U, D)
    want = np.einsum("tu,tud->td", wide(w), wide(used))
    assert_close("experts_sum", device.read(out), want, OP["norm"])


@pytest.mark.parametrize("shape", experts_sum.SHAPES, ids=str)
def test_add_shared(device, shape):
    T, D = shape["T"], shape["D"]
    rng = np.random.default_rng(11)
    before, shared, x = (rng.standard_normal((T, D), np.float32) for _ in range(3))
    gate = rng.standard_normal(D, np.float32)
    out = device.upload(before)
    experts_sum.add_shared(device, out, *(device.upload(a) for a in (shared, x, gate)))
    opened = 1 / (1 + np.exp(-(wide(x) @ wide(gate))))
    want = wide(before) + opened[:, None] * wide(shared)
    assert_close("add_shared", device.read(out), want, OP["matvec"])


@pytest.mark.parametrize("T, D", [(1, 256), (3, 77)])
def test_add_positions(device, T, D):
    rng = np.random.default_rng(12)
    x, table = rng.standard_normal((T, D), np.float32), rng.standard_normal((9, D), np.float32)
    out, position = device.upload(x), device.upload(np.array([4], np.uint32))
    add.add_positions(device, out, device.upload(table), position)
    np.testing.assert_array_equal(device.read(out), x + table[4 : 4 + T])


def test_the_reference_routes_as_the_formula_says():
    """A plain loop over the definition, renormalised or not."""
    rng = np.random.default_rng(13)
    for logits in rng.standard_normal((20, 6)):
        order = sorted(range(6), key=lambda e: -logits[e])
        share = [np.exp(x) for x in logits]
        for used, normed in ((2, True), (2, False), (6, False)):
            total = sum(share[e] for e in (order[:used] if normed else order))
            want = [0.5 * share[e] / total if e in order[:used] else 0 for e in range(6)]
            np.testing.assert_allclose(
                reference_ops.route(logits[None], used, normed, 0.5)[0], want
            )
    tied = reference_ops.route(np.array([[1.0, 2.0, 2.0, 2.0]]), 2, True)[0]
    np.testing.assert_allclose(tied, [0, 0.5, 0.5, 0])

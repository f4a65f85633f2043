"""Rung "mutation" of a mixture of experts: its classic bugs; see `test_mutations`."""

import pytest

from tests.parity import test_expert_ops
from tests.parity.test_mutations import Mutation, layers, logits, mutant, on
from zerfoo_numba import expert_ops, model
from zerfoo_numba.devices import open_device
from zerfoo_numba.ptx import KernelFault

ROUTER, PRODUCT = "zerfoo_numba.kernels.router", "zerfoo_numba.kernels.matvec_experts"
SUM, WALK = "zerfoo_numba.kernels.experts_sum", "zerfoo_numba.feed_forward"
mixtral, qwen2, qwen3 = (on(layers, name) for name in ("mixtral", "qwen2moe", "qwen3moe"))


def ties():
    test_expert_ops.test_of_equal_logits_the_lowest_experts_are_chosen(open_device("emulator"))


def placement():
    test_expert_ops.test_place_deals_every_pair_to_a_tile_of_its_expert(
        open_device("emulator"), 40, 130, 4
    )


MUTATIONS = (
    Mutation(
        "weights of a softmax over all experts", ROUTER,
        "if normed == uint32(0):", "if normed != uint32(2):", mixtral,
    ),
    Mutation(
        "weights renormalised", ROUTER,
        "if normed == uint32(0):", "if normed == uint32(2):", qwen2,
    ),
    Mutation(
        "the same expert chosen every time", ROUTER,
        "first | comes_before(last, last_index, value, e)", "True", mixtral,
    ),
    Mutation(
        "the last of equal experts chosen", ROUTER,
        "(value == other) & (index < other_index)", "(value == other) & (index > other_index)",
        ties,
    ),
    Mutation(
        "the tiles of two experts overlap", ROUTER,
        "uint32(count + uint32(TILE - 1)) // uint32(TILE)",
        "uint32(count // uint32(TILE)) + uint32(1)", placement,
    ),
    Mutation(
        "experts one row apart", PRODUCT,
        "madd(expert, N, row)", "madd(expert, uint32(N + uint32(1)), row)", mixtral,
    ),
    Mutation(
        "experts a matrix of the other shape apart", PRODUCT,
        "madd(expert, N, row)", "madd(expert, K, row)", mixtral,
    ),
    Mutation(
        "expert 0 for everybody", PRODUCT,
        "expert = experts[uint32(cuda.blockIdx.y)]", "expert = uint32(0)", mixtral,
    ),
    Mutation(
        "a token's experts unweighted", SUM,
        "total += weights[pair] * y", "total += y", mixtral,
    ),
    Mutation(
        "results read in the order of the tokens", SUM,
        "slots[pair] if placed != uint32(0) else pair", "pair", mixtral,
    ),
    Mutation(
        "shared expert left out", WALK,
        'if blk + "ffn_up_shexp.weight" in walk.weights:', "if False:", on(logits, "qwen2moe"),
    ),
    Mutation(
        "shared expert without its gate", WALK, "if gate is None:", "if True:", qwen2,
    ),
    Mutation(
        "gate of the shared expert without its sigmoid", SUM,
        "rcp(float32(1.0) + ex2(float32(-LOG2E) * block_sum(dot, partial)))",
        "block_sum(dot, partial)", qwen2,
    ),
    Mutation(
        "gate and up of the experts swapped", WALK,
        'ops.gated(r["act"], r["gate"], r["up"]', 'ops.gated(r["act"], r["up"], r["gate"]', qwen3,
    ),
)  # fmt: skip


def install(monkeypatch, mutation, module):
    """Put the mutant where its users look it up."""
    if mutation.module == WALK:
        monkeypatch.setattr(model, "feed_forward", module.feed_forward)
        return
    short = mutation.module.rsplit(".", 1)[-1]
    monkeypatch.setattr(expert_ops, short, module)
    monkeypatch.setattr(test_expert_ops, short, module)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_the_suite_notices(mutation, monkeypatch, tmp_path):
    install(monkeypatch, mutation, mutant(mutation, tmp_path))
    with pytest.raises((AssertionError, KernelFault)):  # a fault: reads outside a tensor
        mutation.check()


def test_without_a_mutation_every_check_passes():
    for check in dict.fromkeys(m.check for m in MUTATIONS):
        check()

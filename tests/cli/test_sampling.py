"""The sampler's distribution is the one that its formulas give."""

import math

import numpy as np
import pytest

from zerfoo_numba.errors import InputError
from zerfoo_numba.sampling import Sampler

# Probabilities 0.4, 0.3, 0.2, 0.1 at the ids 2, 0, 3, 1.
P = {2: 0.4, 0: 0.3, 3: 0.2, 1: 0.1}
LOGITS = np.log([P[i] for i in range(4)]).astype(np.float32)
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def distribution(logits=LOGITS, previous=(), **options):
    ids, probabilities = Sampler(**(OFF | options)).distribution(np.asarray(logits), previous)
    return dict(zip(ids.tolist(), probabilities.tolist(), strict=True))


def normalised(weights):
    total = sum(weights.values())
    return {i: w / total for i, w in weights.items()}


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, P),
        ({"top_k": 2}, {2: 4, 0: 3}),
        ({"top_k": 9}, P),
        ({"top_p": 0.65}, {2: 4, 0: 3}),  # 0.4 does not reach 0.65, 0.7 does
        ({"top_p": 0.75}, {2: 4, 0: 3, 3: 2}),
        ({"top_p": 0.0}, {2: 1}),  # the likeliest stays
        ({"min_p": 0.6}, {2: 4, 0: 3}),  # at least 0.6 * 0.4
        ({"min_p": 1.0}, {2: 1}),
        ({"temperature": 0.5}, {i: p**2 for i, p in P.items()}),
        ({"temperature": 2.0}, {i: p**0.5 for i, p in P.items()}),
        # top-p sees what top-k left: 4/9 + 3/9 = 0.78 reaches 0.75
        ({"top_k": 3, "top_p": 0.75}, {2: 4, 0: 3}),
        # temperature comes last: it does not change what top-p and min-p keep
        ({"top_p": 0.65, "temperature": 100.0}, {2: 0.4**0.01, 0: 0.3**0.01}),
        ({"min_p": 0.6, "temperature": 0.01}, {2: 0.4**100, 0: 0.3**100}),
    ],
)
def test_distribution(options, weights):
    found = distribution(**options)
    assert found == pytest.approx(normalised(weights), rel=1e-6)
    assert list(found) == sorted(found, key=lambda i: -found[i])


def test_repeat_penalty_divides_positive_and_multiplies_negative_logits():
    logits = [2.0, -1.0, 0.5, 1.0]
    expected = {0: math.exp(1.0), 1: math.exp(-2.0), 2: math.exp(0.5), 3: math.exp(1.0)}
    found = distribution(logits, [0, 1, 1], repeat_penalty=2.0)
    assert found == pytest.approx(normalised(expected), rel=1e-6)


def test_repeat_penalty_reaches_back_repeat_last_n_tokens():
    for last, penalised in ((0, []), (1, [3]), (2, [2, 3]), (-1, [0, 2, 3])):
        logits = [math.log(p) + 5 for p in (0.25, 0.25, 0.25, 0.25)]
        weights = {i: math.exp(logits[i] / 1.5 if i in penalised else logits[i]) for i in range(4)}
        found = distribution(logits, [0, 2, 3], repeat_penalty=1.5, repeat_last_n=last)
        assert found == pytest.approx(normalised(weights))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_no_temperature_is_greedy(temperature):
    sampler = Sampler(temperature=temperature)
    assert sampler.greedy
    assert distribution(temperature=temperature) == {2: 1.0}
    # the first of equals
    assert distribution(np.array([1.0, 3.0, 3.0]), temperature=temperature) == {1: 1.0}


def test_a_penalty_is_not_plain_greedy():
    sampler = Sampler(repeat_penalty=1.5)
    assert not sampler.greedy
    assert sampler.distribution(np.array([2.0, 1.9]), [0])[0].tolist() == [1]


def test_top_k_takes_the_first_of_equals():
    logits = np.zeros(1000)
    logits[[700, 5]] = 1.0
    assert list(distribution(logits, top_k=4)) == [5, 700, 0, 1]


def test_large_vocabulary_equals_a_full_sort():
    logits = np.random.default_rng(3).normal(0, 3, 262144).astype(np.float32)
    assert list(distribution(logits, top_k=40)) == np.argsort(-logits)[:40].tolist()


def test_a_seed_is_kept_and_none_is_another_each_time():
    assert Sampler(seed=7).seed == 7
    assert Sampler(seed=2**64 + 7).seed == 7
    for seed in (None, -1):
        assert Sampler(seed=seed).seed != Sampler(seed=seed).seed


def test_impossible_tokens_have_no_probability():
    found = distribution([0.0, -np.inf, 0.0])
    assert found == {0: 0.5, 2: 0.5, 1: 0.0}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", "hot"), ("temperature", math.nan), ("temperature", True),
        ("top_k", 1.5), ("top_p", 1.5), ("top_p", -0.1), ("min_p", 2), ("min_p", math.inf),
        ("repeat_penalty", 0.0), ("repeat_penalty", -1), ("repeat_last_n", 0.5), ("seed", "x"),
    ],
)  # fmt: skip
def test_parameters_are_checked(option, value):
    with pytest.raises(InputError, match=option):
        Sampler(**{option: value})


@pytest.mark.parametrize("logits", [[], [[1.0]], [1.0, np.nan], [np.inf, 0.0], [-np.inf]])
def test_logits_are_checked(logits):
    with pytest.raises(InputError, match="logits"):
        Sampler().distribution(np.array(logits))


def test_previous_ids_are_checked():
    with pytest.raises(InputError, match="outside the 4 logits"):
        Sampler(repeat_penalty=2.0).distribution(LOGITS, [4])

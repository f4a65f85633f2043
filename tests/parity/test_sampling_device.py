"""Sampling on the device: the ids of the NumPy statement, the distribution of the float64 one."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from tests.parity import sampling
from tests.parity.conftest import golden_model, golden_tokens
from zerfoo_numba.devices import open_device
from zerfoo_numba.draws import Draws, parameters, seeded
from zerfoo_numba.kernels import sample
from zerfoo_numba.ops import Ops
from zerfoo_numba.sampling import Sampler

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
OPTIONS = (
    {},
    {"top_k": 40},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
    {"top_p": 0.5},
    {"top_p": 0.0},
    {"min_p": 0.1, "temperature": 0.7},
    {"top_k": 3, "repeat_penalty": 1.5, "temperature": 2.0},
    {"temperature": 0.0, "repeat_penalty": 1.3},
    {"top_k": 1500, "top_p": 0.9, "repeat_penalty": 1.2, "repeat_last_n": -1},
    {"temperature": 1e9},
)


class Bench:
    """The buffers of a walk that has just computed `logits` after the tokens `previous`."""

    def __init__(self, device, logits, previous, sampler):
        self.device = device
        history = np.zeros(len(previous) + 2, np.uint32)
        history[: len(previous)] = previous
        self.walk = SimpleNamespace(
            ops=Ops(device),
            logits=device.upload(logits, "logits"),
            history=device.upload(history, "history"),
            position=device.upload(np.array([len(previous) - 1], np.uint32), "position"),
            tokens=device.upload(np.array([77, 78], np.uint32), "tokens"),
        )
        self.draws = Draws(self.walk)
        self.draws.start(sampler)

    def draw(self):
        self.draws.choose(1)
        return int(self.device.read(self.walk.tokens)[0])

    def rewind(self, position):
        self.device.write(self.walk.position, np.array([position], np.uint32))


def check(device, logits, previous, **options):
    """Two draws and everything they leave behind, against the NumPy statement."""
    sampler = Sampler(**(OFF | {"seed": 12345678901234} | options))
    bench = Bench(device, logits, previous, sampler)
    settings, state = parameters(sampler), seeded(sampler.seed)
    for drawn in range(2):
        bench.rewind(len(previous) - 1)
        token = bench.draw()
        state[2] = drawn
        assert token == sampling.draw(logits, previous, state, *settings), options
        assert device.read(bench.walk.position)[0] == len(previous)
        assert device.read(bench.walk.history)[-2:].tolist() == [token, 0]
        assert device.read(bench.draws.state).tolist() == [*state[:2], drawn + 1]
        assert device.read(bench.walk.tokens)[1] == 78


@pytest.fixture(scope="module")
def checked():
    return open_device("emulator", checks=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", sample.SHAPES[:-1], ids=str)
def test_ids_equal_the_numpy_statement(device, checked, shape, options):
    rng = np.random.default_rng(shape["V"])
    logits = sample.inputs(rng, **shape)["logits"]
    previous = rng.integers(0, shape["V"], 90).tolist()
    check(checked if device.name == "emulator" else device, logits, previous, **options)


@pytest.mark.parametrize("options", OPTIONS[2:4], ids=str)
def test_the_largest_vocabulary(device, options):
    rng = np.random.default_rng(1)
    check(device, sample.inputs(rng, **sample.SHAPES[-1])["logits"], [5, 262143, 0], **options)


@pytest.mark.parametrize("options", [{"top_k": 700}, {"top_p": 0.3}, {"top_k": 7}, {}], ids=str)
def test_equal_logits_come_by_index(device, options):
    logits = np.round(np.random.default_rng(2).standard_normal(2500)).astype(np.float32)
    check(device, logits, [0], **options)


@pytest.mark.parametrize("special", [np.nan, -np.inf, np.inf, -0.0])
def test_special_logits(device, special):
    rng = np.random.default_rng(5)
    logits = sample.inputs(rng, 3000)["logits"]
    logits[[7, 2999, 1030]] = special
    logits[8] = 0.0
    check(device, logits, [7, 8], repeat_penalty=1.5)
    check(device, logits, [7, 8], top_k=5, top_p=0.9, min_p=0.01)
    check(device, np.full(40, special, np.float32), [7, 8])


def test_philox_gives_the_words_of_its_authors():
    # Random123, kat_vectors: philox4x32 10
    ones, zeros = [0xFFFFFFFF] * 4, [0] * 4
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]
    words = "6627e8d5 e169c58d bc57ac4c 9b00dbd8"
    assert " ".join(f"{w:08x}" for w in sampling.philox(zeros, zeros[:2])) == words
    words = "408f276d 41c83b0e a20bc7c6 6d5451fd"
    assert " ".join(f"{w:08x}" for w in sampling.philox(ones, ones[:2])) == words
    words = "d16cfe09 94fdcceb 5001e420 24126ea1"
    assert " ".join(f"{w:08x}" for w in sampling.philox(*pi)) == words


def test_masses_are_exponentials():
    values = -np.linspace(0, 25, 5000).astype(np.float32)
    found = sampling.masses(values, sampling.RATE) / 2.0**sampling.UNIT
    # the series 7e-9, the distance in float32 and its rounding to 2^-24 of an octave 2e-6
    np.testing.assert_allclose(found, np.exp(values.astype(np.float64)), rtol=4e-6, atol=2**-40)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_candidates_are_those_of_the_float64_distribution(options):
    rng = np.random.default_rng(11)
    logits = sample.inputs(rng, 700)["logits"]
    previous = rng.integers(0, 700, 90).tolist()
    sampler = Sampler(**(OFF | options))
    ids, probabilities = sampler.distribution(logits, previous)
    found, weights = sampling.candidates(logits, previous, *parameters(sampler))
    assert found.tolist() == ids.tolist()
    np.testing.assert_allclose(weights / weights.sum(), probabilities, rtol=1e-5, atol=1e-9)


def test_draws_follow_the_distribution():
    """Pearson's chi-squared; the ids of every device are these. Seeds are fixed."""
    p = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    logits = np.log(p).astype(np.float32)
    sampler = Sampler(**OFF, seed=3)
    settings, count = parameters(sampler), 6000
    drawn = [
        sampling.draw(logits, [0], [*seeded(sampler.seed)[:2], n], *settings) for n in range(count)
    ]
    counts = np.bincount(drawn, minlength=5)
    # 4 degrees of freedom: 18.5 is exceeded once in 1000 seeds
    assert ((counts - count * p) ** 2 / (count * p)).sum() < 18.5
    # neighbouring draws are independent: 16 degrees of freedom, 39.3
    pairs = np.zeros((5, 5))
    np.add.at(pairs, (drawn[:-1], drawn[1:]), 1)
    expected = (count - 1) * np.outer(p, p)
    assert ((pairs - expected) ** 2 / expected).sum() < 39.3


def test_draws_on_the_cpu_follow_the_distribution():
    p = np.array([0.4, 0.0, 0.3, 0.2, 0.1])
    with np.errstate(divide="ignore"):
        logits = np.log(p).astype(np.float32)
    bench = Bench(open_device("cpu", threads=1), logits, [0], Sampler(**OFF, seed=9))
    count, drawn = 2000, []
    for _ in range(count):
        bench.rewind(0)
        drawn.append(bench.draw())
    counts = np.bincount(drawn, minlength=5)
    assert counts[1] == 0
    expected = count * p[p > 0]
    # 3 degrees of freedom
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < 16.3


def take(model, ids, count, **options):
    return list(itertools.islice(model.stream_ids(ids, count, Sampler(**(OFF | options))), count))


def test_a_model_draws_what_numpy_draws_from_its_logits(device_name):
    name, count = "gemma3_default", 4 if device_name == "emulator" else 12
    model, ids = golden_model(name, device_name), golden_tokens(name, "short")
    options = {"temperature": 1.5, "repeat_penalty": 1.2, "top_p": 0.9, "seed": 17}
    found = take(model, ids, count, **options)
    assert model.stats.graph_share == 1.0
    sampler = Sampler(**(OFF | options))
    seen, state, logits = list(ids), seeded(17), model.prefill(ids)
    for drawn in range(len(found)):
        state[2] = drawn
        seen.append(sampling.draw(logits, seen, state, *parameters(sampler)))
        logits = model.decode(seen[-1])
    assert found == seen[len(ids) :]


def test_a_seed_fixes_the_text_with_and_without_the_graph(device_name):
    name, count = "gemma3_default", 4 if device_name == "emulator" else 12
    ids = golden_tokens(name, "short")
    model, eager = (golden_model(name, device_name, graph=graph) for graph in (True, False))
    first = take(model, ids, count, temperature=3.0, seed=5)
    assert take(model, ids, count, temperature=3.0, seed=5) == first
    assert take(eager, ids, count, temperature=3.0, seed=5) == first
    assert take(model, ids, count, temperature=3.0, seed=6) != first
    # one captured step serves every parameter
    greedy = take(model, ids, count, temperature=0.0)
    assert take(model, ids, count, top_k=1, seed=6) == greedy

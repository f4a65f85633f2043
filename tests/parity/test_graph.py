"""The captured step: every launch of a token is in it, and replay gives what eager steps give."""

import functools

import pytest

import zerfoo_numba
from zerfoo_numba.sampling import Sampler
from zerfoo_numba.synth import SHAPES, synthesize

NAME = "gemma3-tiny"
WINDOW = SHAPES[NAME].keys["attention.sliding_window"]
# One token, two, a few, and more than a sliding window holds.
LENGTHS = (1, 2, 17, WINDOW + 33)
LONG = 1000


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """load(device, graph): the synthetic model, each kind once."""
    path = tmp_path_factory.mktemp("graph") / "model.gguf"
    synthesize(NAME, path)

    @functools.cache
    def load(device_name, graph):
        context = max(LENGTHS) + LONG
        return zerfoo_numba.load_model(path, device=device_name, context=context, graph=graph)

    return load


def prompt(length):
    return [3 + (7 * i) % 500 for i in range(length)]


@pytest.mark.parametrize("length", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in LENGTHS)])
def test_replay_equals_eager(load, device_name, length):
    steps = 4 if device_name == "emulator" else 40
    models = (load(device_name, graph) for graph in (1, 0))
    replayed, eager = (model.greedy_ids(prompt(length), steps) for model in models)
    assert replayed == eager


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
def test_replay_equals_eager_for_a_thousand_steps(load, length):
    replayed, eager = (load("cpu", graph).greedy_ids(prompt(length), LONG) for graph in (1, 0))
    assert replayed == eager
    assert len(set(replayed)) > LONG // 40  # a walk that got stuck would prove little


@pytest.mark.parametrize("sampler", [None, Sampler(0.8, seed=3)], ids=["greedy", "sampled"])
def test_every_launch_of_a_token_is_in_the_graph(load, device_name, sampler):
    model, eager = load(device_name, 1), load(device_name, 0)
    found = [list(m.stream_ids(prompt(5), 6, sampler)) for m in (model, eager)]
    assert found[0] == found[1]
    assert model.stats.graph_share == 1.0
    assert eager.stats.graph_share == 0.0
    assert eager.stats.graph_launches == 0
    # the same launches for each token, of which the replayed model made none outside its graph
    assert model.stats.launches == eager.stats.launches
    assert model.stats.launches % model.stats.decode_steps == 0

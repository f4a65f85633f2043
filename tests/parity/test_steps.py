"""Steps that run ahead of the host: what is handed out, and the sequence that is left, are the same
as without."""

import functools
import itertools

import numpy as np
import pytest

import zerfoo_numba
from tests.parity.conftest import GOLDEN, golden_tokens
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.errors import InputError
from zerfoo_numba.sampling import Sampler

CONTEXT, CHUNK = 48, 5
DEPTHS = (0, 1, 3)


def load(name, depth, **more):
    """The model on a cpu that runs `depth` steps ahead and takes a prompt in short chunks."""
    device = CpuDevice()
    device.ahead, device.chunk = depth, CHUNK
    options = {"context": CONTEXT, "activation": "float", "cache_type": "f32", **more}
    return zerfoo_numba.load_model(GOLDEN / name / "model.gguf", device=device, **options)


@functools.cache
def models_of(name):
    """The model with each depth, and a prompt."""
    return [load(name, depth) for depth in DEPTHS], golden_tokens(name, "short")


@pytest.fixture(params=["gemma3_default", "phi3_longrope"])
def models(request):
    """Of layers with a window, and of a rotation that changes on the way."""
    return models_of(request.param)


def left_behind(model):
    """Everything that the next call may see of the sequence."""
    state = model.save_state()
    tokens = model.device.read(model.walk.tokens)[:1]
    rest = (model.length, list(tokens), model.device.read(model.walk.position)[0])
    logits = model.decode(3), model.extend([5, 6])
    return rest, state["ids"].tolist(), [array.tolist() for array in logits]


def same(found):
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("sampler", [None, Sampler(1.1, top_k=0, seed=7)], ids=["greedy", "drawn"])
@pytest.mark.parametrize("taken", [1, 4, 30])
def test_a_stream_that_nobody_reads_on_leaves_what_was_read(models, sampler, taken):
    models, prompt = models
    found = []
    for model in models:
        stream = model.stream_ids(prompt, 35, sampler)
        given = list(itertools.islice(stream, taken))
        found.append((given, left_behind(model)))
    same(found)


def test_a_stop_token_ends_the_stream_where_it_stands(models, monkeypatch):
    models, prompt = models
    whole = list(models[0].stream_ids(prompt, 12))
    stop = next(t for t in whole[4:] if t not in whole[:4])
    found = []
    for model in models:
        monkeypatch.setattr(model.tokenizer, "eos_ids", {stop})
        given = list(model.stream_ids(prompt, 12))
        assert given == whole[: whole.index(stop)]
        found.append((given, left_behind(model), model.generate(prompt, max_tokens=3)))
    same(found)


def test_a_stream_goes_on_after_a_look_at_its_state(models):
    models, prompt = models
    found = []
    for model in models:
        stream = model.stream_ids(prompt, 9, Sampler(1.1, top_k=0, seed=7))
        given = [next(stream), next(stream)]
        model.save_state()
        found.append(given + list(stream))
    same(found)
    stream = models[-1].stream_ids(prompt, 9)
    next(stream)
    models[-1].extend([3])
    with pytest.raises(InputError, match="another call"):
        next(stream)


def test_the_context_fills_to_the_last_place(models, monkeypatch):
    models, prompt = models
    for model in models:
        monkeypatch.setattr(model.tokenizer, "eos_ids", set())
    found = [list(model.stream_ids(prompt, 1000)) for model in models]
    assert len(found[0]) == CONTEXT - len(prompt) + 1
    same(found)
    assert all(model.length == CONTEXT for model in models)


@pytest.mark.parametrize("moment", ["before the launch", "after the launch", "at the wait"])
def test_an_interrupt_leaves_what_was_read(monkeypatch, moment):
    models, prompt = models_of("gemma3_default")
    for model in models:
        stream, given = model.stream_ids(prompt, 20), []
        given += [next(stream) for _ in range(3)]

        def interrupt(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            if moment == "before the launch":
                patch.setattr(model.steps, "launch", interrupt)
            elif moment == "after the launch":
                patch.setattr(model.device, "fetch", interrupt)
            else:
                patch.setattr(model.steps, "_seen", interrupt)
            with pytest.raises(KeyboardInterrupt):
                next(stream)
        left = left_behind(model)
        assert given == list(itertools.islice(models[0].stream_ids(prompt, 20), 3))
        assert left == left_behind(models[0])


def test_a_recurrent_state_and_a_checked_step_are_not_run_ahead():
    model = load("mamba", 3)
    checked = load("gemma3_default", 3, check_finite=True)
    assert model.steps.depth == checked.steps.depth == 0
    prompt = golden_tokens("mamba", "short")
    stream = model.stream_ids(prompt, 9)
    given = list(itertools.islice(stream, 3))
    plain = load("mamba", 0)
    assert given == plain.greedy_ids(prompt, 3)
    assert np.array_equal(model.decode(given[-1]), plain.decode(given[-1]))

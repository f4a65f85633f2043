"""A model used for hours: by several threads, interrupted, again and again, to the same result."""

import gc
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import zerfoo_numba
from tests.cli.test_use import resident
from tests.parity.conftest import GOLDEN
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.errors import InputError
from zerfoo_numba.sampling import Sampler

PATH = GOLDEN / "llama" / "model.gguf"
CONTEXT = 64


@pytest.fixture(scope="module")
def model():
    return zerfoo_numba.load_model(PATH, device="cpu", context=CONTEXT)


def ids_of(model, prompt, count=8, **options):
    return list(model.stream_ids(prompt, count, Sampler(**options)))


# Threads ----------------------------------------------------------------------------------------


def at_once(*functions):
    """What the functions return, each in a thread of its own, started together."""
    gate, found = threading.Barrier(len(functions)), [None] * len(functions)

    def run(n, function):
        gate.wait()
        try:
            found[n] = function()
        except Exception as error:
            found[n] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_that_share_a_model_take_turns(model):
    prompts = [[2, 5 + n, 7] for n in range(4)]
    texts = [model.generate(p, max_tokens=12) for p in prompts]
    logits = [model.logits(p) for p in prompts]
    for _ in range(3):
        uses = [lambda p=p: model.generate(p, max_tokens=12) for p in prompts]
        uses += [lambda p=p: model.logits(p) for p in prompts]
        found = at_once(*uses)
        assert found[:4] == texts
        for one, other in zip(found[4:], logits, strict=True):
            np.testing.assert_array_equal(one, other)


def test_streams_that_share_a_model_are_right_or_end_in_an_error(model):
    prompts = [[2, 5 + n, 7] for n in range(3)]
    alone = [ids_of(model, p, 20) for p in prompts]
    found = at_once(*(lambda p=p: ids_of(model, p, 20) for p in prompts))
    for one, right in zip(found, alone, strict=True):
        assert one == right or isinstance(one, InputError)
    assert alone[2] in found or alone[1] in found or alone[0] in found


@pytest.mark.parametrize(
    "between",
    [
        lambda model: model.prefill([2, 9]),
        lambda model: model.decode(3),
        lambda model: model.logits([4]),
        lambda model: model.taps([4]),
        lambda model: next(model.stream_ids([2, 8], 5)),
    ],
)
def test_a_stream_whose_sequence_was_ended_says_so(model, between):
    stream = model.stream_ids([2, 5, 7], 10)
    next(stream)
    between(model)
    with pytest.raises(InputError, match="another call has ended the sequence"):
        next(stream)


def test_a_model_for_each_thread(model):
    prompts = [[2, 5 + n, 7] for n in range(3)]
    right = [ids_of(model, p) for p in prompts]
    models = [zerfoo_numba.load_model(PATH, device="cpu", context=CONTEXT) for _ in prompts]
    pairs = list(zip(models, prompts, strict=True))
    assert at_once(*(lambda m=m, p=p: ids_of(m, p) for m, p in pairs)) == right


def duration(use):
    start = time.perf_counter()
    use()
    return time.perf_counter() - start


# Interruption -----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
@pytest.mark.parametrize("use", ["generate", "logits", "taps"])
def test_ctrl_c_leaves_the_model_usable(model, use):
    """A KeyboardInterrupt at many moments of a call: the next call is as if nothing had been."""
    right, text = model.logits([2, 5, 7]), model.generate([2, 5, 7], max_tokens=8)
    long = [2] + [7] * (CONTEXT - 20)
    calls = {
        "generate": lambda: model.generate(long, max_tokens=20, temperature=0.7, seed=3),
        "logits": lambda: model.logits(long),
        "taps": lambda: model.taps(long),
    }
    whole, interrupted = min(duration(calls[use]) for _ in range(4)), 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for n in range(12):
            try:
                signal.setitimer(signal.ITIMER_REAL, whole * (n + 1) / 14)
                calls[use]()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            np.testing.assert_array_equal(model.logits([2, 5, 7]), right)
            assert model.generate([2, 5, 7], max_tokens=8) == text
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 3


# Determinism ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device_name", "count"), [("cpu", 6), pytest.param("emulator", 2, marks=pytest.mark.slow)]
)
def test_the_same_seed_gives_the_same_ids_again_and_after_a_load(device_name, count):
    draws = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    models = [zerfoo_numba.load_model(PATH, device=device_name, context=16) for _ in range(2)]
    found = [ids_of(m, [2, 5], count, **draws, seed=s) for m in models for s in (11, 11, 12)]
    assert found[0] == found[1] == found[3] == found[4]
    assert found[2] == found[5] != found[0]
    logits = [m.logits([2, 5, 9]) for m in models]
    np.testing.assert_array_equal(*logits)


def test_the_number_of_threads_changes_no_bit(model):
    """Blocks are shared out among the threads; what each block computes is not."""
    other = zerfoo_numba.load_model(PATH, device="cpu", context=CONTEXT, threads=1)
    third = zerfoo_numba.load_model(PATH, device="cpu", context=CONTEXT, threads=3)
    prompt = [2] + [7, 9] * 20
    np.testing.assert_array_equal(other.logits(prompt), third.logits(prompt))
    assert other.greedy_ids(prompt, 10) == third.greedy_ids(prompt, 10)


# Hours ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc/self/statm")
def test_twenty_thousand_tokens_in_flat_memory():
    """Full contexts one after another, drawn and greedy in turn, each step read by the host."""
    device = CpuDevice(threads=1)
    model = zerfoo_numba.load_model(PATH, device=device, context=CONTEXT)
    model.tokenizer.eos_ids.clear()  # nothing ends a text but the context
    decoded, sizes = 0, []
    while decoded < 20_000:
        options = {"temperature": 1.0 * (len(sizes) % 2), "seed": len(sizes)}
        decoded += len(ids_of(model, [2, 5 + len(sizes) % 50], CONTEXT, **options)) - 1
        buffers = len(device._memory)
        sizes.append((resident(), buffers))
    gc.collect()
    half = len(sizes) // 2
    grown = resident() - sizes[half][0]
    assert grown < 1 << 20, f"{grown} bytes more after the second ten thousand tokens"
    assert len({buffers for _, buffers in sizes}) == 1

"""A model in use: odd prompts, too little memory, and loads that leave nothing behind."""

import gc
from pathlib import Path

import pytest

import zerfoo_numba
from tests.parity.conftest import GOLDEN
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.errors import ContextError, InputError, OutOfMemoryError, ZerfooError
from zerfoo_numba.footprint import footprint

PATH = GOLDEN / "gemma3_Q4_K_M" / "model.gguf"
CONTEXT = 32


@pytest.fixture(scope="module")
def model():
    return zerfoo_numba.load_model(PATH, device="cpu", context=CONTEXT)


@pytest.mark.parametrize("token", [-1, 10**6, 2**32 + 1])
def test_a_token_id_outside_the_vocabulary_is_named(model, token):
    for use in (model.logits, model.taps, model.prefill, lambda ids: [*model.stream(ids)]):
        with pytest.raises(InputError, match=str(token)):
            use([1, token])
    with pytest.raises(InputError, match=str(token)):
        model.decode(token)


def test_prompts_of_no_token_of_one_and_of_the_whole_context(model):
    for use in (model.logits, model.prefill, lambda ids: [*model.stream(ids)]):
        with pytest.raises(InputError, match="at least one"):
            use([])
    assert model.logits([2]).shape == (1, model.config.V)
    whole = [2] + [7] * (CONTEXT - 1)
    assert model.logits(whole).shape == (CONTEXT, model.config.V)
    with pytest.raises(ContextError, match=f"{CONTEXT}"):
        model.decode(2)  # there is no room for one more
    with pytest.raises(ContextError, match=f"{CONTEXT + 1} tokens"):
        model.logits([*whole, 7])
    assert len(list(model.stream_ids(whole, 5))) <= 1, "the last position has one successor"
    assert len(list(model.stream_ids(whole[:-3], CONTEXT))) <= 4
    assert model.logits([2]).shape == (1, model.config.V)  # an error leaves it usable


class Small(CpuDevice):
    """A machine with `free` bytes left."""

    def __init__(self, free):
        super().__init__(threads=1)
        self.free = free

    def memory_info(self):
        return self.free, 2 * self.free


def test_too_little_memory_names_what_is_asked_what_is_free_and_what_fits():
    gguf = zerfoo_numba.open_gguf(PATH)
    config = zerfoo_numba.load_model(PATH, device="cpu", context=8).config
    some = footprint(gguf, config, 8)
    with pytest.raises(OutOfMemoryError) as caught:
        zerfoo_numba.load_model(PATH, device=Small(some.memory), context=config.context)
    text = str(caught.value)
    assert f"{some.weights / 1e6:.2f} MB for its weights" in text
    assert f"for {config.context} tokens" in text
    assert f"{some.memory / 1e6:.2f} MB of {2 * some.memory / 1e6:.2f} MB are free" in text
    assert "a context of 8 tokens would fit" in text
    assert zerfoo_numba.load_model(PATH, device=Small(some.memory), context=8).logits([2]).any()
    # A coarser cache is offered where it holds more, and it does.
    room, whole = footprint(gguf, config, 160).memory, config.context
    with pytest.raises(OutOfMemoryError, match="of 128 tokens would fit, or one of 256 w") as got:
        zerfoo_numba.load_model(PATH, device=Small(room), context=whole)
    assert str(got.value).endswith("cache_type 'q8_0'")
    zerfoo_numba.load_model(PATH, device=Small(room), context=whole, cache_type="q8_0")
    with pytest.raises(OutOfMemoryError, match="no context makes it fit"):
        zerfoo_numba.load_model(PATH, device=Small(some.weights - 1), context=8)


def test_a_load_that_fails_leaves_nothing():
    device = CpuDevice(threads=1)
    with pytest.raises(ZerfooError):
        zerfoo_numba.load_model(PATH, device=device, context=8, cache_type="f8")
    gc.collect()
    assert not device._memory


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return 4096 * pages


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc/self/statm")
def test_a_hundred_loads_leave_nothing_behind():
    device = CpuDevice(threads=2)

    def use():
        model = zerfoo_numba.load_model(PATH, device=device, context=CONTEXT)
        assert len(model.generate([2, 7], max_tokens=3)) >= 0

    for _ in range(20):  # until every cache is as full as it gets
        use()
    gc.collect()
    assert not device._memory, "buffers of a model outlive it"
    before = resident()
    for _ in range(100):
        use()
    gc.collect()
    assert not device._memory
    assert resident() - before < 8 << 20, "100 loads left more than a tenth of a file each"

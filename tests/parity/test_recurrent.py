"""What only recurrent models can get wrong: a state that outlives its sequence, or does not survive
being carried from part to part, from chunk to chunk, or from one run to another."""

import numpy as np
import pytest

import reference
import zerfoo_numba
from tests.parity.compare import assert_close
from tests.parity.conftest import GOLDEN, golden_model, golden_reference, golden_tokens
from tests.parity.test_checked import load as load_checked
from tests.parity.test_models import check_split, greedy_by_prefill
from tests.parity.tolerances import MODEL
from zerfoo_numba.errors import ContextError, InputError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.gguf_writer import write_gguf
from zerfoo_numba.ptx import Checks
from zerfoo_numba.quant.write import quantize

NAMES = ("mamba", "falcon_mamba", "rwkv6", "rwkv6_older", "rwkv7", "rwkv7_ungated")


@pytest.mark.parametrize("name", NAMES)
def test_a_prefill_forgets_the_sequence_before(name, device_name):
    model, ids = golden_model(name, device_name), golden_tokens(name, "long")
    first = model.logits(ids[:9])
    model.greedy_ids(ids[9:], 5)
    np.testing.assert_array_equal(model.logits(ids[:9]), first)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_take_a_prompt_in_parts(name, device_name, monkeypatch):
    """Chunks of 3 are shorter than the 4 tokens that the longest convolution looks back."""
    ids, want = (
        golden_tokens(name, "long"),
        golden_reference(name).logits(golden_tokens(name, "long")),
    )
    model = golden_model(name, device_name)
    parts = [
        model.prefill(ids[:1], True),
        model.extend(ids[1:3], True),
        model.extend(ids[3:], True),
    ]
    assert_close(name, np.concatenate(parts), want, MODEL[name])
    monkeypatch.setattr(model.walk, "chunk", 3)
    assert_close(name, model.logits(ids), want, MODEL[name])


@pytest.mark.parametrize("name", NAMES)
def test_decode_steps_between_parts(name, device_name):
    model, ids = golden_model(name, device_name), golden_tokens(name, "long")
    rows = [model.prefill(ids[:5])]
    rows += [model.decode(ids[5]), model.extend(ids[6:13]), model.decode(ids[13])]
    want = golden_reference(name).logits(ids)[[4, 5, 12, 13]]
    assert_close(name, np.stack(rows), want, MODEL[name])


@pytest.mark.parametrize("name", ["falcon_mamba", "rwkv6", "rwkv7"])
def test_replay_equals_eager_equals_prefill(name, device_name):
    ids = golden_tokens(name, "long")[:5]
    model = golden_model(name, device_name)
    replayed = model.greedy_ids(ids, 16)
    assert replayed == golden_model(name, device_name, graph=False).greedy_ids(ids, 16)
    assert replayed[:6] == greedy_by_prefill(model, ids, 6)


@pytest.mark.parametrize("name", ["mamba", "rwkv6", "rwkv7"])
def test_every_launch_of_a_decode_step_is_in_the_graph(name, device_name):
    model = golden_model(name, device_name)
    list(model.stream_ids([3, 5, 7], 6))
    assert model.stats.graph_share == 1.0
    assert model.stats.graph_launches == model.stats.launches > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_prefill_is_one_launch_a_stage(name, device_name):
    """As many launches for 20 tokens as for 2."""
    model, ids = golden_model(name, device_name), golden_tokens(name, "long")
    counts = []
    for part in (ids[:2], ids[:20]):
        before = model.device.launch_count
        model.prefill(part)
        counts.append(model.device.launch_count - before)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", [*NAMES, "gemma3_default", "phi3_longrope"])
def test_a_saved_state_goes_on_where_it_was(name, device_name, tmp_path):
    ids = golden_tokens(name, "long")
    model = golden_model(name, device_name)
    model.prefill(ids[:11])
    np.savez(tmp_path / "state.npz", **model.save_state())
    expected = [model.decode(ids[11]), model.extend(ids[12:20])]
    model.prefill(ids[::-1])
    with np.load(tmp_path / "state.npz") as saved:
        model.restore_state(saved)
        other = golden_model(name, device_name, graph=False)
        other.restore_state(saved)
    for restored in (model, other):
        assert restored.length == 11 and restored.history(0, 11) == ids[:11]
        np.testing.assert_array_equal(restored.decode(ids[11]), expected[0])
        np.testing.assert_array_equal(restored.extend(ids[12:20]), expected[1])


def test_a_state_of_something_else_is_refused():
    model, other = golden_model("rwkv7", "emulator"), golden_model("rwkv6", "emulator")
    ids = golden_tokens("rwkv7", "short")
    model.prefill(ids)
    saved = model.save_state()
    with pytest.raises(InputError, match=r"rwkv7 .* not of rwkv6"):
        other.restore_state(saved)
    with pytest.raises(InputError, match="no model"):
        model.restore_state({})
    with pytest.raises(InputError, match=r"blk\.1\.wkv is float64"):
        model.restore_state(saved | {"blk.1.wkv": saved["blk.1.wkv"].astype(np.float64)})
    with pytest.raises(InputError, match=r"blk\.0\.ffn_shift"):
        model.restore_state({n: a for n, a in saved.items() if n != "blk.0.ffn_shift"})
    path = GOLDEN / "rwkv7" / "model.gguf"
    short = zerfoo_numba.load_model(path, device="emulator", context=4, activation="float")
    with pytest.raises(ContextError, match="7 tokens"):
        short.restore_state(saved)
    assert model.length == len(ids)


def test_a_cache_of_another_type_is_refused():
    model, half = (
        golden_model("gemma3_default", "emulator", cache_type=kind) for kind in ("f32", "f16")
    )
    model.prefill([3, 4, 5])
    with pytest.raises(InputError, match="cache type"):
        half.restore_state(model.save_state())


def quantised(name, path):
    """The golden with Q8_0 matrices wherever rows are multiples of 32."""
    with open_gguf(GOLDEN / name / "model.gguf") as gguf:
        tensors, held = {}, {}
        for tensor, (shape, kind, data) in gguf.tensors.items():
            if kind == "F16" and shape[0] % 32 == 0:
                values = data.view(np.float16).astype(np.float32).reshape(shape[::-1])
                kind, data = "Q8_0", quantize(values, "Q8_0").reshape(-1).view(np.uint8)
            tensors[tensor], held[tensor] = (shape, kind), data.tobytes()
        metadata = dict(gguf.metadata)
        write_gguf(path, metadata, tensors, lambda tensor, shape, kind: [held[tensor]])
    return sum(kind == "Q8_0" for _, kind in tensors.values())


@pytest.mark.parametrize("name", ["mamba", "rwkv6", "rwkv7"])
def test_quantised_projections(name, device_name, tmp_path):
    path = tmp_path / "model.gguf"
    assert quantised(name, path) >= 6
    ids = golden_tokens(name, "long")
    want = reference.load_model(path).logits(ids)
    options = {"device": device_name, "context": 64}
    exact = zerfoo_numba.load_model(path, activation="float", **options)
    assert_close(f"{name} float", exact.logits(ids), want, MODEL[name])
    fast = zerfoo_numba.load_model(path, activation="int8", **options)
    assert_close(f"{name} int8", fast.logits(ids), want, MODEL["int8_recurrent"])
    rows = [fast.prefill(ids[:30])] + [fast.decode(token) for token in ids[30:]]
    assert_close(f"{name} int8 split", np.stack(rows), want[29:], MODEL["int8_recurrent"])


def test_text_through_a_vocabulary_of_byte_strings(device_name):
    model = golden_model("rwkv7", device_name)
    ids = model.tokenizer.encode("ABCA\n\n\u20acB")
    assert [model.tokenizer.pieces[i] for i in ids] == [
        "ABC",
        "A",
        "\\n\\n",
        "\\xe2\\x82\\xac",
        "B",
    ]
    assert model.tokenizer.decode(ids) == "ABCA\n\n\u20acB"
    text = model.generate("ABCD", max_tokens=5)
    assert text == model.tokenizer.decode(model.greedy_ids(model.tokenizer.encode("ABCD"), 5))


@pytest.mark.parametrize("name", ["mamba", "rwkv6", "rwkv7"])
def test_a_split_of_the_long_prompt_after_one_token(name, device_name):
    check_split(golden_model(name, device_name), name, "long", 1)


@pytest.mark.parametrize("name", NAMES)
def test_no_check_of_the_emulator_finds_anything(name):
    ids = golden_tokens(name, "short")
    checked, plain = load_checked(name, checks=True), load_checked(name)
    np.testing.assert_array_equal(checked.logits(ids), plain.logits(ids))
    assert checked.greedy_ids(ids[:3], 2) == plain.greedy_ids(ids[:3], 2)


@pytest.mark.parametrize("name", ["falcon_mamba", "rwkv6", "rwkv7"])
def test_parity_holds_when_approximations_are_as_bad_as_the_isa_allows(name):
    ids = golden_tokens(name, "long")[:20]
    logits = load_checked(name, checks=Checks(perturb=True)).logits(ids)
    assert_close(name, logits, golden_reference(name).logits(ids), MODEL[name])

"""Image towers and image prompts: against transformers and against the reference.

Real files: `test_llava_vision_pipeline` and `test_qwenvl_vision_pipeline` in `test_full_models.py`.
"""

import functools
import json

import numpy as np
import pytest

import reference
import zerfoo_numba
from bench import vision, vision_models
from tests.parity.compare import assert_close
from tests.parity.tolerances import (
    IMAGE_LOGITS,
    IMAGE_TOKENS,
    MODEL,
    SYNTHETIC_IMAGE_LOGITS,
    SYNTHETIC_IMAGE_TOKENS,
)
from tests.parity.vision_goldens import NAMES, golden
from zerfoo_numba.devices import open_device
from zerfoo_numba.devices.emulator import EmulatorDevice

SYNTHETIC = ("llava", "qwenvl")


@functools.cache
def load(name, device_name, chunk=None, **options):
    files = golden(name)
    options = {"activation": "float", "cache_type": "f32"} | options
    device = open_device(device_name)
    device.chunk = chunk or device.chunk
    return zerfoo_numba.load_model(files.model, mmproj=files.mmproj, device=device, **options)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_an_image_are_those_of_transformers(name, device_name):
    model, expected = load(name, device_name), golden(name)
    for image, tokens in zip(expected.images, expected.tokens, strict=True):
        found = model.embed_image(image)
        assert found.dtype == np.float32
        assert_close(f"{name} {image.name}", found, tokens, IMAGE_TOKENS[name].twice())


@pytest.mark.parametrize("name", NAMES)
def test_logits_with_images_are_those_of_transformers(name, device_name):
    expected = golden(name)
    logits = load(name, device_name).logits(expected.prompt)
    assert_close(f"{name} logits", logits, expected.logits, IMAGE_LOGITS[name].twice())


@pytest.mark.parametrize("chunk", [4, 11])
@pytest.mark.parametrize("name", NAMES)
def test_images_may_be_cut_by_the_parts_of_a_prefill(name, chunk, device_name):
    expected, model = golden(name), load(name, device_name, chunk)
    logits = model.logits(expected.prompt)
    assert_close(f"{name} logits", logits, expected.logits, IMAGE_LOGITS[name].twice())


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_prefill_and_decode_are_one_prefill_of_everything(name, graph, device_name):
    expected, model = golden(name), load(name, device_name, graph=graph)
    text = next(i for i, item in enumerate(reversed(expected.prompt)) if not isinstance(item, int))
    for split in range(text):
        after = expected.prompt[len(expected.prompt) - split :]
        rows = [model.prefill(expected.prompt[: len(expected.prompt) - split])]
        rows += [model.decode(token) for token in after]
        want = expected.logits[len(expected.logits) - split - 1 :]
        assert_close(f"{name} {split} decoded", np.stack(rows), want, IMAGE_LOGITS[name].twice())


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_grows_by_images_too(name, device_name):
    expected, model = golden(name), load(name, device_name)
    model.prefill(expected.prompt[:2])
    first = len(expected.prompt) - 3
    rows = [model.extend(expected.prompt[2:first], all_logits=True)]
    rows.append(model.extend(expected.prompt[first:], all_logits=True))
    assert_close(name, np.concatenate(rows), expected.logits[2:], IMAGE_LOGITS[name].twice())


@pytest.mark.parametrize("name", NAMES)
def test_the_next_sequence_knows_nothing_of_the_images_of_the_last(name, device_name):
    model, ids = load(name, device_name), [1, 5, 9, 13, 4]
    text = reference.load_model(golden(name).model).logits(ids)
    model.logits(golden(name).prompt)
    assert_close(name, model.logits(ids), text, IMAGE_LOGITS[name].twice())


@pytest.mark.parametrize("name", NAMES)
def test_replay_after_images_equals_eager_equals_prefill(name, device_name):
    prompt = golden(name).prompt
    replayed = load(name, device_name).greedy_ids(prompt, 12)
    assert replayed == load(name, device_name, graph=False).greedy_ids(prompt, 12)
    model, ids = load(name, device_name), list(prompt)
    for _ in range(4):
        ids.append(int(np.argmax(model.prefill(ids))))
    assert replayed[:4] == ids[-4:]


@pytest.mark.parametrize("name", NAMES)
def test_taps_are_those_of_the_reference(name, device_name):
    files = golden(name)
    want = reference.load_model(files.model, mmproj=files.mmproj).taps(files.prompt)
    found = load(name, device_name).taps(files.prompt)
    for tap in ("embed", "blk.0.q", "blk.0.k", "blk.0.attn_out", "result_norm", "result_output"):
        assert_close(f"{name} {tap}", found[tap], want[tap], IMAGE_LOGITS[name].twice())


@pytest.mark.parametrize("name", NAMES)
def test_no_check_of_the_emulator_finds_anything(name):
    files = golden(name)
    checked = zerfoo_numba.load_model(
        files.model, mmproj=files.mmproj, device=EmulatorDevice(checks=True), activation="float",
        cache_type="f32",
    )  # fmt: skip
    plain = load(name, "emulator")
    np.testing.assert_array_equal(checked.logits(files.prompt), plain.logits(files.prompt))
    assert checked.greedy_ids(files.prompt, 2) == plain.greedy_ids(files.prompt, 2)


# Synthetic weights in the shape of the families --------------------------------------------


@pytest.fixture(scope="module", params=SYNTHETIC)
def pair(request, tmp_path_factory):
    return vision_models.write(request.param, tmp_path_factory.mktemp(request.param))


def image_of(width, height):
    """Colours that change along both sides, so that no two patches are alike."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], -1).astype(np.uint8)


def check_pipeline(pair, device_name, prompt, image, tokens, logits, **options):
    """The reference's image tokens and logits, from pixels, within these tolerances."""
    expected = reference.load_model(pair.model, mmproj=pair.mmproj)
    model = zerfoo_numba.load_model(
        pair.model, mmproj=pair.mmproj, device=device_name, activation="float", cache_type="f32",
        context=256, **options,
    )  # fmt: skip
    want = expected.embed_image(image)
    assert want.std() > 0.01
    assert_close("image tokens", model.embed_image(image), want, tokens)
    items = [*prompt, image, *prompt[1:]]
    assert_close("logits", model.logits(items), expected.logits(items), logits)
    return model, items


def test_synthetic_vision_pipeline(pair, device_name):
    model, items = check_pipeline(
        pair, device_name, [1, 300, 420], image_of(120, 90), SYNTHETIC_IMAGE_TOKENS,
        SYNTHETIC_IMAGE_LOGITS,
    )  # fmt: skip
    blank = [np.full_like(item, 255) if isinstance(item, np.ndarray) else item for item in items]
    change = np.abs(model.prefill(blank) - model.prefill(items)).max()
    assert change > 100 * SYNTHETIC_IMAGE_LOGITS.max_abs, "the answer does not depend on the image"


@pytest.mark.parametrize("matrices", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_quantised_tower_equals_the_reference(name, matrices, tmp_path, device_name):
    pair = vision_models.write(name, tmp_path, matrices)
    check_pipeline(
        pair, device_name, [1, 7], image_of(64, 64), SYNTHETIC_IMAGE_TOKENS, SYNTHETIC_IMAGE_LOGITS
    )


def test_fast_mode_stays_near_exact_mode_behind_an_image(pair, device_name):
    items = [1, 300, image_of(80, 80), 301, 302]
    options = {"mmproj": pair.mmproj, "device": device_name, "context": 256}
    exact = zerfoo_numba.load_model(pair.model, activation="float", **options).prefill(items)
    fast = zerfoo_numba.load_model(pair.model, activation="int8", **options).prefill(items)
    assert_close("int8", fast, exact, MODEL["int8"])


def check_bench(name, device_name, capsys, monkeypatch):
    monkeypatch.setattr(vision, "SIZE", (84, 56))
    arguments = ["--model", name, "-n", "3", "-r", "1", "--device", device_name, "--json"]
    assert vision.main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["backend"] == device_name
    for figure in ("images_per_s", "tower_ms", "prompt_tokens_per_s", "decode_tokens_per_s"):
        assert 0 < record[figure] < np.inf
    tower, tokens = vision_models.TOWERS[name], record["image_tokens"]
    patches = tokens * tower.merge**2
    # Every patch passes the four attention matrices and the two of the feed-forward.
    per_patch = 2 * tower.L * (4 * tower.D**2 + 2 * tower.D * tower.F)
    assert record["tower_gflop"] > patches * per_patch / 1e9
    assert record["prompt_tokens"] > tokens
    if record["tower_floor_ms"] is not None:
        floor = 1e3 * record["tower_gflop"] / record["flop_rate_gflop_per_s"]
        assert record["tower_floor_ms"] == pytest.approx(floor)
        assert record["tower_over_floor"] == pytest.approx(record["tower_ms"] / floor)
    assert name in vision.table(record)


@pytest.mark.slow
def test_bench_llava_throughput(device_name, capsys, monkeypatch):
    check_bench("llava", device_name, capsys, monkeypatch)


def test_bench_qwenvl_throughput(device_name, capsys, monkeypatch):
    check_bench("qwenvl", device_name, capsys, monkeypatch)


def test_bench_of_half_a_pair_is_one_sentence_and_exit_2(capsys):
    assert vision.main(["-m", "model.gguf"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and "--mmproj" in err

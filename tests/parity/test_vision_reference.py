"""The reference's towers and image prompts against transformers, and against their own mistakes."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import reference
from reference import ops, prompt, vision
from tests.parity.compare import assert_close
from tests.parity.tolerances import IMAGE_LOGITS, IMAGE_TOKENS
from tests.parity.vision_goldens import NAMES, golden
from zerfoo_numba.errors import FileError, InputError


def load(name, dtype="float32"):
    files = golden(name)
    return reference.load_model(files.model, mmproj=files.mmproj, dtype=dtype)


def test_every_golden_has_a_tolerance():
    assert sorted(IMAGE_TOKENS) == sorted(IMAGE_LOGITS) == NAMES


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_an_image_are_those_of_transformers(name, dtype):
    model, expected = load(name, dtype), golden(name)
    for image, tokens in zip(expected.images, expected.tokens, strict=True):
        found = model.embed_image(image)
        assert found.dtype == dtype
        assert_close(f"{name} {image.name}", found, tokens, IMAGE_TOKENS[name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_with_images_are_those_of_transformers(name, dtype):
    expected = golden(name)
    logits = load(name, dtype).logits(expected.prompt)
    assert_close(f"{name} logits", logits, expected.logits, IMAGE_LOGITS[name])


@pytest.mark.parametrize("name", NAMES)
def test_an_image_may_be_a_path_a_picture_pixels_or_bytes(name):
    model, path = load(name), golden(name).images[0]
    expected = model.embed_image(path)
    image = Image.open(path)
    for source in (str(path), image, np.asarray(image), path.read_bytes()):
        assert np.array_equal(model.embed_image(source), expected)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_an_image_of_mutual_attention_looks_ahead(name):
    expected, model = golden(name), load(name, "float64")
    last = max(i for i, item in enumerate(expected.prompt) if prompt.is_image(item))
    whole = model.logits(expected.prompt)
    first = model.logits(expected.prompt[: last + 1])
    assert len(first) < len(whole)
    assert np.abs(first - whole[: len(first)]).max() < 1e-10


def number(**fields):
    """Another number of the tower."""

    def change(model, _):
        model.tower.config = replace(model.tower.config, **fields)

    return change


def row(**fields):
    """Another row of PROJECTORS."""

    def change(model, _):
        spec = replace(model.tower.config.spec, **fields)
        model.tower.config = replace(model.tower.config, spec=spec)

    return change


def text(**fields):
    """Another rotation of every layer of the text model."""

    def change(model, _):
        layers = (replace(k, rope=replace(k.rope, **fields)) for k in model.config.layers)
        model.config = replace(model.config, layers=tuple(layers))

    return change


def patched(target, attribute, function):
    return lambda model, monkeypatch: monkeypatch.setattr(target, attribute, function)


def without(name):
    """The mmproj file without a tensor."""

    def change(model, _):
        held = model.tower.weights.tensors
        model.tower.weights.tensors = {n: t for n, t in held.items() if n != name}
        assert len(model.tower.weights.tensors) < len(held)

    return change


def turned_by_columns_first(self, rows, columns):
    cos, sin = ROPE_TABLE(self, rows, columns)
    return np.roll(cos, cos.shape[1] // 2, 1), np.roll(sin, sin.shape[1] // 2, 1)


def seen_wherever(tokens, length, window=None, image=None):
    """The window of a local layer does not hold within an image."""
    own = image[length - tokens :, None]
    return MASK(tokens, length, window) | (own == image[None, :]) & (own >= 0)


def class_token_last(self, pixels):
    """Its position then is that of the last patch, and the first patch has that of the class."""
    places = self.weights.array("v.position_embd.weight")
    return np.roll(EMBEDDED(self, pixels) - places, -1, 0) + places


EMBEDDED = vision.Tower._embedded
ROPE_TABLE, MASK = vision.Tower._rope_table, ops.attention_mask
LLAVA = {
    "eps": number(eps=2.1e-3),
    "class token last": patched(vision.Tower, "_embedded", class_token_last),
    "a block more or less": number(features=(1,)),
    "no norm before": number(pre_norm=False),
    "erf for sigmoid": number(activation="gelu"),
    "squeezed": number(resize="square"),
    "padded": number(resize="pad"),
    "mean": number(mean=(0.5, 0.5, 0.5)),
}
QWEN = {
    "columns first": patched(vision.Tower, "_rope_table", turned_by_columns_first),
    "one kernel": without("v.patch_embd.weight.1"),
    "no norm after": number(post_norm=False),
    "line of positions": row(image_positions="line"),
    "sections": text(sections=(2, 2, 2)),
    "one section": text(sections=(6, 0, 0)),
}
WRONG = {
    "llava15": LLAVA,
    "llava16": {
        "one state": number(features=(2, 2)),
        "states the other way": number(features=(2, 1)),
        "no newline": number(newline=False),
        "other resolution": number(pinpoints=((32, 16),)),
        "tanh for erf": number(activation="gelu_tanh"),
    },
    "qwen2vl": QWEN
    | {
        "eps": number(eps=1e-4),
        "no lower limit": number(min_pixels=1),
        "no upper limit": number(max_pixels=10**6),
        "erf for sigmoid": number(activation="gelu"),
    },
    "qwen25vl": QWEN
    | {
        "no windows": number(full=(True,) * 3),
        "windows everywhere": number(full=(False,) * 3),
        "wider windows": number(window=24),
        "no gate": without("v.blk.1.ffn_gate.weight"),
        "gelu": number(activation="gelu_tanh"),
    },
    "gemma3": {
        "eps": number(eps=2.1e-3),
        "causal within an image": row(bidirectional=False),
        "window not within an image": patched(ops, "attention_mask", seen_wherever),
        "erf for tanh": number(activation="gelu"),
        "bicubic": patched(Image, "BILINEAR", Image.BICUBIC),
        "no norm after": number(post_norm=False),
        "centre cut out": number(resize="crop"),
        "embedding scale on images": lambda model, _: scaled(model),
    },
}


def scaled(model):
    embed, scale = model.tower.embed, model.config.embed_scale

    def larger(image):
        found = embed(image)
        return found._replace(tokens=found.tokens * scale)

    model.tower.embed = larger


def test_every_golden_is_made_wrong():
    assert sorted(WRONG) == NAMES


@pytest.mark.parametrize(
    ("name", "mistake"), [(name, mistake) for name, those in WRONG.items() for mistake in those]
)
def test_a_mistake_moves_the_logits(name, mistake, monkeypatch):
    model, expected = load(name), golden(name)
    WRONG[name][mistake](model, monkeypatch)
    logits = model.logits(expected.prompt)
    if logits.shape == expected.logits.shape:
        assert np.abs(logits - expected.logits).max() > 5 * IMAGE_LOGITS[name].max_abs


def test_text_alone_needs_no_tower():
    ids = [1, 5, 9, 13]
    files = golden("qwen2vl")
    assert_close(
        "text", load("qwen2vl").logits(ids), reference.load_model(files.model).logits(ids),
        IMAGE_LOGITS["qwen2vl"],
    )  # fmt: skip


def test_positions_go_on_behind_the_largest_of_an_image():
    expected = golden("qwen2vl")
    model = load("qwen2vl")
    found = prompt.read_prompt(expected.prompt, model.config.V, model.tower).positions
    starts = [i for i, item in enumerate(expected.prompt) if prompt.is_image(item)]
    rows, columns = 2, 4  # of the first image's tokens
    s = starts[0]
    image = found[:, s : s + rows * columns]
    assert image[0].tolist() == [s] * 8
    assert image[1].tolist() == [s + i // columns for i in range(8)]
    assert image[2].tolist() == [s + i % columns for i in range(8)]
    assert found[:, s + 8].tolist() == [s + columns] * 3


def test_an_image_without_a_tower_is_refused():
    files = golden("llava15")
    model = reference.load_model(files.model)
    with pytest.raises(InputError, match="mmproj"):
        model.logits(files.prompt)
    with pytest.raises(InputError, match="mmproj"):
        model.embed_image(files.images[0])


def test_a_tower_of_another_width_is_refused():
    with pytest.raises(FileError, match=r"24 wide.* 32"):
        reference.load_model(
            golden("llava15").model.parents[2] / "llama" / "model.gguf",
            mmproj=golden("llava15").mmproj,
        )


@pytest.mark.parametrize("source", ["nowhere.png", b"no image", np.zeros((2, 2, 3))])
def test_what_is_no_image_is_refused(source):
    with pytest.raises(InputError, match="is no image"):
        load("llava15").embed_image(source)

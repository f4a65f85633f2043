"""Rung "mutation", for images: the bugs that towers and image prompts invite; each is noticed."""

import functools

import pytest

import zerfoo_numba
from tests.parity.compare import assert_close
from tests.parity.test_mutations import Mutation, mutant
from tests.parity.tolerances import IMAGE_LOGITS, IMAGE_TOKENS
from tests.parity.vision_goldens import golden
from zerfoo_numba import generate, model, ops
from zerfoo_numba.vision import tower

TOWER, SEQUENCE = "zerfoo_numba.vision.tower", "zerfoo_numba.vision.sequence"


EXACT = {"device": "emulator", "activation": "float", "cache_type": "f32"}


def load(name):
    files = golden(name)
    return generate.load_model(files.model, mmproj=files.mmproj, **EXACT)


@functools.cache
def of(check, name):
    """The same check of one golden."""
    return functools.partial(check, name)


def tokens(name):
    expected, built = golden(name), load(name)
    for image, want in zip(expected.images, expected.tokens, strict=True):
        assert_close(name, built.embed_image(image), want, IMAGE_TOKENS[name].twice())


def logits(name):
    expected = golden(name)
    found = load(name).logits(expected.prompt)
    assert_close(name, found, expected.logits, IMAGE_LOGITS[name].twice())


def decoded(name):
    expected, built = golden(name), load(name)
    built.prefill(expected.prompt[:-1])
    found = built.decode(expected.prompt[-1])
    assert_close(name, found, expected.logits[-1], IMAGE_LOGITS[name].twice())


def afterwards(name):
    expected, built = golden(name), load(name)
    text = [i for i in expected.prompt if isinstance(i, int)]
    want = zerfoo_numba.load_model(expected.model, **EXACT)
    built.prefill(expected.prompt)
    assert_close(name, built.prefill(text), want.prefill(text), IMAGE_LOGITS[name].twice())


MUTATIONS = (
    Mutation("columns before rows in the tower", TOWER, "places[:, :, None] * frequency",
             "places[:, ::-1, None] * frequency", of(tokens, "qwen2vl")),
    Mutation("the class token's position given to a patch", TOWER, "first + places[:, 0] *",
             "places[:, 0] *", of(tokens, "llava15")),
    Mutation("the class token for a patch", TOWER, "c.class_token * width", "0",
             of(tokens, "llava15")),
    Mutation("one frame of the kernel", TOWER, "if c.temporal == 2:", "if False:",
             of(tokens, "qwen2vl")),
    Mutation("windows left out", TOWER, "spans[c.full[i]]", "spans[True]", of(tokens, "qwen25vl")),
    Mutation("a window without a beginning", "zerfoo_numba.kernels.vision_attention",
             "(mine >= spans[at]) & ", "", of(tokens, "qwen25vl")),
    Mutation("a span without its end", "zerfoo_numba.kernels.vision_attention",
             "mine <= spans[", "mine < spans[", of(tokens, "llava15")),
    Mutation("tokens in the order of windows", TOWER, "rows[prepared.order]",
             "rows[np.sort(prepared.order)]", of(tokens, "qwen25vl")),
    Mutation("rows end without a newline", TOWER, "newline[None]]", "0 * newline[None]]",
             of(tokens, "llava16")),
    Mutation("states joined the other way", TOWER, "place * c.D",
             "(len(c.features) - 1 - place) * c.D", of(tokens, "llava16")),
    Mutation("no norm after the tower", TOWER, "i == c.L and c.post_norm", "False",
             of(tokens, "gemma3")),
    Mutation("sums for means", "zerfoo_numba.kernels.pool", "np.float32(1 / n)", "np.float32(1)",
             of(tokens, "gemma3")),
    Mutation("another slope of the quick gelu", "zerfoo_numba.kernels.activation", "-1.702", "-1.6",
             of(tokens, "llava15")),
    Mutation("a causal image", SEQUENCE, "mutual = True", "mutual = False", of(logits, "gemma3")),
    Mutation("the second image in the place of the first", SEQUENCE, "rows = picture.rows[",
             "rows = pictures[-1].rows[", of(logits, "gemma3")),
    Mutation("rows for columns", SEQUENCE, "2] += column", "2] += row", of(logits, "qwen2vl")),
    Mutation("text that counts the tokens of an image", SEQUENCE,
             "+= max(rows, columns) - rows * columns", "+= 0", of(decoded, "qwen25vl")),
    Mutation("columns turn as rows do", "zerfoo_numba.kernels.rope",
             "uint32(pair >= height) + uint32(pair >= width)", "uint32(pair >= height)",
             of(logits, "qwen2vl")),
    Mutation("images that outlive their sequence", "zerfoo_numba.session", "self.walk.see([])",
             "pass", of(afterwards, "qwen2vl")),
)  # fmt: skip


def install(monkeypatch, name, module):
    """Put the mutant where its users look it up."""
    if name == TOWER:
        monkeypatch.setattr(tower, "open_tower", module.open_tower)
    elif name == SEQUENCE:
        for function in ("parts", "splice", "turns"):
            monkeypatch.setattr(model, function, getattr(module, function))
    elif name == "zerfoo_numba.session":
        monkeypatch.setattr(generate, "Model", type("Model", (module.Session,), {}))
    else:
        monkeypatch.setattr(ops, name.rsplit(".", 1)[-1], module)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_the_suite_notices(mutation, monkeypatch, tmp_path):
    install(monkeypatch, mutation.module, mutant(mutation, tmp_path))
    with pytest.raises(AssertionError):
        mutation.check()


def test_without_a_mutation_every_check_passes():
    for check in dict.fromkeys(m.check for m in MUTATIONS):
        check()

"""Images in prompts and messages: where they stand, and what is refused."""

import json
import shutil

import numpy as np
import pytest

import zerfoo_numba
from bench import vision_models
from tests.parity.vision_goldens import golden
from zerfoo_numba import chat
from zerfoo_numba.cli import main
from zerfoo_numba.errors import ContextError, FileError, InputError
from zerfoo_numba.text import placeholders
from zerfoo_numba.vision.sequence import Picture, Tokens, is_image, parts, turns

_IN_PARTS = (
    "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{% if p.type == 'image' %}MARK"
    "{% else %}{{ p.text }}{% endif %}{% endfor %}|{% endfor %}"
)
TEXTS = "{% for m in messages %}{{ m.role }}:{{ m.content + '' }}|{% endfor %}"
IMAGE, OTHER = object(), object()


def in_parts(mark):
    """A template that knows parts, and writes `mark` for an image."""
    return _IN_PARTS.replace("MARK", mark)


class Tokenizer:
    """Every piece of text is one id: the text itself."""

    def __init__(self, *pieces, bos=None):
        self.pieces = list(pieces)
        self.bos_id = self.eos_id = bos
        self.add_bos = bos is not None

    def encode(self, text, add_special=True, parse_special=False):
        assert parse_special and not add_special
        return [text] if text else []


def question(*content):
    return [{"role": "user", "content": list(content)}]


def text(words):
    return {"type": "text", "text": words}


def image(which=IMAGE):
    return {"type": "image", "image": which}


QWEN = Tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
GEMMA = Tokenizer("<start_of_image>")
LLAVA = Tokenizer("<s>")


@pytest.mark.parametrize(
    ("tokenizer", "template", "before", "after"),
    [
        (QWEN, in_parts("<|vision_start|><|image_pad|><|vision_end|>"), "user:<|vision_start|>",
         "<|vision_end|>what?|"),
        (QWEN, TEXTS, "user:<|vision_start|>", "<|vision_end|>what?|"),
        (GEMMA, in_parts("<start_of_image>"), "user:\n\n<start_of_image>",
         "<end_of_image>\n\nwhat?|"),
        (GEMMA, TEXTS, "user:\n\n<start_of_image>", "<end_of_image>\n\nwhat?|"),
        (LLAVA, in_parts("<image>\n"), "user:", "\nwhat?|"),
        (LLAVA, TEXTS, "user:", "\nwhat?|"),
    ],
)  # fmt: skip
def test_an_image_part_stands_where_the_family_has_it(tokenizer, template, before, after):
    metadata = {"tokenizer.chat_template": template}
    found = chat.prompt_items(metadata, tokenizer, question(image(), text("what?")))
    assert found == [before, IMAGE, after]


def test_several_images_in_several_messages_keep_their_order():
    messages = [
        *question(image(), text("one")),
        {"role": "assistant", "content": "yes"},
        *question(text("two"), image(OTHER)),
    ]
    metadata = {"tokenizer.chat_template": TEXTS}
    found = chat.prompt_items(metadata, LLAVA, messages)
    assert found == ["user:", IMAGE, "\none|assistant:yes|user:two", OTHER, "\n|"]


def test_a_users_own_placeholder_is_text():
    metadata = {"tokenizer.chat_template": in_parts("<image>")}
    found = chat.prompt_items(metadata, LLAVA, question(image(), text("<image>?")))
    assert found == ["user:", IMAGE, "<image>?|"]


def test_bos_comes_before_an_image():
    tokenizer = Tokenizer(bos=0)
    tokenizer.pieces = ["<s>"]
    metadata = {
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content + '' }}{% endfor %}"
    }
    pixels = np.zeros((4, 4, 3), np.uint8)
    found = chat.prompt_items(metadata, tokenizer, question(image(pixels)))
    assert found[0] == 0 and found[1] is pixels


def test_an_image_url_part_is_an_image():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    metadata = {"tokenizer.chat_template": TEXTS}
    found = chat.prompt_items(metadata, LLAVA, question(part, text("?")))
    assert found == ["user:", part["image_url"]["url"], "\n?|"]


def test_a_template_that_drops_contents_is_refused():
    metadata = {"tokenizer.chat_template": "{% for m in messages %}{{ m.role }}{% endfor %}"}
    with pytest.raises(InputError, match="leaves out images"):
        chat.prompt_items(metadata, LLAVA, question(image()))


@pytest.mark.parametrize("part", [{"type": "image"}, {"type": "image_url"}])
def test_a_part_without_its_image_is_refused(part):
    with pytest.raises(InputError, match="needs its image"):
        chat.prompt_items({"tokenizer.chat_template": TEXTS}, LLAVA, question(part))


def test_a_part_that_is_neither_is_refused():
    audio = {"type": "audio", "audio": "a.wav"}
    with pytest.raises(InputError, match="a part of a message"):
        chat.prompt_items({"tokenizer.chat_template": TEXTS}, LLAVA, question(image(), audio))


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "found"),
    [
        (LLAVA, "what?", [IMAGE, "\n", OTHER, "\nwhat?"]),
        (LLAVA, "a<image>b<image>", ["a", IMAGE, "b", OTHER]),
        (QWEN, "a<|image_pad|>b<|image_pad|>c", ["a", IMAGE, "b", OTHER, "c"]),
        (GEMMA, "<start_of_image><start_of_image>", [
            "\n\n<start_of_image>", IMAGE, "<end_of_image>\n\n\n\n<start_of_image>", OTHER,
            "<end_of_image>\n\n",
        ]),
    ],
)  # fmt: skip
def test_images_of_a_plain_prompt_stand_where_it_marks_them_or_first(tokenizer, prompt, found):
    assert placeholders.prompt_items(tokenizer, prompt, [IMAGE, OTHER]) == found


def test_another_number_of_marks_is_refused():
    with pytest.raises(InputError, match="1 times <image> for 2 images"):
        placeholders.prompt_items(LLAVA, "<image>", [IMAGE, OTHER])


@pytest.mark.parametrize(
    ("item", "is_one"),
    [(3, False), (np.int64(3), False), (np.uint32(3), False), ("a.png", True), (b"PNG", True),
     (np.zeros((2, 2, 3), np.uint8), True)],
)  # fmt: skip
def test_what_is_meant_as_an_image(item, is_one):
    assert is_image(item) == is_one


def picture(start, count, grid=None, mutual=True):
    return Picture(start, np.zeros((count, 1), np.float32), grid, mutual)


def test_a_mutual_image_is_never_cut():
    assert list(parts(0, 20, 8, [])) == [(0, 8), (8, 16), (16, 20)]
    assert list(parts(0, 20, 8, [picture(5, 8)])) == [(0, 5), (5, 13), (13, 20)]
    assert list(parts(3, 17, 8, [picture(5, 2), picture(9, 4)])) == [(3, 9), (9, 17), (17, 20)]
    assert list(parts(0, 20, 8, [picture(5, 8, mutual=False)])) == list(parts(0, 20, 8, []))


def test_text_goes_on_behind_the_largest_coordinate_of_each_image():
    images = [picture(2, 6, (2, 3)), picture(9, 4, (4, 1))]
    found = turns(images, 16)
    assert found[:2].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert found[2:8, 0].tolist() == [2] * 6
    assert found[2:8, 1].tolist() == [2, 2, 2, 3, 3, 3]
    assert found[2:8, 2].tolist() == [2, 3, 4, 2, 3, 4]
    assert found[8].tolist() == [5, 5, 5]
    assert found[9:13, 1].tolist() == [6, 7, 8, 9]
    assert found[13:].tolist() == [[10] * 3, [11] * 3, [12] * 3]


# With a model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files():
    return golden("llava15")


@pytest.fixture(scope="module")
def model(files):
    return zerfoo_numba.load_model(files.model, mmproj=files.mmproj, device="cpu", context=64)


def test_images_of_a_text_and_among_ids_are_the_same(model, files):
    path = files.images[0]
    ids = model.tokenizer.encode("\nwhat?", add_special=False)
    by_ids = "".join(model.stream([1, str(path), *ids], max_tokens=6))
    assert model.generate("what?", images=[path], max_tokens=6) == by_ids
    assert model.stats.images == 1 and model.stats.image_seconds > 0
    assert model.stats.prompt_tokens == 1 + len(files.tokens[0]) + len(ids)


def test_sampling_after_an_image(model, files):
    options = {"images": [files.images[0]], "max_tokens": 8, "temperature": 0.9, "seed": 4}
    assert model.generate("a", **options) == model.generate("a", **options)


def test_what_was_read_is_read_once(model, files):
    tokens = model.read([1, files.images[0]])
    assert isinstance(tokens, Tokens) and model.read(tokens) is tokens


def test_a_text_is_no_list_of_ids(model):
    with pytest.raises(InputError, match="encode it first"):
        model.logits("a text")


def test_an_image_without_mmproj_is_refused(files):
    model = zerfoo_numba.load_model(files.model, device="cpu", context=64)
    for call in (
        lambda: model.logits([1, files.images[0]]),
        lambda: model.generate("a", images=[files.images[0]]),
        lambda: model.embed_image(files.images[0]),
    ):
        with pytest.raises(InputError, match=r"without an image projector.* mmproj"):
            call()


def test_images_beside_token_ids_are_refused(model, files):
    with pytest.raises(InputError, match="among token ids"):
        model.generate([1, 2], images=[files.images[0]])


def test_more_image_tokens_than_the_context_are_refused(files):
    model = zerfoo_numba.load_model(files.model, mmproj=files.mmproj, device="cpu", context=8)
    with pytest.raises(ContextError, match=r"17 tokens, 16 of them of images, exceed .* 8;"):
        model.logits([1, files.images[0]])


def test_a_tower_of_another_width_is_refused(files, tmp_path):
    pair = vision_models.write("llava", tmp_path)
    with pytest.raises(FileError, match=r"tokens are 24 wide, and those of .* 256"):
        zerfoo_numba.load_model(pair.model, mmproj=files.mmproj, device="cpu", context=8)


def test_a_tower_that_turns_needs_a_text_model_that_does(tmp_path):
    llava, qwen = (vision_models.write(name, tmp_path) for name in ("llava", "qwenvl"))
    with pytest.raises(FileError, match="dimension_sections"):
        zerfoo_numba.load_model(llava.model, mmproj=qwen.mmproj, device="cpu", context=8)


@pytest.mark.parametrize("swapped", [True, False])
def test_a_text_model_and_a_tower_are_not_taken_for_each_other(files, swapped):
    model, mmproj = (files.mmproj, files.model) if swapped else (files.model, files.model)
    with pytest.raises(zerfoo_numba.errors.ZerfooError, match="clip"):
        zerfoo_numba.load_model(model, mmproj=mmproj, device="cpu", context=8)


def test_the_command_line_shows_an_image(files, tmp_path, capsys):
    path = tmp_path / "cat.png"
    shutil.copy(files.images[0], path)
    model, tower = ["generate", "-m", str(files.model)], ["--mmproj", str(files.mmproj)]
    rest = ["-p", "is", "-n", "4", "--device", "cpu", "-c", "64", "--image", str(path), "--json"]
    assert main([*model, *tower, *rest]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["prompt_tokens"] > len(files.tokens[0]) and record["generated_tokens"] > 0
    assert main([*model, *rest]) == 2
    assert "mmproj" in capsys.readouterr().err


def test_the_chat_command_puts_images_into_the_first_message(monkeypatch, tmp_path):
    asked = []

    class Model:
        stream = None

        def chat_ids(self, messages):
            asked.append(messages)
            raise InputError("enough")

    monkeypatch.setattr(zerfoo_numba, "load_model", lambda *_, **__: Model())
    assert main(["chat", "-m", "m", "--image", "a.png", "--image", "b.png", "-p", "what?"]) == 2
    content = asked[0][0]["content"]
    assert content == [image("a.png"), image("b.png"), text("what?")]

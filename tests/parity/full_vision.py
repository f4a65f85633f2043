"""Real models with image towers, in files of the reader's own: what must hold of both files."""

import json
import re
from typing import NamedTuple

from PIL import Image, ImageDraw

import zerfoo_numba
from reference.vision import Tower
from tests.parity.compare import assert_close
from tests.parity.full_models import Dims, FullModel, check_shape, named_file
from tests.parity.tolerances import MODEL

QUESTION = "Which shapes are in the picture, and which colours have they?"
TOKENS = 48
CONTEXT = 4096
COLOURS = ("red", "blue")


class TowerDims(NamedTuple):
    """Blocks, width, heads, pixels a side of a patch."""

    L: int
    D: int
    H: int
    patch: int


class FullVision(NamedTuple):
    """A row of `full_models` for the text model; the variable that names its mmproj file; its
    projector types with the tower of each; and the prompt, with the image's mark in it."""

    text: FullModel
    variable: str
    towers: dict[str, TowerDims]
    prompt: str


def _llava(name, *dims):
    """Both vocabularies there are: Llama's, and that filled up to a multiple of 64."""
    return {f"{name}, {V} tokens": Dims(*dims, V) for V in (32000, 32064)}


LLAVA = FullVision(
    FullModel(
        "LLAVA_GGUF_PATH",
        "llama",
        _llava("7B", 32, 4096, 32, 32, 128, 11008)
        | _llava("13B", 40, 5120, 40, 40, 128, 13824)
        | _llava("1.6 Mistral 7B", 32, 4096, 32, 8, 128, 14336),
    ),
    "LLAVA_MMPROJ_PATH",
    {"mlp": TowerDims(23, 1024, 16, 14)},
    f"USER: <image>\n{QUESTION} ASSISTANT:",
)
QWENVL = FullVision(
    FullModel(
        "QWENVL_GGUF_PATH",
        "qwen2vl",
        {
            "Qwen2-VL 2B": Dims(28, 1536, 12, 2, 128, 8960, 151936),
            "Qwen2.5-VL 3B": Dims(36, 2048, 16, 2, 128, 11008, 151936),
            "7B": Dims(28, 3584, 28, 4, 128, 18944, 152064),
        },
    ),
    "QWENVL_MMPROJ_PATH",
    {
        "qwen2vl_merger": TowerDims(32, 1280, 16, 14),
        "qwen2.5vl_merger": TowerDims(32, 1280, 16, 14),
    },
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    f"<|vision_start|><|image_pad|><|vision_end|>{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
)


def named_files(row):
    """(text model, mmproj) as both variables name them, or None where neither is set."""
    found = [named_file(row.text), named_file(FullModel(row.variable, "clip", {}))]
    if found == [None, None]:
        return None
    for path, variable in zip(found, (row.text.variable, row.variable), strict=True):
        assert path is not None, f"{variable} is not set: a model with images is two files"
    return tuple(found)


def drawing(side=336):
    """A red circle on the left and a blue square on the right of a white ground."""
    image = Image.new("RGB", (side, side), "white")
    draw, unit = ImageDraw.Draw(image), side // 12
    draw.ellipse((unit, 4 * unit, 5 * unit, 8 * unit), fill=(220, 20, 20))
    draw.rectangle((7 * unit, 4 * unit, 11 * unit, 8 * unit), fill=(20, 40, 220))
    return image


def check(row, paths, device, folder):
    """Every check on one pair of files; the record of its answer goes to `folder`.

    device: a name or a Device. Raises AssertionError saying what does not hold.
    """
    model = zerfoo_numba.load_model(paths[0], mmproj=paths[1], device=device, context=CONTEXT)
    size = check_shape(row.text, model.config)
    expected = Tower(paths[1], "float32")
    check_tower(row, expected.config)
    image = drawing()
    check_tokens(row, model, expected, image)
    answer = model.generate(row.prompt, images=[image], max_tokens=TOKENS)
    record = {
        "variable": row.text.variable,
        "files": [path.name for path in paths],
        "architecture": row.text.arch,
        "projector": expected.config.projector,
        "size": size,
        "device": model.device.name,
        "prompt": row.prompt,
        "text": answer,
    }
    check_answer(row, answer)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, ensure_ascii=False)
    (folder / f"{row.text.variable}.json").write_text(text + "\n", encoding="utf-8")
    return record


def check_tower(row, config):
    """The tower is that of the model: its projector and its shape."""
    kind = config.projector
    assert kind in row.towers, f"{row.variable}: the projector is {kind}, not {list(row.towers)}"
    found = TowerDims(*(getattr(config, letter) for letter in TowerDims._fields))
    assert found == row.towers[kind], f"{row.variable}: the file has {found}, not {row.towers}"


def check_tokens(row, model, expected, image):
    """What the image becomes, against the reference's tower."""
    tokens = expected.embed(image).tokens
    assert_close(row.variable, model.embed_image(image), tokens, MODEL["full"])


def check_answer(row, answer):
    """The answer names a colour that is in the picture."""
    words = re.findall(r"\w+", answer.lower())
    seen = [colour for colour in COLOURS if colour in words]
    assert seen, f"{row.text.variable}: no {' or '.join(COLOURS)} in the answer {answer!r}"

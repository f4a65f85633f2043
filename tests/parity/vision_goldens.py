"""The goldens with images: their files, prompts and what transformers computed for them."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.vision_config import VisionConfig

VISION = Path(__file__).parent / "golden" / "vision_files"
NAMES = sorted(path.parent.name for path in VISION.glob("*/model.gguf"))


class Golden(NamedTuple):
    """`prompt`: token ids, and paths of images among them. `pixels` and `tokens` of each image."""

    model: Path
    mmproj: Path
    images: list[Path]
    prompt: list
    pixels: list[np.ndarray]
    tokens: list[np.ndarray]
    logits: np.ndarray


def golden(name):
    folder = VISION / name
    arrays = np.load(folder / "expected.npz")
    images = sorted(folder.glob("image*.png"))
    prompt = json.loads((folder / "prompt.json").read_text())
    return Golden(
        folder / "model.gguf",
        folder / "mmproj.gguf",
        images,
        [folder / item if isinstance(item, str) else item for item in prompt],
        [arrays[f"pixels{i}"] for i in range(len(images))],
        [arrays[f"image_embd{i}"] for i in range(len(images))],
        arrays["logits"],
    )


def other_pixels(name, resize):
    """The first image as the model's processor makes it with another option."""
    return np.load(VISION / name / "expected.npz")[f"pixels0_{resize}"]


def vision_config(name):
    with open_gguf(VISION / name / "mmproj.gguf") as gguf:
        return VisionConfig.from_gguf(gguf)

"""Small vision models with random weights: a text model, the mmproj file beside it, an image.

A LLaVA and a Qwen2-VL, each with every kind of tensor that its published files have.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from zerfoo_numba.gguf_file import TYPE_BY_NAME
from zerfoo_numba.gguf_writer import write_gguf
from zerfoo_numba.synth import SHAPES, synthesize, write_shape
from zerfoo_numba.synth_blocks import random_blocks
from zerfoo_numba.synth_shapes import Shape

PATCH = 14
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


@dataclass(frozen=True)
class TowerShape:
    """D width, F feed-forward, L blocks, H heads; `merge` patches a side make one token of width
    `out`. `learned`: positions are; else they turn, and a patch has two frames."""

    projector: str
    D: int
    F: int
    L: int
    H: int
    merge: int
    out: int
    learned: bool
    keys: dict = field(default_factory=dict)
    image_size: int = 112


class Pair(NamedTuple):
    """Paths of a text model and of its image tower."""

    model: Path
    mmproj: Path


_TEXT = SHAPES["mistral-tiny"]
_QWEN_TEXT = Shape(
    "qwen2vl", _TEXT.L, _TEXT.D, _TEXT.F, _TEXT.V, _TEXT.H, _TEXT.KH, _TEXT.HD, _TEXT.context,
    "Q4_K_M", optional=("output.weight",), gains={"output": 2.0}, vocabulary="deepseek-r1",
    keys={"rope.freq_base": 1e6, "rope.dimension_sections": np.array([8, 12, 12, 0], np.int32)},
)  # fmt: skip
TOWERS = {
    "llava": TowerShape("mlp", 128, 256, 3, 2, 1, _TEXT.D, learned=True),
    "qwenvl": TowerShape(
        "qwen2vl_merger", 160, 320, 3, 2, 2, _TEXT.D, learned=False,
        keys={"image_min_pixels": 56 * 56, "image_max_pixels": 224 * 224},
    ),
}  # fmt: skip


def write(name, folder, matrices="F16"):
    """The Pair of the model `name` of TOWERS in `folder`; `matrices`: the tower's block format."""
    pair = Pair(Path(folder) / f"{name}.gguf", Path(folder) / f"{name}-mmproj.gguf")
    if name == "llava":
        synthesize("mistral-tiny", pair.model)
    else:
        write_shape(name, _QWEN_TEXT, pair.model)
    write_tower(TOWERS[name], pair.mmproj, matrices)
    return pair


def write_tower(shape, path, matrices):
    tensors = {n: (dims, _type(n, dims, matrices)) for n, dims in _tensors(shape).items()}
    rng = np.random.default_rng(5)

    def data(name, dims, kind):
        if len(dims) == 1:
            centre = 1.0 if "ln" in name and name.endswith("weight") else 0.0
            return [rng.normal(centre, 0.1, dims).astype(np.float32).tobytes()]
        count = math.prod(dims) // TYPE_BY_NAME[kind].block_size
        std = 0.3 if "position" in name else 1.5 / math.sqrt(math.prod(dims[:-1]))
        return [random_blocks(rng, kind, count, std).tobytes()]

    write_gguf(path, _metadata(shape), tensors, data)


def _type(name, dims, matrices):
    whole = len(dims) == 2 and dims[0] % TYPE_BY_NAME[matrices].block_size == 0
    if len(dims) == 1 or "position" in name:
        return "F32"
    return matrices if whole else "F16"


def _metadata(shape):
    mean, std = _CLIP
    keys = {
        "image_size": shape.image_size, "patch_size": PATCH, "embedding_length": shape.D,
        "feed_forward_length": shape.F, "block_count": shape.L, "projection_dim": shape.out,
        "attention.head_count": shape.H, "attention.layer_norm_epsilon": 1e-5,
        "image_mean": np.array(mean, np.float32), "image_std": np.array(std, np.float32),
        **shape.keys,
    }  # fmt: skip
    return {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": shape.projector,
        "clip.use_gelu": False,
        **{f"clip.vision.{key}": value for key, value in keys.items()},
    }


def _tensors(shape):
    """{name: dims, the fastest first} of the tower and its projector."""
    s, patches = shape, (shape.image_size // PATCH) ** 2
    found = {"v.patch_embd.weight": (PATCH, PATCH, 3, s.D)}
    if s.learned:
        found |= {"v.class_embd": (s.D,), "v.position_embd.weight": (s.D, patches + 1)}
        norms = ["v.pre_ln"]
    else:
        found["v.patch_embd.weight.1"] = (PATCH, PATCH, 3, s.D)
        norms = ["v.post_ln"]
    norms += [f"v.blk.{i}.ln{n}" for i in range(s.L) for n in (1, 2)]
    for norm in norms:
        found |= {f"{norm}.weight": (s.D,), f"{norm}.bias": (s.D,)}
    merged = s.D * s.merge**2
    matrices = {"mm.0": (merged, merged), "mm.2": (merged, s.out)}
    for i in range(s.L):
        matrices |= {f"v.blk.{i}.attn_{n}": (s.D, s.D) for n in ("q", "k", "v", "out")}
        matrices |= {f"v.blk.{i}.ffn_up": (s.D, s.F), f"v.blk.{i}.ffn_down": (s.F, s.D)}
    for name, dims in matrices.items():
        found |= {f"{name}.weight": dims, f"{name}.bias": (dims[1],)}
    return found


def drawing(width, height):
    """A red circle on the left and a blue square on the right of a white ground."""
    image = Image.new("RGB", (width, height), "white")
    draw, side = ImageDraw.Draw(image), min(width // 2, height) // 2
    for centre, shape, colour in ((width // 4, draw.ellipse, "red"),
                                  (3 * width // 4, draw.rectangle, "blue")):  # fmt: skip
        left, top = centre - side // 2, (height - side) // 2
        shape((left, top, left + side, top + side), fill=colour)
    return image

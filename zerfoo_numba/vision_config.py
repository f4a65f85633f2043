"""The numbers of an image tower and its projector, read from an mmproj file and checked.

Such a file (`general.architecture` is "clip") holds a vision transformer and what maps its output
to the width of a text model; llama.cpp, tools/mtmd, defines its keys and tensor names. Letters: P
patches of an image, D width of the tower, F feed-forward width, L blocks, H heads, HD head width.
"""

import reprlib
from dataclasses import dataclass

import numpy as np

from zerfoo_numba.errors import FileError, UnsupportedError
from zerfoo_numba.metadata import Keys
from zerfoo_numba.projectors import PROJECTORS, ProjectorSpec
from zerfoo_numba.vision_tensors import check_vision_tensors

MOST_MIN_PIXELS = 1 << 24  # to which an image is enlarged: no file shall ask for all the memory
MAX_TILES = 16  # a side: 256 of them are far more than a text model has room for
ROPE_BASE = 10000.0  # of the rotation in a tower; transformers, VisionRotaryEmbedding


@dataclass(frozen=True)
class VisionConfig:
    """The numbers of one tower and projector.

    `image_size`: pixels a side, where positions are learned. `activation`: "gelu_quick"
    (x · sigmoid(1.702 x)), "gelu", "gelu_tanh" or "silu"; `gated`: multiplied by `ffn_up` of it.
    `features`: the hidden states that are joined, row by row, for the projector: 0 is the tower's
    input, i the output of block i - 1. `merge`: patches a side that become one token: averaged
    (gemma3), or joined to one row. `full`: of each block, whether it attends to the whole image
    or to its window of `window` pixels a side (None: there are none). `temporal`: frames of one
    patch; a still image is each of them, so the kernels `v.patch_embd.weight` and `.weight.1` add.
    `resize`: "crop" (shortest side to image_size, centre cut out), "pad" (made square with the
    mean colour), "square" (both sides to image_size), "smart" (multiples of patch · merge, between
    `min_pixels` and `max_pixels`) or "tiles" (LLaVA 1.6: the whole, and tiles of the best of
    `pinpoints`, (height, width) each, with a `newline` after each row). `out`: the width of an
    image token.
    """

    spec: ProjectorSpec
    image_size: int
    patch: int
    D: int
    F: int
    H: int
    L: int
    eps: float
    activation: str
    gated: bool
    swapped: bool
    class_token: bool
    pre_norm: bool
    post_norm: bool
    temporal: int
    features: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    merge: int
    window: int | None
    full: tuple[bool, ...]
    min_pixels: int
    max_pixels: int
    resize: str
    pinpoints: tuple[tuple[int, int], ...]
    newline: bool
    out: int

    @property
    def projector(self):
        return self.spec.name

    @property
    def norm(self):
        return self.spec.norm

    @property
    def HD(self):
        return self.D // self.H

    @property
    def ffn_names(self):
        """The tensors (D -> F, F -> D): older LLaVA files have the two names the wrong way round.

        The first is `ffn_up` by its meaning; a gated tower has `ffn_gate` beside it.
        """
        return ("ffn_down", "ffn_up") if self.swapped else ("ffn_up", "ffn_down")

    @classmethod
    def from_gguf(cls, gguf):
        """Read the metadata of an open mmproj `GGUFFile`.

        Raises UnsupportedError for a projector that is not run here, FileError naming the key or
        tensor that is missing, impossible or contradicted by another.
        """
        spec = _spec(gguf)
        keys = Keys(gguf, spec)
        D, H, L = (
            keys.integer(key) for key in ("embedding_length", "attention.head_count", "block_count")
        )
        if D % H:
            raise keys.error("attention.head_count", f"is {H}, which does not divide D = {D}")
        if spec.positions == "rope" and D // H % 4:
            raise keys.error(
                "attention.head_count", f"is {H}; a head of {D // H} has no 4 quarters"
            )
        if len(gguf.tensors) < L:
            raise keys.error("block_count", f"is {L}, but the file has {len(gguf.tensors)} tensors")
        F, gated, swapped = _feed_forward(gguf, D)
        window, full = _windows(keys, L)
        resize, pinpoints = _resize(keys)
        image_size, patch, merge = _sides(keys, window)
        least, most = keys.integer("image_min_pixels"), keys.integer("image_max_pixels")
        if least > MOST_MIN_PIXELS:
            raise keys.error("image_min_pixels", f"is {least}, more than {MOST_MIN_PIXELS}")
        if least > most:
            raise keys.error("image_min_pixels", f"is {least}, more than image_max_pixels, {most}")
        return cls(
            spec=spec, D=D, F=F, H=H, L=L, gated=gated, swapped=swapped, window=window, full=full,
            image_size=image_size, patch=patch, merge=merge, min_pixels=least, max_pixels=most,
            eps=keys.number("attention.layer_norm_epsilon"),
            activation=_activation(gguf, spec, gated),
            features=_features(keys, L),
            mean=_three(keys, "image_mean"),
            std=_three(keys, "image_std"),
            resize=resize,
            pinpoints=pinpoints,
            newline=_newline(gguf),
            out=_out_width(gguf, spec),
            **_announced(gguf.tensors),
        )  # fmt: skip

    def check_tensors(self, gguf):
        """Check that every tensor the tower needs is there, in its shape, and no foreign one.

        Raises FileError naming the tensor; UnsupportedError for a tensor that would change the
        arithmetic if the tower were run without it, or of a type that is not read there.
        """
        check_vision_tensors(self, gguf)


def _spec(gguf):
    arch = gguf.metadata.get("general.architecture")
    if not isinstance(arch, str) or arch != "clip":
        raise FileError(
            f"{gguf.path}: no image tower: general.architecture is {reprlib.repr(arch)}, and an "
            "mmproj file says 'clip'"
        )
    keys = ("clip.projector_type", "clip.vision.projector_type")
    # llama.cpp, clip.cpp: "assume MLP if no projector type listed"
    name = next((gguf.metadata[key] for key in keys if key in gguf.metadata), "mlp")
    if not isinstance(name, str) or name not in PROJECTORS:
        raise UnsupportedError(
            f"{gguf.path}: clip.projector_type {reprlib.repr(name)} is not supported; "
            f"{', '.join(PROJECTORS)} are"
        )
    return PROJECTORS[name]


def _announced(tensors):
    """What the presence of a tensor says."""
    return {
        "class_token": "v.class_embd" in tensors,
        "pre_norm": "v.pre_ln.weight" in tensors,
        "post_norm": "v.post_ln.weight" in tensors,
        "temporal": 2 if "v.patch_embd.weight.1" in tensors else 1,
    }


def _feed_forward(gguf, D):
    """(F, whether it is gated, whether ffn_up and ffn_down have each other's names)."""
    up = _tensor(gguf, "v.blk.0.ffn_up.weight", 2)
    if "v.blk.0.ffn_gate.weight" in gguf.tensors:
        return up.shape[1], True, False
    swapped = up.shape[0] != D  # a file's shape is (inputs, outputs), and ffn_up has D inputs
    return up.shape[0] if swapped else up.shape[1], False, swapped


def _tensor(gguf, name, dims):
    tensor = gguf.tensors.get(name)
    if tensor is None or len(tensor.shape) != dims:
        raise FileError(f"{gguf.path}: the tensor {name} is missing or has not {dims} dimensions")
    return tensor


def _activation(gguf, spec, gated):
    named = {}
    for name in ("gelu", "silu"):
        named[name] = gguf.metadata.get(f"clip.use_{name}", False)
        if not isinstance(named[name], bool):
            raise FileError(f"{gguf.path}: the key clip.use_{name} must be true or false")
    if all(named.values()):
        raise FileError(f"{gguf.path}: both clip.use_gelu and clip.use_silu are true")
    activation = spec.gelu if named["gelu"] else "silu" if named["silu"] else "gelu_quick"
    if gated and activation not in ("silu", "gelu_tanh"):
        raise UnsupportedError(
            f"{gguf.path}: a tower gated by {activation} is not supported; silu and gelu_tanh are"
        )
    return activation


def _features(keys, L):
    """See `VisionConfig.features`; without the key, the output of the last block there is.

    LLaVA takes the last block but one of CLIP, and the converter leaves the last one out.
    """
    if not keys.has("feature_layer"):
        return (L,)
    layers = np.atleast_1d(keys.value("feature_layer"))
    whole = layers.dtype.kind in "iu" and layers.size and 0 <= layers.min() <= layers.max() <= L
    if not whole or layers.size > L + 1:
        what = f"is {reprlib.repr(layers)}; the file has the states 0 to {L}"
        raise keys.error("feature_layer", what)
    return tuple(layers.tolist())


def _three(keys, key):
    value = np.atleast_1d(keys.value(key))
    positive = key == "image_std"
    if value.shape != (3,) or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise keys.error(key, f"must be three numbers, not {reprlib.repr(value)}")
    if positive and (value <= 0).any():
        raise keys.error(key, f"is {value}; it must be positive")
    return tuple(float(x) for x in value)


def _sides(keys, window):
    """(image_size, patch, merge), each a number of the one to its right."""
    image_size, patch = keys.integer("image_size"), keys.integer("patch_size")
    merge = 1 if keys.spec.merge_key is None else keys.integer(keys.spec.merge_key)
    if keys.spec.positions == "learned" and (image_size < patch or image_size // patch % merge):
        what = f"is {image_size}; patches of {patch} make no squares of {merge} x {merge}"
        raise keys.error("image_size", what)
    if window is not None and window < patch * merge:
        raise keys.error(
            "window_size", f"is {window}; a token alone is {patch * merge} pixels wide"
        )
    return image_size, patch, merge


def _windows(keys, L):
    """(pixels a side of a window or None, one flag per block: the whole image?)."""
    if not keys.spec.windows:
        return None, (True,) * L
    n = keys.integer("n_wa_pattern", least=0)
    if n == 0:
        return None, (True,) * L
    return keys.integer("window_size"), tuple((i + 1) % n == 0 for i in range(L))


def _resize(keys):
    """(resize, pinpoints) of a VisionConfig."""
    resize = keys.spec.resize
    if resize != "crop":
        return resize, ()
    if keys.has("image_grid_pinpoints"):
        sides = np.atleast_1d(keys.value("image_grid_pinpoints"))
        tile = keys.integer("image_size")
        whole = sides.dtype.kind in "iu" and (sides > 0).all() and not (sides % tile).any()
        if not whole or sides.size % 2 or sides.size == 0 or sides.max() > tile * MAX_TILES:
            what = f"must be pairs of a height and a width, up to {MAX_TILES} times {tile} each"
            raise keys.error("image_grid_pinpoints", what)
        return "tiles", tuple((int(h), int(w)) for h, w in sides.reshape(-1, 2))
    # Without the key, and for "square", LLaVA leaves it to CLIP's processor, which cuts.
    aspect = keys.value("image_aspect_ratio") if keys.has("image_aspect_ratio") else "square"
    known = {"pad": "pad", "square": "crop", "crop": "crop"}
    if not isinstance(aspect, str) or aspect not in known:
        what = f"is {reprlib.repr(aspect)}; {', '.join(known)} are supported"
        raise keys.unsupported("image_aspect_ratio", what)
    return known[aspect], ()


_MERGE_TYPES = ["flat", "spatial_unpad"]


def _newline(gguf):
    """Whether each row of tiles ends with `model.image_newline`: "flat" has no rows."""
    kind = gguf.metadata.get("clip.vision.mm_patch_merge_type", "spatial_unpad")
    if not isinstance(kind, str) or kind not in _MERGE_TYPES:
        raise UnsupportedError(
            f"{gguf.path}: clip.vision.mm_patch_merge_type is {reprlib.repr(kind)}; "
            f"{' and '.join(_MERGE_TYPES)} are supported"
        )
    return "model.image_newline" in gguf.tensors and kind != "flat"


def _out_width(gguf, spec):
    if spec.name == "gemma3":  # not transposed by the converter: (outputs, inputs)
        return _tensor(gguf, "mm.input_projection.weight", 2).shape[0]
    return _tensor(gguf, "mm.2.weight", 2).shape[1]

"""What an mmproj file does not say about its arithmetic: one row per projector type."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ProjectorSpec:
    """What an mmproj file of this projector type does not say about its arithmetic.

    `norm`: of the tower, "layer" or "rms". `positions`: "learned", one row per patch, or "rope",
    which turns the first half of a head's pairs by the row and the others by the column of a patch.
    `gelu`: what the file's flag `clip.use_gelu` means, "gelu" (erf) or "gelu_tanh". `resize`: how
    an image is brought to size, see `VisionConfig.resize`. `bidirectional`: whether the text model
    lets the tokens of one image attend to one another in both directions. `image_positions`: "line"
    numbers the tokens of an image like those of a text, "grid" by time, row and column (M-RoPE).
    `merge_key`: the key of `VisionConfig.merge`, None where every patch is a token.
    """

    name: str
    norm: str = "layer"
    positions: str = "learned"
    gelu: str = "gelu"
    resize: str = "crop"
    windows: bool = False
    bidirectional: bool = False
    image_positions: str = "line"
    merge_key: str | None = None
    # For `metadata.Keys`: the prefix of the keys, and those without a default.
    arch: str = "clip.vision"
    requires: tuple[str, ...] = ()


_QWEN = {
    "positions": "rope",
    "resize": "smart",
    "image_positions": "grid",
    "merge_key": "spatial_merge_size",
}

PROJECTORS = {
    spec.name: spec
    for spec in (
        # LLaVA 1.5 and 1.6: CLIP, arXiv:2103.00020, and two layers, arXiv:2310.03744
        ProjectorSpec("mlp"),
        # Gemma 3, arXiv:2503.19786: SigLIP, arXiv:2303.15343, its output averaged over squares
        ProjectorSpec(
            "gemma3",
            gelu="gelu_tanh",
            resize="square",
            bidirectional=True,
            merge_key="projector.scale_factor",
        ),
        # Qwen2-VL, arXiv:2409.12191
        ProjectorSpec("qwen2vl_merger", **_QWEN),
        # Qwen2.5-VL, arXiv:2502.13923
        ProjectorSpec("qwen2.5vl_merger", norm="rms", windows=True, **_QWEN),
    )
}

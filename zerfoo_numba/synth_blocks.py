"""Random quantised blocks for synthetic models, and the tensor types that llama.cpp would choose.

Blocks are drawn as bytes and only their scales are set, so that a file of a gigabyte takes
seconds. Layouts: ggml-common.h. Types: llama.cpp, src/llama-quant.cpp.
"""

from typing import NamedTuple

import numpy as np

from zerfoo_numba.gguf_file import TYPE_BY_NAME


class Recipe(NamedTuple):
    """A named quantisation: most matrices are `base`, a chosen few `better`, the head `head`."""

    file_type: int  # llama.h, enum llama_ftype
    base: str
    better: str
    head: str


RECIPES = {
    "F32": Recipe(0, "F32", "F32", "F32"),
    "F16": Recipe(1, "F16", "F16", "F16"),
    "BF16": Recipe(32, "BF16", "BF16", "BF16"),
    "Q4_0": Recipe(2, "Q4_0", "Q4_0", "Q6_K"),
    "Q5_0": Recipe(8, "Q5_0", "Q5_0", "Q6_K"),
    "Q8_0": Recipe(7, "Q8_0", "Q8_0", "Q8_0"),
    "Q4_K_M": Recipe(15, "Q4_K", "Q6_K", "Q6_K"),
    "Q5_K_M": Recipe(17, "Q5_K", "Q6_K", "Q6_K"),
    "Q6_K": Recipe(18, "Q6_K", "Q6_K", "Q6_K"),
}
# What stands in for a type whose block does not divide the row.
FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def tensor_type(recipe, name, shape, L, tied, falcon=False, experts=0):
    """The type that llama.cpp's quantiser gives the tensor `name` of a model with L layers.

    `experts` of a layer, `falcon`: it makes exceptions for 8 and for that architecture. Without its
    exception for Llama 70B.
    """
    part = name.split(".")[-2]
    if len(shape) == 1 or part in NOT_QUANTISED or name.endswith("ssm_a"):
        return "F32"
    kind = recipe.base
    if part == ("token_embd" if tied else "output"):
        kind = "Q8_0" if falcon and recipe.head == "Q6_K" else recipe.head
    elif kind not in _FLOATS and name.startswith("blk."):
        kind = _type_in_block(recipe, part, int(name.split(".")[1]), L, falcon, experts)
    while shape[0] % TYPE_BY_NAME[kind].block_size:
        kind = FALLBACK.get(kind, "F16")
    return kind


NOT_QUANTISED = (
    *("ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "ssm_conv1d", "time_mix_first"),
    *("time_mix_w1", "time_mix_w2", "time_mix_decay_w1", "time_mix_decay_w2"),
    "time_mix_lerp_fused",
)


def _type_in_block(recipe, part, i, L, falcon, experts):
    base = recipe.base
    if part in ("attn_k", "attn_v") and experts == 8:
        return "Q8_0"
    if part == "attn_output" and experts == 8 and base == "Q4_K":
        return "Q5_K"
    if part.startswith("ffn_down") and falcon and base == "Q4_K":
        return "Q6_K" if i < L // 16 else "Q5_K" if _more_bits(i, L) else base
    if part.startswith(("attn_v", "attn_qkv", "ffn_down")) and _more_bits(i, L):
        return recipe.better
    return base


def _more_bits(i, L):
    """The first and last eighth of the layers, and every third one between."""
    return i < L // 8 or i >= 7 * L // 8 or (i - L // 8) % 3 == 2


def random_blocks(rng, kind, count, std):
    """`count` blocks of type `kind`, uint8 (count, block_bytes), that decode to mean 0 and `std`.

    Decoded values are not normal: quants are uniform, and scales vary from block to block.
    """
    size = TYPE_BY_NAME[kind].block_bytes
    if kind in _FLOATS:
        return _FLOATS[kind](rng.standard_normal(count, np.float32) * np.float32(std))
    words = rng.integers(0, 1 << 64, -(-count * size // 8), np.uint64)
    blocks = words.view(np.uint8)[: count * size].reshape(count, size)
    _SCALES[kind](rng, blocks, std)
    return blocks


def _bytes(values):
    return values.view(np.uint8).reshape(len(values), -1)


def _bf16(values):
    return _bytes((values.view(np.uint32) >> 16).astype(np.uint16))


_FLOATS = {"F32": _bytes, "F16": lambda values: _bytes(values.astype(np.float16)), "BF16": _bf16}


def _put(blocks, at, values):
    """Store `values` as the float16 at byte `at` of every block."""
    blocks[:, at : at + 2] = _bytes(values.astype(np.float16))


def _around(rng, count, scale):
    """Scales spread by a quarter about `scale`, of either sign: uniform quants are not centred."""
    sign = rng.integers(0, 2, count) * 2 - 1
    return sign * scale * rng.uniform(0.75, 1.25, count)


def _uniform_std(levels):
    return np.sqrt((levels**2 - 1) / 12)


def _simple_scale(levels):
    def put(rng, blocks, std):
        _put(blocks, 0, _around(rng, len(blocks), std / _uniform_std(levels)))

    return put


def _q5_1_scale(rng, blocks, std):
    """x = d * q + m, with m of the other sign than d so that the mean is near 0."""
    d = _around(rng, len(blocks), std / _uniform_std(32))
    _put(blocks, 0, d)
    _put(blocks, 2, -15.5 * d)


def _k_scales(levels):
    """x = d * scale * q - dmin * min: a min near the scale keeps the mean near 0."""

    def put(rng, blocks, std):
        count = len(blocks)
        blocks[:, 4:16] = _six_bit_scales(rng, count)
        d = std / (_uniform_std(levels) * np.sqrt((np.arange(64) ** 2).mean()))
        d = d * rng.uniform(0.75, 1.25, count)
        _put(blocks, 0, d)
        _put(blocks, 2, (levels - 1) / 2 * d)

    return put


def _six_bit_scales(rng, count):
    """8 scales and 8 mins near them in the 12 bytes (count, 12) of Q4_K and Q5_K."""
    scale = rng.integers(0, 64, (count, 8), np.uint8)
    least = np.clip(scale.astype(np.int8) + rng.integers(-3, 4, (count, 8), np.int8), 0, 63)
    least = least.astype(np.uint8)
    low = scale[:, 4:] & 15 | (least[:, 4:] & 15) << 4
    first = scale[:, :4] | scale[:, 4:] >> 4 << 6
    second = least[:, :4] | least[:, 4:] >> 4 << 6
    return np.concatenate([first, second, low], axis=1)


def _q6_k_scales(rng, blocks, std):
    """x = d * scale * (q - 32); the 16 int8 scales are random bytes, of either sign."""
    d = std / (_uniform_std(64) * _uniform_std(256))
    _put(blocks, 208, _around(rng, len(blocks), d))


_SCALES = {
    "Q4_0": _simple_scale(16),
    "Q5_0": _simple_scale(32),
    "Q5_1": _q5_1_scale,
    "Q8_0": _simple_scale(256),
    "Q4_K": _k_scales(16),
    "Q5_K": _k_scales(32),
    "Q6_K": _q6_k_scales,
}

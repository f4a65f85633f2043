"""Valid GGUF files taken apart, changed a little, and put together again.

A `Parts` is a file as its fields; `mutated(parts, rng)` is the bytes of a changed one: fields with
hostile values, fields left out or repeated, and bytes changed, moved or cut wherever they lie.
"""

import random
import struct
from dataclasses import dataclass, replace

import numpy as np

from tests.files import builder
from zerfoo_numba.gguf_file import GGML_TYPES, open_gguf

NUMBERS = (0, 1, 2, 3, 7, 8, 31, 32, 33, 64, 255, 256, 257, 4095, 65535, 65536, 1 << 20, 1 << 24,
           (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
           (1 << 64) - 32, 211106198978564)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 3.4e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "a", "\0", "gemma3", "llama", "gpt2", "no such thing", "{{", "{% for %}", "x" * 5000,
         "\U0001f600", b"\xff\xfe", b"\xed\xa0\x80")  # fmt: skip
KNOWN = (
    "general.alignment",
    "general.name",
    "general.file_type",
    "split.count",
    "split.no",
    "{arch}.rope.scaling.type",
    "{arch}.rope.scaling.factor",
    "{arch}.rope.freq_base",
    "{arch}.rope.scaling.original_context_length",
    "{arch}.rope.scaling.attn_factor",
    "{arch}.rope.dimension_count",
    "{arch}.rope.dimension_sections",
    "{arch}.vocab_size",
    "{arch}.rope.freq_base_swa",
    "{arch}.attention.sliding_window",
    "{arch}.logit_scale",
    "{arch}.attention.sliding_window_pattern",
    "{arch}.attn_logit_softcapping",
    "{arch}.final_logit_softcapping",
    "{arch}.expert_count",
    "{arch}.expert_used_count",
    "{arch}.attention.causal",
    "{arch}.attention.clamp_kqv",
    "{arch}.attention.max_alibi_bias",
    "{arch}.embedding_scale",
    "{arch}.residual_scale",
    "{arch}.attention.scale",
    "{arch}.attention.value_length",
    "{arch}.attention.key_length",
    "{arch}.pooling_type",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.remove_extra_whitespaces",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.chat_template",
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.chat_templates",
    "tokenizer.ggml.token_type",
    "clip.projector_type",
    "clip.use_gelu",
    "clip.use_silu",
    "clip.vision.image_aspect_ratio",
    "clip.vision.image_grid_pinpoints",
    "clip.vision.feature_layer",
    "clip.vision.mm_patch_merge_type",
    "clip.vision.image_min_pixels",
    "clip.vision.image_max_pixels",
    "clip.vision.window_size",
)
_TYPE_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}
_KINDS = {np.dtype(d): kind for d, kind in (
    ("u1", builder.U8), ("i1", builder.I8), ("u2", builder.U16), ("i2", builder.I16),
    ("u4", builder.U32), ("i4", builder.I32), ("f4", builder.F32), ("?", builder.BOOL),
    ("u8", builder.U64), ("i8", builder.I64), ("f8", builder.F64),
)}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """keys [(name, value as builder.value takes it)], tensors [(name, shape, type id, bytes)]."""

    keys: tuple
    tensors: tuple


def taken_apart(path):
    """The Parts of a valid file."""
    with open_gguf(path) as gguf:
        keys = tuple((name, _value(v)) for name, v in gguf.metadata.items())
        tensors = tuple(
            (name, t.shape, _TYPE_IDS[t.type], t.data.tobytes()) for name, t in gguf.tensors.items()
        )
    return Parts(keys, tensors)


def _value(value):
    if isinstance(value, np.ndarray):
        return (builder.ARRAY, _KINDS[value.dtype], value.tolist())
    if isinstance(value, np.generic):
        return (_KINDS[value.dtype], value.item())
    if isinstance(value, int) and not isinstance(value, bool) and not 0 <= value < 1 << 32:
        return (builder.I64 if value < 0 else builder.U64, value)
    return value


def file_bytes(parts, **lies):
    """The file's bytes; `lies` as builder.assemble takes them."""
    infos, data = [], b""
    for name, shape, kind, raw in parts.tensors:
        infos.append(builder.tensor_info(name, shape, kind, len(data)))
        data += raw + bytes(-len(raw) % 32)
    return builder.assemble([builder.key(k, v) for k, v in parts.keys], infos, data, **lies)


def mutated(parts, rng: random.Random):
    """The bytes of a file with one to three changes."""
    lies = {}
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        change = rng.choice((
            _value_of_key, _value_of_key, _drop_key, _repeat_key, _add_key, _tensor_field,
            _tensor_field, _drop_tensor, _tensor_bytes, _array,
        ))  # fmt: skip
        parts = change(parts, rng)
    if rng.random() < 0.03:
        lies["counts"] = (rng.choice(NUMBERS), rng.choice(NUMBERS))
    if rng.random() < 0.02:
        lies["version"] = rng.choice((0, 1, 2, 4, 3 << 24, (1 << 32) - 1))
    raw = bytearray(file_bytes(parts, **lies))
    if rng.random() < 0.6:
        for _ in range(rng.choice((1, 1, 2, 5))):
            rng.choice((_flip, _number, _cut, _move))(raw, rng)
    return bytes(raw)


# ---- fields


def _any_value(rng):
    kind = rng.randrange(13)
    if kind == builder.STRING:
        return (kind, rng.choice(TEXTS))
    if kind == builder.ARRAY:
        inner = rng.choice((builder.U8, builder.I32, builder.F32, builder.BOOL, builder.STRING))
        count = rng.choice((0, 1, 2, 3, 50))
        return (kind, inner, [_item(inner, rng) for _ in range(count)])
    return (kind, _item(kind, rng))


def _item(kind, rng):
    if kind == builder.STRING:
        return rng.choice(TEXTS)
    if kind in (builder.F32, builder.F64):
        return rng.choice(FLOATS) if kind == builder.F64 else rng.choice(FLOATS[:4] + FLOATS[7:])
    size = struct.calcsize(builder.FORMS[kind])
    number = rng.choice(NUMBERS) % (1 << 8 * size)
    signed = builder.FORMS[kind][1].islower()
    return number - (1 << 8 * size) if signed and number >> (8 * size - 1) else number


def _value_of_key(parts, rng):
    at = rng.randrange(len(parts.keys))
    name, old = parts.keys[at]
    new = _any_value(rng)
    if isinstance(old, int) and rng.random() < 0.5:
        new = (builder.U32, rng.choice((old + 1, max(0, old - 1), 2 * old, *NUMBERS)) % (1 << 32))
    return replace(parts, keys=(*parts.keys[:at], (name, new), *parts.keys[at + 1 :]))


def _array(parts, rng):
    """An array key with an entry less, more, or other."""
    arrays = [i for i, (_, v) in enumerate(parts.keys) if _items(v)]
    if not arrays:
        return parts
    at = rng.choice(arrays)
    name, value = parts.keys[at]
    items = list(_items(value))
    here = rng.randrange(len(items))
    kind = value[1] if isinstance(value, tuple) else builder.STRING
    kind = kind if isinstance(value, tuple) or isinstance(items[0], str) else builder.I32
    items[here : here + rng.choice((0, 1, 1))] = [_item(kind, rng)] * rng.choice((0, 1, 1, 2))
    new = (builder.ARRAY, kind, items)
    return replace(parts, keys=(*parts.keys[:at], (name, new), *parts.keys[at + 1 :]))


def _items(value):
    if isinstance(value, list):
        return value
    return value[2] if isinstance(value, tuple) and value[0] == builder.ARRAY else ()


def _drop_key(parts, rng):
    at = rng.randrange(len(parts.keys))
    return replace(parts, keys=parts.keys[:at] + parts.keys[at + 1 :])


def _add_key(parts, rng):
    """A key that readers know, whatever the architecture, with any value."""
    arch = dict(parts.keys).get("general.architecture", "llama")
    name = rng.choice(KNOWN).format(arch=arch)
    keys = tuple((k, v) for k, v in parts.keys if k != name)
    return replace(parts, keys=(*keys, (name, _any_value(rng))))


def _repeat_key(parts, rng):
    (name, _), (_, value) = rng.choice(parts.keys), rng.choice(parts.keys)
    return replace(parts, keys=(*parts.keys, (name + rng.choice(("", "2")), value)))


def _tensor_field(parts, rng):
    """A tensor's name, shape or type, or its place in the list."""
    if not parts.tensors:
        return parts
    tensors = list(parts.tensors)
    at = rng.randrange(len(tensors))
    name, shape, kind, raw = tensors[at]
    what = rng.randrange(4)
    if what == 0:
        name = rng.choice(("", "output.weight", "x" * 63, "x" * 64, rng.choice(tensors)[0]))
    elif what == 1:
        shape = list(shape)
        shape[rng.randrange(len(shape))] = rng.choice((*shape, *NUMBERS))
        shape = [*shape, *[rng.choice((1, 2))] * rng.choice((0, 0, 1, 3))]
    elif what == 2:
        kind = rng.choice((*range(45), (1 << 32) - 1))
    else:
        tensors.insert(rng.randrange(len(tensors)), tensors.pop(at))
        return replace(parts, tensors=tuple(tensors))
    tensors[at] = (name, tuple(shape), kind, raw)
    return replace(parts, tensors=tuple(tensors))


def _drop_tensor(parts, rng):
    if not parts.tensors:
        return parts
    at = rng.randrange(len(parts.tensors))
    return replace(parts, tensors=parts.tensors[:at] + parts.tensors[at + 1 :])


def _tensor_bytes(parts, rng):
    """Weights of any bits: NaN, infinity, and scales that no quantiser writes."""
    if not parts.tensors:
        return parts
    tensors = list(parts.tensors)
    at = rng.randrange(len(tensors))
    name, shape, kind, raw = tensors[at]
    if raw:
        start = rng.randrange(len(raw))
        size = min(rng.choice((1, 2, 4, 64)), len(raw) - start)
        pattern = rng.choice(
            (b"\xff", b"\x00\x7c", b"\x80\x7f", b"\0", bytes([rng.randrange(256)]))
        )
        raw = raw[:start] + (pattern * size)[:size] + raw[start + size :]
    tensors[at] = (name, shape, kind, raw)
    return replace(parts, tensors=tuple(tensors))


# ---- bytes; most of them where the header is


def _place(raw, rng):
    return rng.randrange(len(raw)) if rng.random() < 0.2 else rng.randrange(min(len(raw), 4096))


def _flip(raw, rng):
    if raw:
        raw[_place(raw, rng)] ^= 1 << rng.randrange(8)


def _number(raw, rng):
    if raw:
        at, size = _place(raw, rng), rng.choice((4, 8))
        raw[at : at + size] = (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")


def _cut(raw, rng):
    if raw:
        at = _place(raw, rng)
        del raw[at : len(raw) if rng.random() < 0.3 else at + rng.choice((1, 4, 8, 100))]


def _move(raw, rng):
    if raw:
        source, target = _place(raw, rng), _place(raw, rng)
        raw[target:target] = raw[source : source + rng.choice((1, 8, 40))]

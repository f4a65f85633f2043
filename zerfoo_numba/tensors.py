"""The tensors of a model: name, shape, and whether every model of its kind has them."""

from zerfoo_numba.errors import FileError, UnsupportedError

# A row: name, shape as the file has it (fastest dimension first), whether such a model always has
# it (the others announce a feature), and of which models or blocks the row speaks, None: of all.
# Q, K, VALUES and HEADS are rows of all heads, QKV those of Q, K and VALUES in one matrix.
_MODEL = (
    ("token_embd.weight", "D V", True, None),
    ("output_norm.weight", "D", True, None),
    ("output_norm.bias", "D", False, "layer"),
    ("output.weight", "D V", False, None),
    ("output.bias", "V", False, None),
    ("rope_freqs.weight", "PAIRS", False, None),
    ("rope_factors_short.weight", "PAIRS", False, None),
    ("rope_factors_long.weight", "PAIRS", False, None),
)
_ATTENTION = (
    ("attn_norm.weight", "D", True, None),
    ("attn_norm.bias", "D", False, "layer"),
    ("attn_norm_2.weight", "D", False, "parallel"),  # of the attention, where it has its own
    ("attn_norm_2.bias", "D", False, "parallel"),
    ("attn_qkv.weight", "D QKV", True, "one matrix for q, k and v"),
    ("attn_qkv.bias", "QKV", False, "one matrix for q, k and v"),
    ("attn_q.weight", "D Q", True, "three matrices"),
    ("attn_q.bias", "Q", False, "three matrices"),
    ("attn_q_norm.weight", "HD", False, "one q norm"),
    ("attn_q_norm.weight", "HD H", False, "a q norm per head"),
    ("attn_k.weight", "D K", True, "three matrices"),
    ("attn_k.bias", "K", False, "three matrices"),
    ("attn_k_norm.weight", "HD", False, "one k norm"),
    ("attn_k_norm.weight", "HD KH", False, "a k norm per head"),
    ("attn_v.weight", "D VALUES", True, "three matrices"),
    ("attn_v.bias", "VALUES", False, "three matrices"),
    ("attn_output.weight", "HEADS D", True, None),
    ("attn_output.bias", "D", False, None),
    ("post_attention_norm.weight", "D", False, None),
    ("ffn_norm.weight", "D", True, "sequential"),
    ("ffn_norm.weight", "D", False, "parallel"),  # of the feed-forward, where it has its own
    ("ffn_norm.bias", "D", False, "layer"),
    ("ffn_gate.weight", "D F", True, "a gate of its own"),
    ("ffn_gate.bias", "F", False, "a gate of its own"),
    ("ffn_up.weight", "D F", True, "a gate of its own"),
    ("ffn_up.bias", "F", False, "a gate of its own"),
    ("ffn_up.weight", "D 2F", True, "gate and up in one"),
    ("ffn_up.bias", "2F", False, "gate and up in one"),
    ("ffn_up.weight", "D F", True, "no gate"),
    ("ffn_up.bias", "F", False, "no gate"),
    ("ffn_down.weight", "F D", True, None),
    ("ffn_down.bias", "D", False, None),
    ("post_ffw_norm.weight", "D", False, None),
)
_BLOCKS = {"attention": _ATTENTION}


def expected_tensors(spec, L, D, F, V, H, KH, HD, VD, R, held=None):
    """{name: (shape, required)} of everything a model of these dimensions may hold.

    Where files differ (q, k and v in one matrix; gate and up in one; a QK-norm weight per head),
    `held`, the tensors of a file, tells what this one chose; without it the plain form is meant.
    """
    sizes = {
        "D": D, "F": F, "2F": 2 * F, "V": V, "HD": HD, "H": H, "KH": KH, "Q": H * HD, "K": KH * HD,
        "VALUES": KH * VD, "QKV": H * HD + KH * (HD + VD), "HEADS": H * VD, "PAIRS": R // 2,
    }  # fmt: skip
    tables = {"": (_MODEL, {spec.norm})}
    for i in range(L):
        form = _form(spec, held or {}, f"blk.{i}.", 2 * F)
        tables[f"blk.{i}."] = _BLOCKS[spec.mixer], form
    return {
        prefix + name: (
            tuple(sizes[letter] for letter in shape.split()),
            required or name in spec.requires,
        )
        for prefix, (rows, form) in tables.items()
        for name, shape, required, of in rows
        if of is None or of in form
    }


def _form(spec, held, blk, doubled):
    """Which rows speak of block `blk`; `doubled` rows of ffn_up are gate and up together."""
    form = {spec.norm, spec.residual}
    form.add("one matrix for q, k and v" if blk + "attn_qkv.weight" in held else "three matrices")
    for letter in "qk":
        norm = held.get(f"{blk}attn_{letter}_norm.weight")
        per_head = norm is not None and len(norm.shape) == 2
        form.add(f"a {letter} norm per head" if per_head else f"one {letter} norm")
    up = held.get(blk + "ffn_up.weight")
    if spec.ffn == "gelu":
        form.add("no gate")
    elif blk + "ffn_gate.weight" not in held and up is not None and up.shape[-1] == doubled:
        form.add("gate and up in one")
    else:
        form.add("a gate of its own")
    return form


def check_tensors(config, gguf):
    """See `ModelConfig.check_tensors`."""
    letters = {n: getattr(config, n) for n in ("L", "D", "F", "V", "H", "KH", "HD", "VD")}
    rotated = config.layers[0].rope.dims
    expected = expected_tensors(config.spec, **letters, R=rotated, held=gguf.tensors)
    required = {name for name, (_, needed) in expected.items() if needed}
    missing = sorted(required - gguf.tensors.keys())
    if missing:
        raise FileError(
            f"{gguf.path}: the tensor {missing[0]} of this {config.arch} model is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        )
    for name, tensor in gguf.tensors.items():
        if name not in expected:
            raise UnsupportedError(
                f"{gguf.path}: the tensor {name!r} belongs to no {config.arch} feature that is "
                "run here; without it the results would be wrong"
            )
        shape, _ = expected[name]
        if tensor.shape != shape:
            raise FileError(
                f"{gguf.path}: tensor {name!r} has the shape {list(tensor.shape)}; the metadata "
                f"asks for {list(shape)}"
            )
        if tensor.type != "F32" and (len(shape) == 1 or "norm" in name):
            raise UnsupportedError(
                f"{gguf.path}: tensor {name!r} is of type {tensor.type}; norms, biases and rope "
                "factors are read as F32"
            )

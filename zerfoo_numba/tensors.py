"""The tensors of a model: name, shape, and whether every model of its kind has them."""

from zerfoo_numba.errors import FileError, UnsupportedError

# By name: the shape as the file has it (fastest dimension first) and whether every
# model has them; the others announce a feature. Q, K, VALUES and HEADS are rows of all heads.
_MODEL_TENSORS = {
    "token_embd.weight": ("D V", True),
    "output_norm.weight": ("D", True),
    "output.weight": ("D V", False),
    "rope_freqs.weight": ("PAIRS", False),
}
_BLOCK_TENSORS = {
    "attention": {
        "attn_norm.weight": ("D", True),
        "attn_q.weight": ("D Q", True),
        "attn_q.bias": ("Q", False),
        "attn_q_norm.weight": ("HD", False),
        "attn_k.weight": ("D K", True),
        "attn_k.bias": ("K", False),
        "attn_k_norm.weight": ("HD", False),
        "attn_v.weight": ("D VALUES", True),
        "attn_v.bias": ("VALUES", False),
        "attn_output.weight": ("HEADS D", True),
        "attn_output.bias": ("D", False),
        "post_attention_norm.weight": ("D", False),
        "ffn_norm.weight": ("D", True),
        "ffn_gate.weight": ("D F", True),
        "ffn_up.weight": ("D F", True),
        "ffn_down.weight": ("F D", True),
        "post_ffw_norm.weight": ("D", False),
    },
}


def expected_tensors(spec, L, D, F, V, H, KH, HD, VD, R):
    """{name: (shape, required)} of everything a model of these dimensions may hold."""
    sizes = {
        "D": D, "F": F, "V": V, "HD": HD, "Q": H * HD, "K": KH * HD, "VALUES": KH * VD,
        "HEADS": H * VD, "PAIRS": R // 2,
    }  # fmt: skip
    rows = dict(_MODEL_TENSORS)
    for i in range(L):
        for name, (shape, required) in _BLOCK_TENSORS[spec.mixer].items():
            rows[f"blk.{i}.{name}"] = shape, required or name in spec.requires
    return {
        name: (tuple(sizes[letter] for letter in shape.split()), required)
        for name, (shape, required) in rows.items()
    }


def check_tensors(config, gguf):
    """See `ModelConfig.check_tensors`."""
    letters = {n: getattr(config, n) for n in ("L", "D", "F", "V", "H", "KH", "HD", "VD")}
    expected = expected_tensors(config.spec, **letters, R=config.layers[0].rope.dims)
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
        if len(shape) == 1 and tensor.type != "F32":
            raise UnsupportedError(
                f"{gguf.path}: tensor {name!r} is of type {tensor.type}; norms, biases and rope "
                "factors are read as F32"
            )

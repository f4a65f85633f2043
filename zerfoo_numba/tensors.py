"""The tensors of a model: name, shape, and whether every model of its kind has them."""

from zerfoo_numba import recurrent_tensors
from zerfoo_numba.errors import FileError, UnsupportedError

# A row: name, shape as the file has it (fastest dimension first), whether such a model always has
# it (the others announce a feature), and of which models or blocks the row speaks, None: of all.
# Q, K, VALUES and HEADS are rows of all heads, QKV those of Q, K and VALUES in one matrix.
_MODEL = (
    ("token_embd.weight", "D V", True, None),
    ("token_embd_norm.weight", "D", False, None),
    ("token_embd_norm.bias", "D", False, "layer"),
    ("output_norm.weight", "D", True, None),
    ("output_norm.bias", "D", False, "layer"),
    ("output.weight", "D V", False, None),
    ("output.bias", "V", False, None),
    ("rope_freqs.weight", "PAIRS", False, None),
    ("rope_factors_short.weight", "PAIRS", False, None),
    ("rope_factors_long.weight", "PAIRS", False, None),
    ("position_embd.weight", "D CONTEXT", True, "learned positions"),
)
_ATTENTION = (
    ("attn_norm.weight", "D", True, "pre-norms"),
    ("attn_norm.bias", "D", False, "layer"),
    ("attn_norm_2.weight", "D", False, "parallel"),  # of the attention, where it has its own
    ("attn_norm_2.bias", "D", False, "parallel"),
    ("attn_qkv.weight", "D QKV", True, "one matrix for q, k and v"),
    ("attn_qkv.bias", "QKV", False, "one matrix for q, k and v"),
    ("attn_q.weight", "D Q", True, "three matrices"),
    ("attn_q.bias", "Q", False, "three matrices"),
    ("attn_q_norm.weight", "HD", False, "one q norm"),
    ("attn_q_norm.weight", "HD H", False, "a q norm per head"),
    ("attn_q_norm.weight", "Q", False, "a q norm of all heads"),
    ("attn_k.weight", "D K", True, "three matrices"),
    ("attn_k.bias", "K", False, "three matrices"),
    ("attn_k_norm.weight", "HD", False, "one k norm"),
    ("attn_k_norm.weight", "HD KH", False, "a k norm per head"),
    ("attn_k_norm.weight", "K", False, "a k norm of all heads"),
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
    ("ffn_down.weight", "F D", True, "dense"),
    ("ffn_down.bias", "D", False, "dense"),
    ("ffn_gate_inp.weight", "D E", True, "experts"),
    ("ffn_gate_exps.weight", "D FE E", True, "experts"),
    ("ffn_up_exps.weight", "D FE E", True, "experts"),
    ("ffn_down_exps.weight", "FE D E", True, "experts"),
    ("ffn_gate_shexp.weight", "D FS", True, "a shared expert"),
    ("ffn_up_shexp.weight", "D FS", True, "a shared expert"),
    ("ffn_down_shexp.weight", "FS D", True, "a shared expert"),
    ("ffn_gate_inp_shexp.weight", "D", False, "a shared expert"),
    ("post_ffw_norm.weight", "D", False, None),
)
_MERGED = ("gate_exps", "up_exps", "down_exps")
UNGATED = ("gelu", "gelu_tanh")  # of `ArchSpec.ffn`
_BLOCKS = {"attention": _ATTENTION, **recurrent_tensors.BLOCKS}


def expected_tensors(spec, L, D, F, V, H, KH, HD, VD, R, held=None, letters=None):
    """{name: (shape, required)} of everything a model of these dimensions may hold.

    Where files differ (q, k and v in one matrix; gate and up in one; a QK-norm weight per head),
    `held`, the tensors of a file, tells what this one chose; without it the plain form is meant.
    `letters` {name: size} are those of a recurrent model, of experts and of learned positions.
    """
    sizes = {
        "D": D, "F": F, "2F": 2 * F, "V": V, "HD": HD, "H": H, "KH": KH, "Q": H * HD, "K": KH * HD,
        "VALUES": KH * VD, "QKV": H * HD + KH * (HD + VD), "HEADS": H * VD, "PAIRS": R // 2,
    }  # fmt: skip
    sizes |= letters or {}
    tables = {"": (_MODEL, {spec.norm, "learned positions" if spec.rope is None else ""})}
    for i in range(L):
        blk = f"blk.{i}."
        if spec.mixer != "attention":
            form = recurrent_tensors.form(held or {}, blk, letters)
        else:
            form = _form(spec, held or {}, blk, sizes)
        tables[blk] = _BLOCKS[spec.mixer], form
    return {
        prefix + name: (
            tuple(sizes[letter] for letter in shape.split()),
            required or name in spec.requires,
        )
        for prefix, (rows, form) in tables.items()
        for name, shape, required, of in rows
        if of is None or of in form
    }


def _form(spec, held, blk, sizes):
    """Which rows speak of block `blk`."""
    form = {spec.norm} | ({"pre-norms", spec.residual} if spec.pre_norms else set())
    form.add("one matrix for q, k and v" if blk + "attn_qkv.weight" in held else "three matrices")
    for letter in "qk":
        norm = held.get(f"{blk}attn_{letter}_norm.weight")
        per_head = norm is not None and len(norm.shape) == 2
        whole = norm is not None and norm.shape == (sizes[letter.upper()],) != (sizes["HD"],)
        one = f"a {letter} norm of all heads" if whole else f"one {letter} norm"
        form.add(f"a {letter} norm per head" if per_head else one)
    return form | (_experts(spec, held, blk, sizes) or _dense(spec, held, blk, 2 * sizes["F"]))


def _experts(spec, held, blk, sizes):
    """The form of a feed-forward of experts; none of it where the block has a dense one."""
    routed = [blk + f"ffn_{name}.weight" for name in ("gate_inp", *_MERGED)]
    if "E" not in sizes or (held and not any(name in held for name in routed)):
        return set()
    names = held if held else {blk + name for name in spec.requires}
    shared = any(name.startswith(blk) and "_shexp" in name for name in names)
    return {"experts", "a shared expert"} if shared else {"experts"}


def _dense(spec, held, blk, doubled):
    """The form of a dense feed-forward; `doubled` rows of ffn_up are gate and up together."""
    form, up = {"dense"}, held.get(blk + "ffn_up.weight")
    if spec.ffn in UNGATED:
        form.add("no gate")
    elif blk + "ffn_gate.weight" not in held and up is not None and up.shape[-1] == doubled:
        form.add("gate and up in one")
    else:
        form.add("a gate of its own")
    return form


def require_tensors(gguf, expected, kind):
    """Raise FileError naming one of `expected` {name: (shape, required)} that is missing, where
    `kind`, as "gemma3 model", requires it."""
    required = {name for name, (_, needed) in expected.items() if needed}
    missing = sorted(required - gguf.tensors.keys())
    if missing:
        raise FileError(
            f"{gguf.path}: the tensor {missing[0]} of this {kind} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        )


def wrong_shape(gguf, name, shape):
    """The FileError of a tensor whose shape is not `shape`, which the metadata asks for."""
    held = list(gguf.tensors[name].shape)
    return FileError(
        f"{gguf.path}: tensor {name!r} has the shape {held}; the metadata asks for {list(shape)}"
    )


def check_tensors(config, gguf):
    """See `ModelConfig.check_tensors`."""
    letters = {n: getattr(config, n) for n in ("L", "D", "F", "V", "H", "KH", "HD", "VD")}
    more = {"CONTEXT": config.context}
    for kind in (config.recurrent, config.experts):
        more |= kind.letters if kind else {}
    rotated = 0 if config.recurrent else config.layers[0].rope.dims
    expected = expected_tensors(config.spec, **letters, R=rotated, held=gguf.tensors, letters=more)
    require_tensors(gguf, expected, f"{config.arch} model")
    for name, tensor in gguf.tensors.items():
        if name not in expected:
            raise UnsupportedError(
                f"{gguf.path}: the tensor {name!r} belongs to no {config.arch} feature that is "
                "run here; without it the results would be wrong"
            )
        shape, _ = expected[name]
        held = tensor.shape
        if "lerp" in name or "inp_shexp" in name:  # converters differ in the dimensions of 1
            held, shape = (tuple(n for n in s if n > 1) for s in (held, shape))
        if held != shape:
            raise wrong_shape(gguf, name, shape)
        if tensor.type != "F32" and (len(tensor.shape) == 1 or "norm" in name):
            raise UnsupportedError(
                f"{gguf.path}: tensor {name!r} is of type {tensor.type}; norms, biases and rope "
                "factors are read as F32"
            )

"""The tensors of an image tower and its projector: name, shape, and which files have them."""

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.tensors import require_tensors, wrong_shape

# A row: name, shape as the file has it (fastest dimension first), whether such a file always has
# it, and of which files the row speaks, None: of all. P is a row per patch, and one for the class
# token; CHANNELS a pixel's three; JOINED the rows of the features that are joined, MERGED those of
# the patches that become one token.
_TOWER = (
    ("v.patch_embd.weight", "PATCH PATCH CHANNELS D", True, None),
    ("v.patch_embd.weight.1", "PATCH PATCH CHANNELS D", True, "rope"),
    ("v.patch_embd.bias", "D", False, None),
    ("v.class_embd", "D", False, "learned"),
    ("v.position_embd.weight", "D P", True, "learned"),
    ("v.pre_ln.weight", "D", False, None),
    ("v.pre_ln.bias", "D", False, "layer"),
    ("v.post_ln.weight", "D", False, None),
    ("v.post_ln.bias", "D", False, "layer"),
    ("model.image_newline", "OUT", False, "tiles"),
)
_BLOCK = (
    ("ln1.weight", "D", True, None),
    ("ln1.bias", "D", False, "layer"),
    ("attn_q.weight", "D D", True, None),
    ("attn_q.bias", "D", False, None),
    ("attn_k.weight", "D D", True, None),
    ("attn_k.bias", "D", False, None),
    ("attn_v.weight", "D D", True, None),
    ("attn_v.bias", "D", False, None),
    ("attn_out.weight", "D D", True, None),
    ("attn_out.bias", "D", False, None),
    ("ln2.weight", "D", True, None),
    ("ln2.bias", "D", False, "layer"),
    ("ffn_gate.weight", "D F", True, "gated"),
    ("ffn_gate.bias", "F", False, "gated"),
    ("ffn_up.weight", "D F", True, "in order"),
    ("ffn_up.bias", "F", False, "in order"),
    ("ffn_down.weight", "F D", True, "in order"),
    ("ffn_down.bias", "D", False, "in order"),
    ("ffn_down.weight", "D F", True, "swapped"),
    ("ffn_down.bias", "F", False, "swapped"),
    ("ffn_up.weight", "F D", True, "swapped"),
    ("ffn_up.bias", "D", False, "swapped"),
)
_MERGER = (
    ("v.post_ln.weight", "D", True, None),
    ("mm.0.weight", "MERGED HIDDEN", True, None),
    ("mm.0.bias", "HIDDEN", True, None),
    ("mm.2.weight", "HIDDEN OUT", True, None),
    ("mm.2.bias", "OUT", True, None),
)
_PROJECTOR = {
    "mlp": (
        ("mm.0.weight", "JOINED HIDDEN", True, None),
        ("mm.0.bias", "HIDDEN", True, None),
        ("mm.2.weight", "HIDDEN OUT", True, None),
        ("mm.2.bias", "OUT", True, None),
    ),
    "gemma3": (
        ("v.post_ln.weight", "D", True, None),
        ("mm.soft_emb_norm.weight", "D", True, None),
        ("mm.input_projection.weight", "OUT D", True, None),
    ),
    "qwen2vl_merger": _MERGER,
    "qwen2.5vl_merger": _MERGER,
}


def expected_vision_tensors(config, held):
    """{name: (shape, required)} of what a file with the tensors `held` may hold."""
    spec, side = config.spec, config.image_size // config.patch
    hidden = held.get("mm.0.weight")
    sizes = {
        "PATCH": config.patch, "CHANNELS": 3, "D": config.D, "F": config.F, "OUT": config.out,
        "P": side * side + config.class_token, "JOINED": config.D * len(config.features),
        "MERGED": config.D * config.merge**2, "HIDDEN": hidden.shape[-1] if hidden else 0,
    }  # fmt: skip
    form = {spec.norm, spec.positions, config.resize}
    form.add("swapped" if config.swapped else "in order")
    if config.gated:
        form.add("gated")
    tables = {"": _TOWER + _PROJECTOR[spec.name]}
    tables.update({f"v.blk.{i}.": _BLOCK for i in range(config.L)})
    return {
        prefix + name: (tuple(sizes[letter] for letter in shape.split()), required)
        for prefix, rows in tables.items()
        for name, shape, required, of in rows
        if of is None or of in form
    }


def check_vision_tensors(config, gguf):
    """See `VisionConfig.check_tensors`."""
    expected = expected_vision_tensors(config, gguf.tensors)
    require_tensors(gguf, expected, f"{config.projector} projector")
    for name, tensor in gguf.tensors.items():
        if name not in expected:
            # A file may hold a text or an audio tower beside, and older ones of Qwen2-VL a table
            # of positions that is all zeros and of no meaning: none of them is asked.
            unasked = config.spec.positions == "rope" and name == "v.position_embd.weight"
            if name.startswith(("v.", "mm.")) and not unasked:
                raise UnsupportedError(
                    f"{gguf.path}: the tensor {name!r} belongs to no {config.projector} feature "
                    "that is run here; without it the results would be wrong"
                )
            continue
        shape, _ = expected[name]
        if tensor.shape != shape:
            raise wrong_shape(gguf, name, shape)
        if tensor.type not in ("F32", "F16", "BF16") and (len(shape) != 2 or name in _PLAIN):
            raise UnsupportedError(
                f"{gguf.path}: tensor {name!r} is of type {tensor.type}; kernels of patches, "
                "positions, norms and biases are read as F32, F16 and BF16"
            )


_PLAIN = ("v.position_embd.weight",)

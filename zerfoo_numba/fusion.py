"""Which neighbouring operations of a walk run as one launch."""

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels import matvec_group

FUSIONS = {
    "add_norm": "the sum into the residual stream and the norm of it",
    "qk_norm": "the norms of q and k, their rotation and the append to the cache",
    "qkv": "the products that make q, k and v of one token",
    "gate_up": "the products that make gate and up of one token, and their activation",
}


def chosen(fuse, device):
    """The set of fusions that `fuse` means: True what is fastest on the device, as far as that was
    measured, False none, or a set of names. Another name: UnsupportedError."""
    if isinstance(fuse, bool):
        return frozenset(device.fusions if fuse else ())
    unknown = sorted(set(fuse) - FUSIONS.keys())
    if isinstance(fuse, str) or unknown:
        known = ", ".join(FUSIONS)
        raise UnsupportedError(f"fuse is True, False or a set out of {known}; not {fuse!r}")
    return frozenset(fuse)


def head_norms(walk, q, k, weights):
    """The `weights` of the norms of q and k that the rotation is to apply: all of them, or those
    that have no launch of their own, layer norms and norms with a row for every head."""
    if "qk_norm" in walk.fusions or walk.config.spec.norm != "rms":
        return weights
    left = list(weights)
    for n, (x, weight) in enumerate(zip((q, k), weights, strict=True)):
        if weight is None or len(weight.shape) == 2:
            continue
        heads = x.view((x.shape[0] * x.shape[1], x.shape[2]))
        walk.ops.rmsnorm(heads, heads, weight, walk.config.eps, version=1)  # a warp for each, too
        left[n] = None
    return left


def attention_products(walk, blk, b, x):
    """b["q"], b["k"] and b["v"] from the operand x."""
    names = [f"{blk}attn_{name}" for name in "qkv"]
    if merged(walk, "qkv", names, x, matvec_group.GROUPS):
        weights, biases = _parts(walk, names)
        walk.ops.matvec_group([b[n] for n in "qkv"], weights, x.quantized, biases)
        return
    for name, full in zip("qkv", names, strict=True):
        walk.linear(b[name], full, x)


def gate_up(walk, blk, b, x, kind):
    """Whether b["act"] = act(gate) up was made in one launch, which leaves no gate and no up."""
    names = [blk + "ffn_gate", blk + "ffn_up"]
    if walk.ops.taps is not None or not merged(walk, "gate_up", names, x, matvec_group.GATED):
        return False
    (gate, up), biases = _parts(walk, names)
    walk.ops.matvec_gated(b["act"], gate, up, x.quantized, biases, kind)
    return True


def merged(walk, name, names, x, known):
    """Whether the products with the weights `names` are one launch: those of one token with packed
    weights in one of the `known` mixtures of formats."""
    if name not in walk.fusions or x.x.shape[0] != 1:
        return False
    weights = [walk.weights.matrix(full + ".weight") for full in names]
    return all(w.packed for w in weights) and tuple(w.type for w in weights) in known


def _parts(walk, names):
    weights = [walk.weights.matrix(name + ".weight") for name in names]
    return weights, [walk.weights.vector(name + ".bias") for name in names]

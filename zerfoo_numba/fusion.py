"""Which neighbouring operations of a walk run as one launch."""

from typing import NamedTuple

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels import attention_append, matvec_group, matvec_prologue
from zerfoo_numba.kernels.prologue import Prologue

FUSIONS = {
    "add_norm": "the sum into the residual stream and the norm of it",
    "qk_norm": "the norms of q and k, their rotation and the append to the cache",
    "qkv": "the products that make q, k and v of one token",
    "gate_up": "the products that make gate and up of one token, and their activation",
    "prologue": "a product of one token and what makes its operand: sum, norms and 8-bit form",
    "attention": "what qk_norm does of one token, and its attention",
}


class Product(NamedTuple):
    """The matrices that some operand of a walk is multiplied with; several of them are one launch
    by the fusion `merge`, if it knows their mixture of formats."""

    names: tuple[str, ...]
    merge: str | None = None
    known: tuple[tuple[str, ...], ...] = ()


def qkv(blk):
    return Product(tuple(f"{blk}attn_{name}" for name in "qkv"), "qkv", matvec_group.GROUPS)


def feed_forward(walk, blk):
    """What reads the norm before a dense feed-forward; None before a mixture of experts."""
    if blk + "ffn_gate_inp.weight" in walk.weights:
        return None
    if blk + "ffn_gate.weight" in walk.weights:
        return Product((blk + "ffn_gate", blk + "ffn_up"), "gate_up", matvec_group.GATED)
    return Product((blk + "ffn_up",))


def following(walk, i):
    """What reads the norm after block i."""
    return qkv(f"blk.{i + 1}.") if i + 1 < walk.config.L else Product((walk.head,))


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


def merged(walk, product, T):
    """Whether the product with several matrices is one launch: that of one token with packed
    weights in one of the known mixtures of formats."""
    if product.merge not in walk.fusions or T != 1:
        return False
    weights = [walk.weights.matrix(name + ".weight") for name in product.names]
    return all(w.packed for w in weights) and tuple(w.type for w in weights) in product.known


def begins(walk, product, T):
    """Whether the product is one launch that makes its operand itself."""
    if "prologue" not in walk.fusions or T != 1:
        return False
    first = walk.weights.matrix(product.names[0] + ".weight")
    alone = len(product.names) == 1 and first.packed
    return (alone or merged(walk, product, T)) and matvec_prologue.fits(first.columns)


def defer(walk, b, product, norm, post=None):
    """Whether `product`, which is next to read the residual stream, makes its norm `norm` itself,
    and with `post` before it the sum of the stream and a branch's result, by way of the norm
    `post` where there is one. If so, `walk.deferred` says how, and x is where that sum will be.
    """
    walk.deferred, spec, vector = None, walk.config.spec, walk.weights.vector
    plain = spec.norm == "rms" and spec.residual == "sequential" and walk.mixer is None
    if walk.ops.taps is not None or not plain or walk.config.residual_scale != 1:
        return False
    if product is None or not begins(walk, product, b["x"].shape[0]):
        return False
    weight, eps = vector(norm + ".weight"), walk.config.eps
    if post is None:
        walk.deferred = Prologue(b["x"], weight=weight, eps=eps)
    else:
        x, total = b["x"], walk.workspace.turn(b)
        walk.deferred = Prologue(b["result"], vector(post + ".weight"), x, total, weight, eps)
    return True


def entry(walk, x):
    """The operand of the product that reads the normed stream x."""
    return x if walk.deferred is None else walk.deferred


def prologue(walk, x, product):
    """x as the product's one launch takes it, or None where that starts from the 8-bit form."""
    if isinstance(x, Prologue):
        return x
    return Prologue(x) if begins(walk, product, x.shape[0]) else None


def single(walk, out, name, x):
    """Whether out = weight x + bias was made in one launch."""
    start = prologue(walk, x, Product((name,)))
    if start is not None:
        weights, biases = _parts(walk, (name,))
        walk.ops.matvec_prologue([out], weights, start, biases)
    return start is not None


def attention_products(walk, blk, b):
    """b["q"], b["k"] and b["v"]."""
    product, x, outs = qkv(blk), entry(walk, b["normed"]), [b[n] for n in "qkv"]
    start = prologue(walk, x, product)
    if start is not None:
        weights, biases = _parts(walk, product.names)
        walk.ops.matvec_prologue(outs, weights, start, biases)
        return
    x = walk.operand(x, *product.names)
    if merged(walk, product, x.x.shape[0]):
        weights, biases = _parts(walk, product.names)
        walk.ops.matvec_group(outs, weights, x.quantized, biases)
        return
    for out, name in zip(outs, product.names, strict=True):
        walk.linear(out, name, x)


def gate_up(walk, blk, b):
    """Whether b["act"] = act(gate) up was made in one launch, which leaves no gate and no up."""
    product, x = feed_forward(walk, blk), entry(walk, b["normed"])
    if walk.ops.taps is not None or not merged(walk, product, x.shape[0]):
        return False
    (gate, up), biases = _parts(walk, product.names)
    start, kind = prologue(walk, x, product), walk.config.spec.ffn
    if start is not None:
        walk.ops.matvec_gated_prologue(b["act"], gate, up, start, biases, kind)
    else:
        x = walk.operand(x, *product.names)
        walk.ops.matvec_gated(b["act"], gate, up, x.quantized, biases, kind)
    return True


def attend(walk, layer, cache, table, q, k, v, out, norms, cached):
    """Norms, rotation and append of q (T, H, HD), k and v, and attention to all that is cached."""
    ops, c, spans = walk.ops, walk.config, walk.spans
    limits = {"scale": c.attn_scale, "window": layer.window, "softcap": c.attn_softcap}
    alone = q.shape[0] == 1 and ops.taps is None and spans is None
    fits = attention_append.fits(c.H, c.KH, c.HD, c.VD, cache)
    if "attention" in walk.fusions and alone and fits:
        more = (walk.position, table, c.spec.norm, norms, c.eps)
        ops.attention_append(out, q, k, v, cache, *more, **limits, cached=cached)
        return
    norms = head_norms(walk, q, k, norms)
    ops.qk_norm_rope_append(q, k, v, cache, walk.position, table, c.spec.norm, norms, c.eps)
    ops.attention(out, q, cache, walk.position, **limits, cached=cached, spans=spans)


def _parts(walk, names):
    weights = [walk.weights.matrix(name + ".weight") for name in names]
    return weights, [walk.weights.vector(name + ".bias") for name in names]

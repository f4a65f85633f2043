"""The operations of a transformer, each as its formula in NumPy.

Every function works in the floating-point type of its first argument. Letters: T tokens in this
step, S cached length (the step included), D width, H query heads, KH key/value heads, HD head
width, VD value head width, R rotated dimensions, F feed-forward width, V vocabulary.
"""

import math

import numpy as np


def rmsnorm(x, weight, eps):
    """x / sqrt(mean(x²) + eps) · weight over the last axis (Zhang & Sennrich, 2019).

    x (..., D); weight (D,), or (H, D) for one row per head. GGUF stores Gemma's weights with
    their +1 already added.
    """
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + x.dtype.type(eps)) * weight


def layernorm(x, weight, bias, eps):
    """(x - mean(x)) / sqrt(var(x) + eps) · weight + bias over the last axis (Ba et al., 2016).

    x (..., D); weight (D,) or (H, D); bias like weight, or None.
    """
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    y = centred / np.sqrt(variance + x.dtype.type(eps)) * weight
    return y if bias is None else y + bias


def rope_table(positions, rope, factors=None):
    """cos and sin, float64 (T, R/2), of angle[t, i] = positions[t] · frequency[i].

    frequency[i] = base^(-2i/R) (Su et al., RoFormer, 2021), divided by `factor` (Chen et al.,
    position interpolation, 2023) as far as `yarn_share` leaves it to; and then by `factors`
    (R/2,), as Llama 3 and LongRoPE do. Both tables are multiplied by `attn_factor`. `rope` is a
    `zerfoo_numba.config.Rope`, whose dims are R. With `sections` (M-RoPE, Qwen2-VL, 2024) the pairs
    of each section turn by another row of positions (3, T): time, row and column of a token.
    """
    pair = np.arange(rope.dims // 2, dtype=np.float64)
    frequency = float(rope.base) ** (-2 * pair / rope.dims)
    kept = 0.0 if rope.yarn is None else yarn_share(rope)
    frequency = kept * frequency + (1 - kept) * frequency / rope.factor
    if factors is not None:
        frequency = frequency / np.asarray(factors, np.float64)
    positions = np.asarray(positions, np.float64)
    if rope.sections is None:
        angle = np.outer(positions, frequency)
    else:
        angle = positions[np.repeat([0, 1, 2], rope.sections)].T * frequency
    return np.cos(angle) * rope.attn_factor, np.sin(angle) * rope.attn_factor


def yarn_share(rope):
    """How much of each frequency (R/2,) YaRN keeps as it was trained: 1 all, 0 nothing.

    Pair i turns context · base^(-2i/R) / 2π times within the context. All of it is kept up to the
    pair that turns `fast` times (rounded down), nothing from the one that turns `slow` times
    (rounded up), and between the two the share falls linearly (Peng et al., 2023, section 3.2).
    """

    def pair_that_turns(times):
        return (
            rope.dims * math.log(yarn.context / (2 * math.pi * times)) / (2 * math.log(rope.base))
        )

    yarn = rope.yarn
    first = max(math.floor(pair_that_turns(yarn.fast)), 0)
    last = min(math.ceil(pair_that_turns(yarn.slow)), rope.dims - 1)
    fall = (np.arange(rope.dims // 2) - first) / max(last - first, 0.001)
    return 1 - np.clip(fall, 0, 1)


def rope(x, cos, sin, kind):
    """Rotates pairs of the first R = 2 · cos.shape[1] elements of each head; the rest stay.

    x (T, H, HD); cos, sin (T, R/2). The pair of angle i is (x[i], x[i + R/2]) for kind "half"
    (GPT-NeoX) and (x[2i], x[2i + 1]) for kind "interleaved" (RoFormer).
    """
    half = cos.shape[1]
    if kind == "half":
        first, second = slice(0, half), slice(half, 2 * half)
    elif kind == "interleaved":
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        raise ValueError(f"rope kind {kind!r} is neither 'half' nor 'interleaved'")
    cos, sin = (table.astype(x.dtype)[:, None, :] for table in (cos, sin))  # (T, 1, R/2)
    y = x.copy()
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., first] * sin + x[..., second] * cos
    return y


def attention_mask(tokens, length, window=None, image=None):
    """bool (T, S): may query t, at position S - T + t, see key s? Causal, and within `window`.

    A query at position p sees the keys p - window + 1 .. p, itself among them. Where image (S,) is
    the same number, not -1, for key and query, the key may also come later (Gemma 3, 2025).
    """
    query = np.arange(length - tokens, length)[:, None]
    key = np.arange(length)[None, :]
    visible = key <= query
    if image is not None:
        own = image[length - tokens :, None]
        visible |= (own == image[None, :]) & (own >= 0)
    return visible if window is None else visible & (key > query - window)


def softmax(x):
    """exp(x - max(x)) / sum(exp(x - max(x))) over the last axis; -inf becomes 0."""
    exponential = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return exponential / np.sum(exponential, axis=-1, keepdims=True)


def softcap(x, cap):
    """cap · tanh(x / cap) (Gemma 2, 2024)."""
    return np.tanh(x / cap) * cap


def attention(q, k, v, scale, window=None, cap=None, image=None):
    """softmax(mask(softcap(scale · q kᵀ))) v, causal; the queries are the last T of S positions.

    q (T, H, HD), k (S, KH, HD), v (S, KH, VD) -> (T, H, VD). Query head h reads key/value head
    h // (H / KH): each is repeated H/KH times in a row (Ainslie et al., GQA, 2023). `image` as for
    `attention_mask`.
    """
    tokens, heads = q.shape[:2]
    group = heads // k.shape[1]
    mask = attention_mask(tokens, k.shape[0], window, image)
    out = np.empty((tokens, heads, v.shape[2]), q.dtype)
    for h in range(heads):  # head by head, so that T·S scores are in memory and not H·T·S
        scores = q[:, h] @ k[:, h // group].T * q.dtype.type(scale)  # (T, S)
        if cap is not None:
            scores = softcap(scores, cap)
        scores[~mask] = -np.inf
        out[:, h] = softmax(scores) @ v[:, h // group]
    return out


def silu(x):
    """x · sigmoid(x) = x / (1 + exp(-x)), written so that exp never overflows."""
    small = np.exp(-np.abs(x))
    return x * np.where(x >= 0, 1, small).astype(x.dtype) / (1 + small)


def gelu_tanh(x):
    """x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))) (Hendrycks & Gimpel, 2016)."""
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) * 0.5


def gelu(x):
    """x/2 · (1 + erf(x / √2)) (Hendrycks & Gimpel, 2016)."""
    erf = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))
    return x * (1 + erf.astype(x.dtype)) * 0.5


def sigmoid(x):
    """1 / (1 + exp(-x)), written so that exp never overflows."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small).astype(x.dtype) / (1 + small)


def route(logits, used, normed, scale=1.0):
    """The weight of every expert for every token: (T, E) -> (T, E), zero for all but `used`.

    The experts with the largest logits are used, of equals the first (Shazeer et al., 2017). Their
    weights are those of a softmax over all experts, or normed: over the used ones (Jiang et al.,
    Mixtral, 2024). Both are multiplied by `scale`.
    """
    order = np.argsort(-logits, axis=1, kind="stable")[:, :used]
    weights = np.zeros_like(logits)
    chosen = softmax(logits if not normed else np.take_along_axis(logits, order, axis=1))
    chosen = chosen if normed else np.take_along_axis(chosen, order, axis=1)
    np.put_along_axis(weights, order, chosen * logits.dtype.type(scale), axis=1)
    return weights


def swiglu(gate, up):
    """silu(gate) · up (Shazeer, 2020); gate, up (T, F)."""
    return silu(gate) * up


def geglu(gate, up):
    """gelu_tanh(gate) · up (Shazeer, 2020); gate, up (T, F)."""
    return gelu_tanh(gate) * up

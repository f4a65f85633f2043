"""The operations of recurrent models, each as its formula in NumPy, token after token.

Every function works in the floating-point type of its first argument. Letters: T tokens, D width,
I inner width, N states of a channel, H heads, W head width. Before the first token every state is
zero, and so is the token before it.
"""

import numpy as np

from reference.ops import silu


def sigmoid(x):
    """1 / (1 + exp(-x)), written so that exp never overflows."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small).astype(x.dtype) / (1 + small)


def softplus(x):
    """log(1 + exp(x)), written so that exp never overflows."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def squared_relu(x):
    """max(x, 0)² (So et al., Primer, 2021)."""
    return np.square(np.maximum(x, 0))


def causal_conv(x, weight, bias=None):
    """silu(sum over k of weight[i, k] · x[t - K + 1 + k, i] + bias[i]): one filter per channel.

    x (T, I); weight (I, K), its last tap that of the token itself; bias (I,) or None.
    """
    taps = weight.shape[1]
    padded = np.concatenate([np.zeros((taps - 1, x.shape[1]), x.dtype), x])
    y = sum(padded[k : k + len(x)] * weight[:, k] for k in range(taps))
    return silu(y if bias is None else y + bias)


def selective_scan(x, dt, a, b, c, d):
    """y[t, i] = c[t] · h[t, i] + d[i] x[t, i], where for each channel i and its N states

        h[t, i] = exp(dt[t, i] a[i]) h[t - 1, i] + dt[t, i] b[t] x[t, i]

    (Gu & Dao, Mamba, 2023, algorithm 2 with the discretisation of section 2). x, dt (T, I), dt
    after its softplus; a (I, N); b, c (T, N); d (I,) -> (T, I).
    """
    state, y = np.zeros_like(a), np.empty_like(x)
    for t in range(len(x)):
        state = np.exp(dt[t][:, None] * a) * state + (dt[t] * x[t])[:, None] * b[t]
        y[t] = state @ c[t] + d * x[t]
    return y


def token_shift(x, mix):
    """x[t] + (x[t - 1] - x[t]) · mix: for each channel, a part of the token before.

    x (T, D); mix (D,), or (T, D) for one that depends on the token.
    """
    before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    return x + (before - x) * mix


def wkv6(r, k, v, decay, first):
    """out[t] = r[t] (S[t-1] + diag(first) k[t]ᵀ v[t]); S[t] = diag(decay[t]) S[t-1] + k[t]ᵀ v[t].

    r, k, v, decay (T, H, W), the decay within (0, 1); first (H, W) -> (T, H, W)
    (Peng et al., Eagle and Finch, arXiv:2404.05892, equations 19 and 20).
    """
    state = np.zeros((*r.shape[1:], r.shape[2]), r.dtype)  # (H, key, value)
    out = np.empty_like(r)
    for t in range(len(r)):
        product = k[t][:, :, None] * v[t][:, None, :]
        out[t] = np.einsum("hk,hkv->hv", r[t], state + first[:, :, None] * product)
        state = decay[t][:, :, None] * state + product
    return out


def wkv7(r, k, v, decay, removal, rate):
    """S[t] = S[t-1] (diag(decay[t]) - removal[t]ᵀ (rate[t] · removal[t])) + v[t]ᵀ k[t], and
    out[t] = S[t] r[t]ᵀ: what lies in the direction of the removal key is first taken away.

    All (T, H, W); removal of length 1, rate and decay within (0, 1) -> (T, H, W)
    (Peng et al., RWKV-7 Goose, arXiv:2503.14456, equation 17).
    """
    state = np.zeros((*r.shape[1:], r.shape[2]), r.dtype)  # (H, value, key)
    out = np.empty_like(r)
    for t in range(len(r)):
        held = np.einsum("hvk,hk->hv", state, removal[t])
        taken = held[:, :, None] * (rate[t] * removal[t])[:, None, :]
        state = state * decay[t][:, None, :] - taken + v[t][:, :, None] * k[t][:, None, :]
        out[t] = np.einsum("hvk,hk->hv", state, r[t])
    return out


def unit(x):
    """x / max(|x|, 1e-12) over the last axis, |x| the Euclidean length."""
    length = np.sqrt(np.sum(x * x, axis=-1, keepdims=True))
    return x / np.maximum(length, x.dtype.type(1e-12))

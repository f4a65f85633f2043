"""The blocks of Mamba and RWKV: x (T, D) -> (T, D).

A mixer is made for one run over a sequence, of the model's config, its weights, and its functions
`linear(x, name)` and `norm(x, name)`. Letters as in `reference.recurrent_ops`; the names given to
`tap` are those of the runtime's `taps`.
"""

import numpy as np

from reference import ops
from reference.recurrent_ops import (
    causal_conv,
    selective_scan,
    sigmoid,
    softplus,
    squared_relu,
    token_shift,
    unit,
    wkv6,
    wkv7,
)

GROUP_EPS = 64e-5  # of RWKV's norm over heads: 1e-5 times the square of its head divisor 8


class Mamba:
    """Causal convolution and selective scan (Gu & Dao, Mamba, arXiv:2312.00752, figure 3)."""

    def __init__(self, config, weights, linear, norm):
        self.config, self.weights, self.linear, self.norm = config, weights, linear, norm

    def block(self, i, x, tap):
        blk = f"blk.{i}."
        normed = tap(blk + "attn_norm", self.norm(x, blk + "attn_norm"))
        inside = tap(blk + "ssm_in", self.linear(normed, blk + "ssm_in"))
        u, gate = np.split(inside, 2, axis=1)
        bias = self._array(blk + "ssm_conv1d.bias")
        u = tap(blk + "ssm_conv", causal_conv(u, self._array(blk + "ssm_conv1d.weight"), bias))
        dt, b, c = self._time_steps(blk, u, tap)
        a, d = self._array(blk + "ssm_a"), self._array(blk + "ssm_d")
        y = selective_scan(u, softplus(dt), a, b, c, d) * ops.silu(gate)
        y = tap(blk + "ssm_y", y)
        return tap(blk + "output", x + tap(blk + "ssm_out", self.linear(y, blk + "ssm_out")))

    def _time_steps(self, blk, u, tap):
        """u (T, I) -> dt (T, I) before its softplus, b and c (T, N)."""
        sizes = self.config.recurrent
        parts = self.linear(u, blk + "ssm_x")
        low, b, c = np.split(parts, (sizes.R, sizes.R + sizes.N), axis=1)
        if sizes.normed:
            low, b, c = (ops.rmsnorm(y, u.dtype.type(1), self.config.eps) for y in (low, b, c))
        b, c = tap(blk + "ssm_b", b), tap(blk + "ssm_c", c)
        return tap(blk + "ssm_dt", self.linear(low, blk + "ssm_dt")), b, c

    def _array(self, name):
        return self.weights.array(name) if name in self.weights else None


class Rwkv:
    """What RWKV 6 and 7 have in common: time mix, channel mix, and their residuals."""

    def __init__(self, config, weights, linear, norm):
        self.config, self.weights, self.linear, self.norm = config, weights, linear, norm
        self.heads = config.recurrent.H, config.recurrent.W

    def block(self, i, x, tap):
        blk = f"blk.{i}."
        normed = tap(blk + "attn_norm", self.norm(x, blk + "attn_norm"))
        mixed = tap(blk + "time_mix", self.time_mix(blk, normed, tap))
        out = tap(blk + "attn_out", self.linear(mixed, blk + "time_mix_output"))
        x = tap(blk + "ffn_input", x + out)
        normed = tap(blk + "ffn_norm", self.norm(x, blk + "attn_norm_2"))
        x = x + tap(blk + "ffn_out", self.channel_mix(blk, normed, tap))
        often = self.config.recurrent.halve_every
        if often and (i + 1) % often == 0:
            x = x * x.dtype.type(0.5)
        return tap(blk + "output", x)

    def channel_mix(self, blk, x, tap):
        """x (T, D), normed -> (T, D)."""
        key = token_shift(x, self._array(blk + "channel_mix_lerp_k"))
        key = tap(blk + "ffn_act", squared_relu(self.linear(key, blk + "channel_mix_key")))
        return self.linear(key, blk + "channel_mix_value")

    def group_norm(self, blk, x):
        """LayerNorm of each head: x (T, H, W) -> (T, D)."""
        weight, bias = (self.weights.array(f"{blk}time_mix_ln.{n}") for n in ("weight", "bias"))
        weight, bias = weight.reshape(self.heads), bias.reshape(self.heads)
        return ops.layernorm(x, weight, bias, GROUP_EPS).reshape(len(x), -1)

    def _array(self, name):
        return self.weights.array(name + ".weight")

    def _project(self, blk, names, inputs, tap):
        """A product of each input (T, D) with the matrix named after it."""
        matrices = {"r": "receptance", "k": "key", "v": "value", "g": "gate"}
        products = (
            self.linear(x, f"{blk}time_mix_{matrices[n]}")
            for n, x in zip(names, inputs, strict=True)
        )
        return [tap(f"{blk}time_mix_{n}", y) for n, y in zip(names, products, strict=True)]

    def _split(self, *arrays):
        """Each (T, D) as (T, H, W)."""
        return [x.reshape(len(x), *self.heads) for x in arrays]


class Rwkv6(Rwkv):
    """RWKV 6 (Peng et al., Eagle and Finch, arXiv:2404.05892, section 4)."""

    def time_mix(self, blk, x, tap):
        """x (T, D), normed -> (T, D), before the output matrix."""
        w, k, v, r, g = self._shifted(blk, x)
        low = np.tanh(self.linear(w, blk + "time_mix_decay_w1"))
        w = self.linear(low, blk + "time_mix_decay_w2") + self._array(blk + "time_mix_decay")
        r, k, v, g = self._project(blk, "rkvg", (r, k, v, g), tap)
        w = tap(blk + "time_mix_w", w)
        first = self._array(blk + "time_mix_first")
        out = wkv6(*self._split(r, k, v, np.exp(-np.exp(w))), first)
        out = self.group_norm(blk, tap(blk + "wkv", out.reshape(x.shape)).reshape(out.shape))
        return out * ops.silu(g)

    def _shifted(self, blk, x):
        """x mixed with the token before it, for w, k, v, r and g: by shares that depend on x."""
        low = token_shift(x, self._array(blk + "time_mix_lerp_x"))
        low = np.tanh(self.linear(low, blk + "time_mix_w1")).reshape(len(x), 5, -1)
        shares = np.einsum("tmr,mdr->mtd", low, self._array(blk + "time_mix_w2"))
        return [
            token_shift(x, share + lerp)
            for share, lerp in zip(shares, self._lerps(blk), strict=True)
        ]

    def _lerps(self, blk):
        """(5, D), in one tensor or, in older files, in five."""
        if blk + "time_mix_lerp_w.weight" in self.weights:
            return [self._array(f"{blk}time_mix_lerp_{n}") for n in "wkvrg"]
        return self._array(blk + "time_mix_lerp_fused").reshape(5, -1)

    def channel_mix(self, blk, x, tap):
        value = super().channel_mix(blk, x, tap)
        shifted = token_shift(x, self._array(blk + "channel_mix_lerp_r"))
        return sigmoid(self.linear(shifted, blk + "channel_mix_receptance")) * value


class Rwkv7(Rwkv):
    """RWKV 7 (Peng et al., RWKV-7 Goose, arXiv:2503.14456, section 4)."""

    def time_mix(self, blk, x, tap):
        """x (T, D), normed -> (T, D), before the output matrix."""
        lerps = self._array(blk + "time_mix_lerp_fused").reshape(-1, x.shape[1])
        r, w, k, v, a, *g = (token_shift(x, lerp) for lerp in lerps)
        rate = self._low_rank(blk, "a", a, lambda y: y)
        mine = None if blk == "blk.0." else self._low_rank(blk, "v", v, lambda y: y)
        w = self._low_rank(blk, "w", w, np.tanh)
        r, k, v = self._project(blk, "rkv", (r, k, v), tap)
        w, rate = tap(blk + "time_mix_w", w), tap(blk + "time_mix_a", rate)
        if mine is None:
            self.first_values = v
        else:  # towards the values of the first block
            v = v + (self.first_values - v) * sigmoid(tap(blk + "time_mix_v_mix", mine))
        decay, rate = np.exp(-np.exp(x.dtype.type(-0.5)) * sigmoid(w)), sigmoid(rate)
        removal = unit(self._split(k * self._array(blk + "time_mix_k_k"))[0])
        k = k * (1 + (rate - 1) * self._array(blk + "time_mix_k_a"))
        removal = removal.reshape(x.shape)
        given = zip(("k", "v", "decay", "removal"), (k, v, decay, removal), strict=True)
        given = [tap(f"{blk}wkv_{name}", y) for name, y in given]
        r, rate, k, v, decay, removal = self._split(r, rate, *given)
        out = wkv7(r, k, v, decay, removal, rate)
        out = self.group_norm(blk, tap(blk + "wkv", out.reshape(x.shape)).reshape(out.shape))
        bonus = np.sum(r * k * self._array(blk + "time_mix_r_k").reshape(self.heads), axis=-1)
        out = out + (bonus[:, :, None] * v).reshape(x.shape)
        return out * self._low_rank(blk, "g", g[0], sigmoid) if g else out

    def _low_rank(self, blk, name, x, between):
        """between(x W1ᵀ) W2ᵀ + W0; the last is there if the file has it."""
        low = between(self.linear(x, f"{blk}time_mix_{name}1"))
        y = self.linear(low, f"{blk}time_mix_{name}2")
        bias = f"{blk}time_mix_{name}0"
        return y + self._array(bias) if bias + ".weight" in self.weights else y


MIXERS = {"mamba": Mamba, "rwkv6": Rwkv6, "rwkv7": Rwkv7}

"""RWKV 6 and 7 by the formulas of their papers, which transformers does not have.

Arrays are as in the papers: rows of x times matrices.
"""

from types import SimpleNamespace

import torch

from tests.parity.golden.description import V


class Recurrence:
    """A model of RWKV: `arrays` {GGUF name without .weight: as the papers have it}, in the places
    of a model of transformers."""

    def __init__(self, shapes, L, D, F, W, eps, **more):
        self.L, self.D, self.F, self.W, self.eps = L, D, F, W, eps
        self.config = SimpleNamespace(num_hidden_layers=L)
        vectors = {"weight": (D,), "bias": (D,)}
        self.arrays = {
            **{f"{norm}.{kind}": shape for norm in ("token_embd_norm", "output_norm")
               for kind, shape in vectors.items()},
            "token_embd.weight": (V, D), "output.weight": (D, V),
        }  # fmt: skip
        for i in range(L):
            for name, shape in shapes.items():
                self.arrays[f"blk.{i}.{name}"] = shape
            for norm in ("attn_norm", "attn_norm_2", "time_mix_ln"):
                self.arrays |= {f"blk.{i}.{norm}.{kind}": s for kind, s in vectors.items()}
        self.arrays = {name: torch.zeros(shape) for name, shape in self.arrays.items()}
        self.__dict__.update(more)

    def eval(self):
        pass

    def named_parameters(self):
        return self.arrays.items()

    def to(self, dtype):
        self.arrays = {name: x.to(dtype) for name, x in self.arrays.items()}

    def norm(self, x, name):
        return self.layer_norm(x, self.eps) * self[name + ".weight"] + self[name + ".bias"]

    @staticmethod
    def layer_norm(x, eps):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()

    def __getitem__(self, name):
        return self.arrays[name if name in self.arrays else name + ".weight"]

    def heads(self, *vectors):
        return [x.reshape(-1, self.W) for x in vectors]

    def __call__(self, ids):
        """Logits of a batch of one sequence (1, T)."""
        x = self.norm(self["token_embd"][ids[0]], "token_embd_norm")
        self.v0 = None
        for i in range(self.L):
            self.i, self.blk = i, f"blk.{i}."
            normed = self.norm(x, self.blk + "attn_norm")
            x = x + self.time_mix(normed, before(normed)) @ self[self.blk + "time_mix_output"]
            normed = self.norm(x, self.blk + "attn_norm_2")
            x = self.rescaled(x + self.channel_mix(normed, before(normed)))
        logits = self.norm(x, "output_norm") @ self["output"]
        return SimpleNamespace(logits=logits[None])

    def rescaled(self, x):
        return x

    def read(self, y):
        """Equation 21 of Finch, LayerNorm over each head: y (T, H, W) -> (T, D)."""
        y = self.layer_norm(y, 64e-5).reshape(len(y), -1)
        return y * self[self.blk + "time_mix_ln.weight"] + self[self.blk + "time_mix_ln.bias"]


def before(x):
    """x[t - 1] in the place of x[t]."""
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def lerp(a, b, share):
    return a + (b - a) * share


class Finch(Recurrence):
    """RWKV 6, arXiv:2404.05892, section 4.2: its state as the sum over all tokens that it is."""

    def lora(self, x, first, second, base):
        return base + torch.tanh(x @ first) @ second

    def time_mix(self, a, b):
        name = self.blk + "time_mix_{}.weight"
        p = {n: self[name.format(n)] for n in FINCH if name.format(n) in self.arrays}
        mixed = lerp(a, b, p["lerp_x"])
        lerps = p.get("lerp_fused")
        if lerps is None:
            lerps = torch.stack([p["lerp_" + n] for n in "wkvrg"])
        firsts = p["w1"].chunk(5, dim=1)
        d, k, v, r, g = (
            lerp(a, b, self.lora(mixed, first, second, base))
            for first, second, base in zip(firsts, p["w2"], lerps, strict=True)
        )
        w = torch.exp(-torch.exp(self.lora(d, p["decay_w1"], p["decay_w2"], p["decay"])))
        r, k, v, g = r @ p["receptance"], k @ p["key"], v @ p["value"], g @ p["gate"]
        r, k, v, w = (torch.stack(self.heads(*x)) for x in (r, k, v, w))
        y = torch.stack([self.wkv(r[t], k[: t + 1], v, w, p["first"]) for t in range(len(r))])
        return g * torch.sigmoid(g) * self.read(y) / 2 ** (self.i // (self.every or self.L))

    @staticmethod
    def wkv(r, k, v, w, first):
        """Equation 20: the token itself by `first`, each before it by the decays in between."""
        t = len(k) - 1
        share = first.clone()
        y = torch.zeros_like(r)
        for i in range(t, -1, -1):
            y = y + (r * share * k[i]).sum(-1, keepdim=True) * v[i]
            share = torch.ones_like(share) if i == t else share * w[i]
        return y

    def channel_mix(self, a, b):
        p = {n: self[f"{self.blk}channel_mix_{n}"] for n in FINCH_CHANNEL}
        key = torch.relu(lerp(a, b, p["lerp_k"]) @ p["key"]).square()
        out = torch.sigmoid(lerp(a, b, p["lerp_r"]) @ p["receptance"]) * (key @ p["value"])
        return out / 2 ** (self.i // (self.every or self.L))

    def rescaled(self, x):
        """Halved after every so many layers, and so is from there on what is added: transformers'
        RWKV code does so to keep within float16."""
        return x / 2 if self.every and (self.i + 1) % self.every == 0 else x


FINCH = (
    "lerp_x", "lerp_fused", "lerp_w", "lerp_k", "lerp_v", "lerp_r", "lerp_g", "w1", "w2", "decay",
    "decay_w1", "decay_w2", "first", "receptance", "key", "value", "gate",
)  # fmt: skip
FINCH_CHANNEL = ("lerp_k", "lerp_r", "key", "receptance", "value")


class Goose(Recurrence):
    """RWKV 7, arXiv:2503.14456, section 4, its values' residual as in the published code: towards
    those of the first layer, by the share that the paper gives to the layer's own."""

    def low_rank(self, x, name, act):
        first, second = (self[f"{self.blk}time_mix_{name}{n}"] for n in (1, 2))
        return act(x @ first) @ second

    def time_mix(self, a, b):
        mix = self.blk + "time_mix_"
        lerps = self[mix + "lerp_fused"]
        xr, xw, xk, xv, xa, *xg = (lerp(a, b, share) for share in lerps)
        r, k, v = xr @ self[mix + "receptance"], xk @ self[mix + "key"], xv @ self[mix + "value"]
        if self.i == 0:
            self.v0 = v
        else:
            share = self[mix + "v0"] + self.low_rank(xv, "v", lambda y: y)
            v = lerp(v, self.v0, torch.sigmoid(share))
        rate = torch.sigmoid(self[mix + "a0"] + self.low_rank(xa, "a", lambda y: y))
        w = self[mix + "w0"] + self.low_rank(xw, "w", torch.tanh)
        w = torch.exp(-torch.exp(torch.tensor(-0.5, dtype=w.dtype)) * torch.sigmoid(w))
        kappa = torch.stack(self.heads(*(k * self[mix + "k_k"])))
        kappa = kappa / kappa.square().sum(-1, keepdim=True).sqrt()
        k = k * lerp(torch.ones_like(rate), rate, self[mix + "k_a"])
        r, k, v, w, rate = (torch.stack(self.heads(*x)) for x in (r, k, v, w, rate))
        state = torch.zeros(r.shape[1], self.W, self.W, dtype=r.dtype)
        y = torch.zeros_like(r)
        for t in range(len(r)):  # equation 17
            turned = kappa[t][:, :, None] @ (rate[t] * kappa[t])[:, None, :]
            state = state @ (torch.diag_embed(w[t]) - turned)
            state = state + v[t][:, :, None] @ k[t][:, None, :]
            y[t] = (state @ r[t][:, :, None])[:, :, 0]
        bonus = (r * k * self[mix + "r_k"].reshape(-1, self.W)).sum(-1, keepdim=True) * v
        out = self.read(y) + bonus.reshape(len(y), -1)
        return out * self.low_rank(xg[0], "g", torch.sigmoid) if xg else out

    def channel_mix(self, a, b):
        key = lerp(a, b, self[self.blk + "channel_mix_lerp_k"]) @ self[self.blk + "channel_mix_key"]
        return torch.relu(key).square() @ self[self.blk + "channel_mix_value"]

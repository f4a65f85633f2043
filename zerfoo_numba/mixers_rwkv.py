"""The blocks of RWKV 6 and 7: time mix and channel mix, each with its residual.

RWKV 6: Eagle and Finch, arXiv:2404.05892, section 4; RWKV 7: Goose, arXiv:2503.14456, section 4.
"""

GROUP_EPS = 64e-5  # of the norm over heads: 1e-5 times the square of the head divisor 8


class Rwkv:
    """What both have: two token shifts, a state of wkv, and a channel mix with a squared ReLU."""

    mixes, channel_mixes = 0, ("k",)  # shifted inputs of the time mix, and of the channel mix

    @classmethod
    def widths(cls, config):
        """{buffer: numbers a token} that the blocks need besides x, normed and result."""
        own = dict.fromkeys(("r", "w", "k", "v", "wkv"), config.D)
        return own | {"mixes": cls.mixes * config.D, "low": cls.low(config), "act": config.F}

    @staticmethod
    def state_shapes(config):
        """{name: shape} of what a layer carries from token to token, float32."""
        c = config.recurrent
        return {"attn_shift": (config.D,), "ffn_shift": (config.D,), "wkv": (c.H, c.W, c.W)}

    def __init__(self, walk):
        self.walk, self.ops, self.weights = walk, walk.ops, walk.weights
        self.config = walk.config
        self.H, self.W = walk.config.recurrent.H, walk.config.recurrent.W

    def block(self, i, T):
        walk, ops, blk = self.walk, self.ops, f"blk.{i}."
        b, state = walk.workspace.at(T), walk.cache.layers[i]
        ops.tap(blk + "input", b["x"])
        ops.tap(blk + "attn_norm", b["normed"])
        self.time_mix(i, b, T, state)
        ops.tap(blk + "time_mix", b["wkv"])
        self.product(b["result"], blk + "time_mix_output", b["wkv"])
        ops.tap(blk + "attn_out", b["result"])
        walk.add_norm(b["normed"], b["x"], b["result"], walk.norm_names(i)[1])
        ops.tap(blk + "ffn_input", b["x"])
        ops.tap(blk + "ffn_norm", b["normed"])
        self.channel_mix(blk, b, T, state)
        ops.tap(blk + "ffn_out", b["result"])
        self.close(i, b)
        ops.tap(blk + "output", b["x"])

    def close(self, i, b):
        """x += result, halved where the weights expect that, and the norm of what follows."""
        often, following = self.config.recurrent.halve_every, self.walk.following(i)
        if not often or (i + 1) % often:
            self.walk.add_norm(b["normed"], b["x"], b["result"], following)
            return
        self.ops.add(b["x"], b["result"])
        self.ops.scale(b["x"], 0.5)
        self.walk.norm(b["normed"], b["x"], following)

    def shifted(self, b, names, before, count, T, more=None, keep=False):
        """`count` mixtures (T, D) of `normed` and the token before, with the lerps `names`."""
        D = self.config.D
        out = self.walk.workspace.buffers["mixes"].view((count, T, D))
        lerps = self.weights.stack(*(name + ".weight" for name in names))
        self.ops.token_shift(out, b["normed"], before, lerps, more, keep)
        return [out.view((T, D), m * T * D) for m in range(count)]

    def channel_mix(self, blk, b, T, state):
        """`normed` to `result`, and the shifted inputs."""
        names = [f"{blk}channel_mix_lerp_{n}" for n in self.channel_mixes]
        shifted = self.shifted(b, names, state["ffn_shift"], len(names), T)
        self.product(b["act"], blk + "channel_mix_key", shifted[0])
        self.ops.plain(b["act"], b["act"], "squared_relu")
        self.ops.tap(blk + "ffn_act", b["act"])
        self.product(b["result"], blk + "channel_mix_value", b["act"])
        return shifted

    def project(self, blk, b, names, inputs):
        """The products of the time mix, each of an input of its own."""
        matrices = {"r": "receptance", "k": "key", "v": "value", "g": "gate"}
        for name, x in zip(names, inputs, strict=True):
            self.product(b[name], f"{blk}time_mix_{matrices[name]}", x)
            self.ops.tap(f"{blk}time_mix_{name}", b[name])

    def product(self, out, name, x, bias=None):
        """out = weight x; `bias` names a vector to add."""
        self.walk.linear(out, name, self.walk.operand(x, name), bias)

    def low_rank(self, out, names, x, T, act=None, bias=None):
        """out = W2 act(W1 x) + bias, `names` those of W1 and W2."""
        rank = self.weights.matrix(names[0] + ".weight").rows
        low = self.walk.workspace.buffers["low"].view((T, rank))
        self.product(low, names[0], x)
        if act is not None:
            self.ops.plain(low, low, act)
        self.product(out, names[1], low, bias)

    def heads(self, *buffers):
        """Each (T, D) as (T, H, W)."""
        return [x.view((x.shape[0], self.H, self.W)) for x in buffers]

    def head_norm(self, blk, b, **options):
        """The norm of each head of wkv, in place, and what follows it."""
        weight, bias = (self.weights.vector(f"{blk}time_mix_ln.{n}") for n in ("weight", "bias"))
        (out,) = self.heads(b["wkv"])
        self.ops.group_norm(out, out, weight, bias, GROUP_EPS, **options)


class Rwkv6(Rwkv):
    mixes, channel_mixes = 5, ("k", "r")

    @staticmethod
    def low(config):
        """The longest row of low-rank numbers."""
        return max(5 * config.recurrent.mix, config.recurrent.decay)

    @classmethod
    def widths(cls, config):
        return super().widths(config) | {"g": config.D}

    def time_mix(self, i, b, T, state):
        """`normed` to `wkv` (T, D), ready for the output matrix."""
        blk, ops, vector = f"blk.{i}.", self.ops, self.weights.vector
        w, k, v, r, g = self.dynamic_shifts(blk, b, T, state["attn_shift"])
        names = [f"{blk}time_mix_decay_w{n}" for n in (1, 2)]
        self.low_rank(b["w"], names, w, T, "tanh", blk + "time_mix_decay.weight")
        self.project(blk, b, "rkvg", (r, k, v, g))
        ops.tap(blk + "time_mix_w", b["w"])
        out, *inputs = self.heads(*(b[n] for n in ("wkv", "r", "k", "v", "w")))
        ops.wkv6(out, *inputs, vector(blk + "time_mix_first.weight"), state["wkv"])
        ops.tap(blk + "wkv", b["wkv"])
        self.head_norm(blk, b, gate=b["g"], gating="silu")

    def dynamic_shifts(self, blk, b, T, before):
        """`normed` mixed with the token before it, for w, k, v, r and g: by shares that depend on
        the token."""
        (x,) = self.shifted(b, [blk + "time_mix_lerp_x"], before, 1, T, keep=True)
        c = self.config.recurrent
        low = self.walk.workspace.buffers["low"].view((T, 5 * c.mix))
        self.product(low, blk + "time_mix_w1", x)
        self.ops.plain(low, low, "tanh")
        more = self.walk.workspace.buffers["mixes"].view((5, T, self.config.D))
        self.ops.low_rank(more, self.weights.vector(blk + "time_mix_w2.weight"), low)
        names = [blk + "time_mix_lerp_fused"]
        if blk + "time_mix_lerp_w.weight" in self.weights:  # apart, in older files
            names = [f"{blk}time_mix_lerp_{n}" for n in "wkvrg"]
        return self.shifted(b, names, before, 5, T, more)

    def channel_mix(self, blk, b, T, state):
        _, r = super().channel_mix(blk, b, T, state)
        self.product(b["r"], blk + "channel_mix_receptance", r)
        self.ops.gated(b["result"], b["r"], b["result"], "glu")


class Rwkv7(Rwkv):
    mixes = 6

    @staticmethod
    def low(config):
        """The longest row of low-rank numbers."""
        c = config.recurrent
        return max(c.decay, c.rate, c.value, c.gate)

    @classmethod
    def widths(cls, config):
        more = ("a", "g", "mix", "first_v", "removal", "taken")
        return super().widths(config) | dict.fromkeys(more, config.D)

    def time_mix(self, i, b, T, state):
        """`normed` to `wkv` (T, D), ready for the output matrix."""
        blk, ops, gated = f"blk.{i}.", self.ops, self.config.recurrent.gate > 0
        names, count = [blk + "time_mix_lerp_fused"], 6 if gated else 5
        r, w, k, v, a, *g = self.shifted(b, names, state["attn_shift"], count, T)
        if i == 0:
            b["v"] = b["first_v"]  # which stays for the layers after this
        else:
            self.parts(blk, "v", b["mix"], v, T)
        self.parts(blk, "w", b["w"], w, T, "tanh")
        self.parts(blk, "a", b["a"], a, T)
        if gated:
            self.parts(blk, "g", b["g"], g[0], T, "sigmoid")
        self.project(blk, b, "rkv", (r, k, v))
        ops.tap(blk + "time_mix_w", b["w"])
        ops.tap(blk + "time_mix_a", b["a"])
        if i > 0:
            ops.tap(blk + "time_mix_v_mix", b["mix"])
        self.recurrence(i, b, state["wkv"], gated)

    def recurrence(self, i, b, state, gated):
        blk, ops, vector = f"blk.{i}.", self.ops, self.weights.vector
        names = ("wkv", "r", "k", "v", "w", "removal", "taken", "a")
        out, r, k, v, w, removal, taken, a = self.heads(*(b[n] for n in names))
        remove, renew = (vector(f"{blk}time_mix_k_{n}.weight") for n in "ka")
        more = self.heads(b["mix"], b["first_v"]) if i > 0 else ()
        ops.wkv7_inputs(w, k, v, a, remove, renew, removal, taken, *more)
        for name, buffer in {"k": "k", "v": "v", "decay": "w", "removal": "removal"}.items():
            ops.tap(f"{blk}wkv_{name}", b[buffer])
        ops.wkv7(out, r, k, v, w, removal, taken, state)
        ops.tap(blk + "wkv", b["wkv"])
        bonus = (r, k, v, vector(blk + "time_mix_r_k.weight"))
        gate = {"gate": b["g"], "gating": "plain"} if gated else {}
        self.head_norm(blk, b, bonus=bonus, **gate)

    def parts(self, blk, name, out, x, T, act=None):
        """A low-rank product of the time mix: W2 act(W1 x) + W0, the last if there is one."""
        first, second, bias = (f"{blk}time_mix_{name}{n}" for n in (1, 2, 0))
        bias = bias + ".weight" if bias + ".weight" in self.weights else None
        self.low_rank(out, (first, second), x, T, act, bias)

"""The walk's recurrent blocks: Mamba here, RWKV in `zerfoo_numba.mixers_rwkv`.

A mixer takes the place of attention and feed-forward. It reads a row's weights by their GGUF names,
as `reference.mixers` does, and shares no code with it.
"""

from zerfoo_numba.mixers_rwkv import Rwkv6, Rwkv7


class Mamba:
    """Causal convolution and selective scan (Gu and Dao, arXiv:2312.00752, figure 3)."""

    @staticmethod
    def widths(config):
        """{buffer: numbers a token} that the blocks need besides x, normed and result."""
        c = config.recurrent
        parts = c.R + 2 * c.N
        return {"inside": 2 * c.I, "u": c.I, "parts": parts, "split": parts, "dt": c.I, "y": c.I}

    @staticmethod
    def state_shapes(config):
        """{name: shape} of what a layer carries from token to token, float32."""
        c = config.recurrent
        return {"conv": (c.taps - 1, c.I), "ssm": (c.N, c.I)}

    def __init__(self, walk):
        self.walk, self.ops, self.sizes = walk, walk.ops, walk.config.recurrent

    def block(self, i, T):
        walk, ops, blk = self.walk, self.ops, f"blk.{i}."
        b, state, vector = walk.workspace.at(T), walk.cache.layers[i], walk.weights.vector
        ops.tap(blk + "input", b["x"])
        ops.tap(blk + "attn_norm", b["normed"])
        self.product(b["inside"], blk + "ssm_in", b["normed"])
        ops.tap(blk + "ssm_in", b["inside"])
        weight, bias = (vector(f"{blk}ssm_conv1d.{kind}") for kind in ("weight", "bias"))
        ops.conv(b["u"], b["inside"], weight, bias, state["conv"])
        ops.tap(blk + "ssm_conv", b["u"])
        steps, keys, queries = self.parts(blk, b, T)
        a, d = vector(blk + "ssm_a"), vector(blk + "ssm_d")
        gate = b["inside"]  # its second half
        ops.selective_scan(b["y"], b["u"], steps, a, keys, queries, d, gate, state["ssm"])
        ops.tap(blk + "ssm_y", b["y"])
        self.product(b["result"], blk + "ssm_out", b["y"])
        ops.tap(blk + "ssm_out", b["result"])
        walk.add_norm(b["normed"], b["x"], b["result"], walk.following(i))
        ops.tap(blk + "output", b["x"])

    def parts(self, blk, b, T):
        """dt (T, I) before its softplus, B (T, N) and C (T, N), of u (T, I)."""
        R, N, ops = self.sizes.R, self.sizes.N, self.ops
        self.product(b["parts"], blk + "ssm_x", b["u"])
        eps = self.walk.config.eps if self.sizes.normed else None
        ops.split(b["split"], b["parts"], R, N, eps)
        low = b["split"].view((T, R))
        keys, queries = (b["split"].view((T, N), T * (R + n * N)) for n in (0, 1))
        ops.tap(blk + "ssm_b", keys)
        ops.tap(blk + "ssm_c", queries)
        self.product(b["dt"], blk + "ssm_dt", low)
        ops.tap(blk + "ssm_dt", b["dt"])
        return b["dt"], keys, queries

    def product(self, out, name, x):
        self.walk.linear(out, name, self.walk.operand(x, name))


MIXERS = {"mamba": Mamba, "rwkv6": Rwkv6, "rwkv7": Rwkv7}

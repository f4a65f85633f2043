"""The walk: embed -> blocks -> norm -> head, in terms of operations.

It exists once here and once in `reference`; the two share the config and the tensor names, no code.
Everything that changes from token to token (token ids, position) is read from device memory, so
that a decode step is the same list of launches every time.
"""

from dataclasses import dataclass

import numpy as np

from zerfoo_numba.cache import KVCache
from zerfoo_numba.devices import Buffer
from zerfoo_numba.kernels.quantize import QuantizedRows, padded
from zerfoo_numba.weights import Weights, rope_table

CHUNK = 64  # tokens of a prefill that pass through the layers together


class Workspace:
    """The buffers between operations, with room for `rows` tokens; `at(T)` gives views of T."""

    def __init__(self, device, config, rows):
        c = config
        widths = {
            "x": c.D, "normed": c.D, "result": c.D, "q": c.H * c.HD, "k": c.KH * c.HD,
            "v": c.KH * c.VD, "attn": c.H * c.VD, "gate": c.F, "up": c.F, "act": c.F,
        }  # fmt: skip
        widest = padded(max(widths.values()))
        self.words = device.empty((rows, widest // 4), np.uint32, "x_words")
        self.scales = device.empty((rows, widest // 32, 4), np.float32, "x_scales")
        self.buffers = {n: device.empty((rows, w), np.float32, n) for n, w in widths.items()}

    def at(self, T):
        return {n: b.view((T, b.shape[1])) for n, b in self.buffers.items()}

    def quantized(self, T, K):
        """Room for T rows of K 8-bit activations: the same room at every call."""
        P = padded(K)
        return QuantizedRows(self.words.view((T, P // 4)), self.scales.view((T, P // 32, 4)), T)


@dataclass(frozen=True)
class Operand:
    """What a product multiplies a weight with: x (T, K), and its 8-bit form if one of the weights
    that it is meant for is packed."""

    x: Buffer
    quantized: QuantizedRows | None


class Walk:
    """A model's weights, cache and buffers on one device, and the walk through them.

    activation "int8" holds weights in their packed layouts, where they have one, and multiplies
    them with 8-bit activations; "float" is exact.
    """

    def __init__(self, ops, gguf, config, context, cache_type, activation="float"):
        device = ops.device
        self.ops, self.config, self.context = ops, config, context
        self.weights = Weights(device, gguf, pack=activation == "int8")
        self.cache = KVCache(device, config, context, cache_type)
        self.tables = {
            r: rope_table(device, r, context, gguf) for r in {x.rope for x in config.layers}
        }
        self.chunk = min(CHUNK, context)
        self.workspace = Workspace(device, config, self.chunk)
        self.tokens = device.empty(self.chunk, np.uint32, "tokens")
        self.position = device.upload(np.zeros(1, np.uint32), "position")
        self.history = device.upload(np.zeros(context + 1, np.uint32), "history")
        self.logits = device.empty((1, config.V), np.float32, "logits")
        self.head = "output" if "output.weight" in self.weights else "token_embd"
        for name in gguf.tensors:  # everything is on the device before the first token
            if len(gguf.tensors[name].shape) == 2:
                self.weights.matrix(name)
            elif name != "rope_freqs.weight":
                self.weights.vector(name)

    def embed(self, T):
        """The first T of `tokens` to the residual stream x (T, D)."""
        ops, config, x = self.ops, self.config, self.workspace.at(T)["x"]
        table = self.weights.matrix("token_embd.weight")
        ops.embed(x, table, self.tokens.view((T,)), config.embed_scale)
        ops.tap("embed", x)

    def layers(self, T, cached=0, inputs=None):
        """Every block in turn over the residual stream, the last of them closed by the output norm.

        `inputs` {"blk.3.input": (T, D)} replaces what those blocks would get.
        """
        x, normed = (self.workspace.at(T)[n] for n in ("x", "normed"))
        for i in range(self.config.L):
            replaced = (inputs or {}).get(f"blk.{i}.input")
            if replaced is not None:
                self.ops.device.write(x, replaced)
            if i == 0 or replaced is not None:
                norm = self.weights.vector(f"blk.{i}.attn_norm.weight")
                self.ops.rmsnorm(normed, x, norm, self.config.eps)
            self.block(i, T, cached)

    def block(self, i, T, cached=0):
        """Block i. On entry `x` is its input and `normed` the attention norm of it; on return both
        stand ready for what follows, the next block or the head."""
        ops, config, weights = self.ops, self.config, self.weights
        b = self.workspace.at(T)
        blk = f"blk.{i}."
        ops.tap(blk + "input", b["x"])
        ops.tap(blk + "attn_norm", b["normed"])
        self.attention(i, b, T, cached)
        ops.tap(blk + "attn_out", b["result"])
        branch = self.post_norm(blk + "post_attention_norm", b)
        norm = weights.vector(blk + "ffn_norm.weight")
        ops.add_rmsnorm(b["normed"], b["x"], branch, norm, config.eps)
        ops.tap(blk + "ffn_input", b["x"])
        ops.tap(blk + "ffn_norm", b["normed"])
        self.feed_forward(i, b)
        branch = self.post_norm(blk + "post_ffw_norm", b)
        last = i + 1 == config.L
        norm = weights.vector("output_norm.weight" if last else f"blk.{i + 1}.attn_norm.weight")
        ops.add_rmsnorm(b["normed"], b["x"], branch, norm, config.eps)
        ops.tap(blk + "output", b["x"])

    def attention(self, i, b, T, cached):
        ops, config, weights = self.ops, self.config, self.weights
        blk, layer = f"blk.{i}.", config.layers[i]
        x = self.operand(b["normed"], *(f"{blk}attn_{name}" for name in "qkv"))
        for name in ("q", "k", "v"):
            self.linear(b[name], f"{blk}attn_{name}", x)
        q = b["q"].view((T, config.H, config.HD))
        k = b["k"].view((T, config.KH, config.HD))
        v = b["v"].view((T, config.KH, config.VD))
        norms = tuple(weights.vector(f"{blk}attn_{n}_norm.weight") for n in "qk")
        cache, table = self.cache.layers[i], self.tables[layer.rope]
        ops.qk_norm_rope_append(
            q, k, v, cache, self.position, table, norms if all(norms) else None, config.eps
        )
        out = b["attn"].view((T, config.H, config.VD))
        ops.attention(
            out,
            q,
            cache,
            self.position,
            config.attn_scale,
            layer.window,
            config.attn_softcap,
            cached,
        )
        ops.tap(blk + "q", q)
        if ops.taps is not None:
            start = int(ops.device.read(self.position)[0])
            k, v = self.cache.read(ops.device, i, start, T)
            ops.taps[blk + "k"], ops.taps[blk + "v"] = k, v
        ops.tap(blk + "attn", b["attn"])
        x = self.operand(b["attn"], blk + "attn_output")
        self.linear(b["result"], blk + "attn_output", x)

    def feed_forward(self, i, b):
        ops, blk = self.ops, f"blk.{i}."
        x = self.operand(b["normed"], blk + "ffn_gate", blk + "ffn_up")
        for name in ("gate", "up"):
            self.linear(b[name], f"{blk}ffn_{name}", x)
        ops.gated(b["act"], b["gate"], b["up"], self.config.spec.ffn)
        self.linear(b["result"], blk + "ffn_down", self.operand(b["act"], blk + "ffn_down"))
        for name, buffer in (("gate", "gate"), ("up", "up"), ("act", "act"), ("out", "result")):
            ops.tap(f"{blk}ffn_{name}", b[buffer])

    def operand(self, x, *names):
        """x (T, K) made ready for the products with these weights."""
        if not any(self.weights.matrix(name + ".weight").packed for name in names):
            return Operand(x, None)
        quantized = self.workspace.quantized(*x.shape)
        self.ops.quantize(quantized, x)
        return Operand(x, quantized)

    def linear(self, out, name, operand):
        """out = weight x + bias; the bias is there if the file has one."""
        weight, bias = self.weights.matrix(name + ".weight"), self.weights.vector(name + ".bias")
        if weight.packed:
            self.ops.matmul_int8(out, weight, operand.quantized, bias)
        else:
            self.ops.matmul(out, weight, operand.x, bias)

    def post_norm(self, name, b):
        """The branch's result, normalised where the model has such a norm."""
        weight = self.weights.vector(name + ".weight")
        if weight is None:
            return b["result"]
        normed = b["normed"]  # free until the next norm writes it
        self.ops.rmsnorm(normed, b["result"], weight, self.config.eps)
        self.ops.tap(name, normed)
        return normed

    def project(self, logits, row):
        """The head on `logits.shape[0]` rows of the normed stream from `row` on."""
        count = logits.shape[0]
        normed = self.workspace.buffers["normed"].view((count, self.config.D), row * self.config.D)
        self.ops.tap("result_norm", normed)
        self.linear(logits, self.head, self.operand(normed, self.head))
        if self.config.final_softcap is not None:
            self.ops.softcap(logits, self.config.final_softcap)
        self.ops.tap("result_output", logits)

    def step(self):
        """One token: the walk over tokens[0] at `position`, up to the logits."""
        self.embed(1)
        self.layers(1)
        self.project(self.logits, 0)

    def choose(self, step):
        """The greedy token after `logits`, into tokens[0] and the history."""
        token = self.tokens.view((1,))
        self.ops.argmax(token, self.position, self.history, self.logits, step)

    def greedy_step(self):
        """One token, and the choice of the next: the whole of what a CUDA graph replays."""
        self.step()
        self.choose(1)

    def sampled_step(self):
        """One token whose logits the host samples; it writes the next id into `tokens`."""
        self.step()
        self.ops.advance(self.position, 1)

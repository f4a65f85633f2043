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
from zerfoo_numba.weights import RopeTables, Weights

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

    def __init__(self, ops, gguf, config, context, cache_type, activation="float", requantize=None):
        device = ops.device
        self.ops, self.config, self.context = ops, config, context
        self.weights = Weights(device, gguf, config, activation == "int8", requantize)
        self.cache = KVCache(device, config, context, cache_type)
        self.tables = RopeTables(device, {x.rope for x in config.layers}, context, gguf)
        self.chunk = min(CHUNK, context)
        self.workspace = Workspace(device, config, self.chunk)
        self.tokens = device.empty(self.chunk, np.uint32, "tokens")
        self.position = device.upload(np.zeros(1, np.uint32), "position")
        # The ids of the sequence, given or chosen here: history[p] is that at position p.
        self.history = device.upload(np.zeros(context + 1, np.uint32), "history")
        self.logits = device.empty((1, config.V), np.float32, "logits")
        self.head = "output" if "output.weight" in self.weights else "token_embd"
        self.weights.load()  # before the first token

    def take(self, ids, position):
        """`ids` for the positions from `position` on: into `tokens`, and into the history."""
        ids = np.asarray(ids, np.uint32)
        self.ops.device.write(self.tokens.view(ids.shape), ids)
        self.ops.device.write(self.history.view(ids.shape, position), ids)

    def fit(self, length, cached):
        """Turn as a sequence of `length` tokens does, of which `cached` are in the cache.

        Where LongRoPE changes its factors on the way, what is cached is made anew, as in
        transformers for Phi-3.
        """
        if not self.tables.fit(length) or not cached:
            return
        device = self.ops.device
        ids, chosen = device.read(self.history)[:cached], device.read(self.tokens)
        device.write(self.position, np.zeros(1, np.uint32))
        for start in range(0, cached, self.chunk):
            part = ids[start : start + self.chunk]
            self.take(part, start)
            self.embed(len(part))
            self.layers(len(part), start)
            self.ops.advance(self.position, len(part))
        device.write(self.tokens, chosen)

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
                self.norm(normed, x, self.norm_names(i)[0])
            self.block(i, T, cached)

    def norm_names(self, i):
        """The norms that the attention and the feed-forward of block i read."""
        blk = f"blk.{i}."
        if blk + "attn_norm_2.weight" in self.weights:  # one per branch, as in Falcon 40B
            return blk + "attn_norm_2", blk + "attn_norm"
        return blk + "attn_norm", blk + "ffn_norm"

    def block(self, i, T, cached=0):
        """Block i. On entry `x` is its input and `normed` the attention norm of it; on return both
        stand ready for what follows, the next block or the head."""
        ops, blk = self.ops, f"blk.{i}."
        b = self.workspace.at(T)
        ops.tap(blk + "input", b["x"])
        ops.tap(blk + "attn_norm", b["normed"])
        self.attention(i, b, T, cached)
        ops.tap(blk + "attn_out", b["result"])
        self.post_norm(blk + "post_attention_norm", b)
        self.add_attention(i, b)
        ops.tap(blk + "ffn_input", b["x"])
        ops.tap(blk + "ffn_norm", b["normed"])
        self.feed_forward(i, b)
        self.post_norm(blk + "post_ffw_norm", b)
        following = self.norm_names(i + 1)[0] if i + 1 < self.config.L else "output_norm"
        self.add_norm(b["normed"], b["x"], b["result"], following)
        ops.tap(blk + "output", b["x"])

    def add_attention(self, i, b):
        """x += result, and `normed` becomes what the feed-forward of block i reads: the norm of
        that sum or, in a parallel block, of the block's input."""
        name = self.norm_names(i)[1]
        if self.config.spec.residual == "sequential":
            self.add_norm(b["normed"], b["x"], b["result"], name)
            return
        if name + ".weight" in self.weights:  # else both branches read one norm
            self.norm(b["normed"], b["x"], name)
        self.ops.add(b["x"], b["result"])

    def attention(self, i, b, T, cached):
        ops, config, weights = self.ops, self.config, self.weights
        blk, layer = f"blk.{i}.", config.layers[i]
        x = self.operand(b["normed"], *(f"{blk}attn_{name}" for name in "qkv"))
        for name in ("q", "k", "v"):
            self.linear(b[name], f"{blk}attn_{name}", x)
        q = b["q"].view((T, config.H, config.HD))
        k = b["k"].view((T, config.KH, config.HD))
        v = b["v"].view((T, config.KH, config.VD))
        norms = [weights.vector(f"{blk}attn_{n}_norm.weight") for n in "qk"]
        cache, table = self.cache.layers[i], self.tables[layer.rope]
        ops.qk_norm_rope_append(
            q, k, v, cache, self.position, table, config.spec.norm, norms, config.eps
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
        ops, blk, kind = self.ops, f"blk.{i}.", self.config.spec.ffn
        names = [n for n in ("gate", "up") if f"{blk}ffn_{n}.weight" in self.weights]
        x = self.operand(b["normed"], *(f"{blk}ffn_{name}" for name in names))
        for name in names:
            self.linear(b[name], f"{blk}ffn_{name}", x)
        if "gate" in names:
            ops.gated(b["act"], b["gate"], b["up"], kind)
        else:
            ops.plain(b["act"], b["up"], kind)
        self.linear(b["result"], blk + "ffn_down", self.operand(b["act"], blk + "ffn_down"))
        for name in names:
            ops.tap(f"{blk}ffn_{name}", b[name])
        ops.tap(blk + "ffn_act", b["act"])
        ops.tap(blk + "ffn_out", b["result"])

    def norm(self, out, x, name):
        """out = norm(x), of the architecture's kind; the bias is there if the file has one."""
        weight, bias = self.weights.vector(name + ".weight"), self.weights.vector(name + ".bias")
        if self.config.spec.norm == "rms":
            self.ops.rmsnorm(out, x, weight, self.config.eps)
        else:
            self.ops.layernorm(out, x, weight, bias, self.config.eps)

    def add_norm(self, out, residual, x, name):
        """residual += x; out = norm(residual)."""
        weight, bias = self.weights.vector(name + ".weight"), self.weights.vector(name + ".bias")
        if self.config.spec.norm == "rms":
            self.ops.add_rmsnorm(out, residual, x, weight, self.config.eps)
        else:
            self.ops.add_layernorm(out, residual, x, weight, bias, self.config.eps)

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
        """The branch's result, normalised in place where the model has such a norm."""
        if name + ".weight" in self.weights:
            self.norm(b["result"], b["result"], name)
            self.ops.tap(name, b["result"])

    def project(self, logits, row):
        """The head on `logits.shape[0]` rows of the normed stream from `row` on."""
        count = logits.shape[0]
        normed = self.workspace.buffers["normed"].view((count, self.config.D), row * self.config.D)
        self.ops.tap("result_norm", normed)
        self.linear(logits, self.head, self.operand(normed, self.head))
        if self.config.logit_scale != 1:
            self.ops.scale(logits, self.config.logit_scale)
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

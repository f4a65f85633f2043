"""The walk: embed -> blocks -> norm -> head, in terms of operations.

It exists once here and once in `reference`; the two share the config and the tensor names, no code.
Everything that changes from token to token (token ids, position) is read from device memory, so
that a decode step is the same list of launches every time.
"""

import numpy as np

from zerfoo_numba import fusion
from zerfoo_numba.arena import arrange
from zerfoo_numba.cache import KVCache, RecurrentState
from zerfoo_numba.feed_forward import ExpertRoom, feed_forward
from zerfoo_numba.mixers import MIXERS
from zerfoo_numba.rope_tables import RopeTables
from zerfoo_numba.vision.sequence import parts, splice, turns
from zerfoo_numba.weights import Weights
from zerfoo_numba.workspace import Operand, Workspace


class Walk:
    """A model's weights, cache and buffers on one device, and the walk through them.

    activation "int8" holds weights in their packed layouts, where they have one, and multiplies
    them with 8-bit activations; "float" is exact.
    """

    def __init__(self, ops, gguf, config, context, cache_type, activation="float", requantize=None,
                 together=0, fuse=True):  # fmt: skip
        device = ops.device
        self.fusions = fusion.chosen(fuse, device)
        self.ops, self.config, self.context = ops, config, context
        self.weights = Weights(device, gguf, config, activation == "int8", requantize)
        self.chunk = min(max(device.chunk, together), context)
        kind = MIXERS.get(config.spec.mixer)  # None: attention and a feed-forward
        if kind is None:
            self.cache = KVCache(device, config, context, cache_type, self.chunk)
        else:
            self.cache = RecurrentState(device, config, kind.state_shapes(config))
        self.tables = RopeTables(device, {x.rope for x in config.layers}, context, gguf)
        self.pictures, self.spans = [], None  # images of the sequence; whom they see in this part
        self.deferred = None  # what the next product makes of x, where `normed` does not hold it
        self.mixer = kind and kind(self)
        self.tokens = device.empty(self.chunk, np.uint32, "tokens")
        self.position = device.upload(np.zeros(1, np.uint32), "position")
        # The ids of the sequence, given or chosen here: history[p] is that at position p.
        self.history = device.upload(np.zeros(context + 1, np.uint32), "history")
        self.logits = device.empty((1, config.V), np.float32, "logits")
        self.head = "output" if "output.weight" in self.weights else "token_embd"
        self.weights.load()  # before the first token
        self.plan = arrange(self, self.hold)

    def hold(self, maker):
        """The buffers between operations, by `maker`."""
        c = self.config
        widths = self.mixer and self.mixer.widths(c)
        self.workspace = Workspace(maker, c, self.chunk, widths)
        self.expert_room = ExpertRoom(maker, c, self.chunk) if c.experts else None

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
        for start, end in parts(0, cached, self.chunk, self.pictures):
            self.take(ids[start:end], start)
            self.embed(end - start, start)
            self.layers(end - start, start)
            self.ops.advance(self.position, end - start)
        device.write(self.tokens, chosen)

    def see(self, pictures):
        """The `Picture`s of the sequence, before their parts of it are embedded."""
        self.pictures = pictures
        self.tables.place(turns(pictures, self.context))

    def embed(self, T, start=None):
        """The first T of `tokens` to the residual stream x (T, D); where the host knows the
        position `start` of the first, images take their places."""
        self.workspace.turned = False
        ops, config, x = self.ops, self.config, self.workspace.at(T)["x"]
        table = self.weights.matrix("token_embd.weight")
        ops.embed(x, table, self.tokens.view((T,)), config.embed_scale)
        self.spans = None if start is None else splice(ops.device, x, self.pictures, start)
        positions = self.weights.vector("position_embd.weight")
        if positions is not None:
            ops.add_positions(x, positions, self.position)
        if "token_embd_norm.weight" in self.weights:
            self.norm(x, x, "token_embd_norm")
        ops.tap("embed", x)

    def layers(self, T, cached=0, inputs=None):
        """Every block in turn over the residual stream, the last of them closed by the output norm.

        `inputs` {"blk.3.input": (T, D)} replaces what those blocks would get.
        """
        b = self.workspace.at(T)
        for i in range(self.config.L):
            replaced = (inputs or {}).get(f"blk.{i}.input")
            if replaced is not None:
                self.ops.device.write(b["x"], replaced)
            if i == 0 or replaced is not None:
                name = self.norm_names(i)[0]
                if not fusion.defer(self, b, fusion.qkv(f"blk.{i}."), name):
                    self.norm(b["normed"], b["x"], name)
            if self.mixer is None:
                self.block(i, T, cached)
            else:
                self.mixer.block(i, T)

    def norm_names(self, i):
        """The norms that the attention and the feed-forward of block i read."""
        blk = f"blk.{i}."
        if self.mixer is not None:
            return blk + "attn_norm", blk + "attn_norm_2"
        if blk + "attn_norm_2.weight" in self.weights:  # one per branch, as in Falcon 40B
            return blk + "attn_norm_2", blk + "attn_norm"
        return blk + "attn_norm", blk + "ffn_norm"

    def following(self, i):
        """The norm that the output of block i goes through next."""
        return self.norm_names(i + 1)[0] if i + 1 < self.config.L else "output_norm"

    def block(self, i, T, cached=0):
        """Block i. On entry `x` is its input and `normed` the attention norm of it; on return both
        stand ready for what follows, the next block or the head."""
        ops, blk = self.ops, f"blk.{i}."
        b = self.workspace.at(T)
        normed = b["normed"]
        if not self.config.spec.pre_norms:  # the branches read the stream itself
            b["normed"] = b["x"]
        ops.tap(blk + "input", b["x"])
        ops.tap(blk + "attn_norm", b["normed"])
        self.attention(i, b, T, cached)
        ops.tap(blk + "attn_out", b["result"])
        post, following = blk + "post_attention_norm", fusion.feed_forward(self, blk)
        if not fusion.defer(self, b, following, self.norm_names(i)[1], post):
            self.post_norm(post, b)
            self.scale_branch(b)
            self.add_attention(i, b)
        ops.tap(blk + "ffn_input", b["x"])
        ops.tap(blk + "ffn_norm", b["normed"])
        feed_forward(self, i, b)
        post, following = blk + "post_ffw_norm", fusion.following(self, i)
        if not fusion.defer(self, b, following, self.following(i), post):
            self.post_norm(post, b)
            self.scale_branch(b)
            self.add_norm(normed, b["x"], b["result"], self.following(i))
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
        ops, config = self.ops, self.config
        blk, layer = f"blk.{i}.", config.layers[i]
        fusion.attention_products(self, blk, b)
        q = b["q"].view((T, config.H, config.HD))
        k = b["k"].view((T, config.KH, config.HD))
        v = b["v"].view((T, config.KH, config.VD))
        norms = [self.head_norm(b[n], f"{blk}attn_{n}_norm") for n in "qk"]
        cache, table = self.cache.layers[i], self.tables[layer.rope]
        out = b["attn"].view((T, config.H, config.VD))
        fusion.attend(self, layer, cache, table, q, k, v, out, norms, cached)
        ops.tap(blk + "q", q)
        if ops.taps is not None:
            start = int(ops.device.read(self.position)[0])
            k, v = self.cache.read(ops.device, i, start, T)
            ops.taps[blk + "k"], ops.taps[blk + "v"] = k, v
        ops.tap(blk + "attn", b["attn"])
        self.product(b["result"], blk + "attn_output", b["attn"])

    def head_norm(self, x, name):
        """The weight of a norm of every head of x (T, heads HD), which the rotation applies, or
        None; a norm of all heads together is applied here."""
        weight, HD = self.weights.vector(name + ".weight"), self.config.HD
        if weight is None or weight.shape != (x.shape[1],) or weight.size == HD:
            return weight
        self.norm(x, x, name)
        return None

    def norm(self, out, x, name):
        """out = norm(x), of the architecture's kind; the bias is there if the file has one. Nothing
        happens where the model has no such norm."""
        if name + ".weight" not in self.weights:
            return
        weight, bias = self.weights.vector(name + ".weight"), self.weights.vector(name + ".bias")
        if self.config.spec.norm == "rms":
            self.ops.rmsnorm(out, x, weight, self.config.eps)
        else:
            self.ops.layernorm(out, x, weight, bias, self.config.eps)

    def add_norm(self, out, residual, x, name):
        """residual += x; out = norm(residual), if the model has that norm."""
        if name + ".weight" not in self.weights:
            self.ops.add(residual, x)
            return
        if "add_norm" not in self.fusions:
            self.ops.add(residual, x)
            self.norm(out, residual, name)
            return
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

    def linear(self, out, name, operand, bias=None):
        """out = weight x + bias; the bias is the vector of that name, or there if the file has one
        that is named after the weight."""
        weight = self.weights.matrix(name + ".weight")
        bias = self.weights.vector(bias or name + ".bias")
        if weight.packed:
            self.ops.matmul_int8(out, weight, operand.quantized, bias)
        else:
            self.ops.matmul(out, weight, operand.x, bias)

    def product(self, out, name, x):
        """out = weight x + bias for x (T, K), or for what a Prologue makes of one token."""
        if not fusion.single(self, out, name, x):
            self.linear(out, name, self.operand(x, name))

    def post_norm(self, name, b):
        """The branch's result, normalised in place where the model has such a norm."""
        if name + ".weight" in self.weights:
            self.norm(b["result"], b["result"], name)
            self.ops.tap(name, b["result"])

    def scale_branch(self, b):
        """The branch's result, as much of it as the residual stream gets."""
        if self.config.residual_scale != 1:
            self.ops.scale(b["result"], self.config.residual_scale)

    def project(self, logits, row):
        """The head on `logits.shape[0]` rows of the normed stream from `row` on."""
        count = logits.shape[0]
        normed = self.workspace.buffers["normed"].view((count, self.config.D), row * self.config.D)
        self.ops.tap("result_norm", normed)
        self.product(logits, self.head, fusion.entry(self, normed))
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

    def logits_step(self):
        """One token whose logits the host reads; it writes the next id into `tokens`."""
        self.step()
        self.ops.advance(self.position, 1)

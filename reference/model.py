"""A GGUF model in NumPy: one straight walk, embed -> blocks -> norm -> head.

The runtime's walk shares the configuration and the tensor names with this one, and no code. Letters
as in `reference.ops`; the names given to `tap` are those of the runtime's `taps`.
"""

import numpy as np

from reference import ops
from reference.feed_forward import FeedForward
from reference.mixers import MIXERS
from reference.prompt import read_prompt
from reference.quant import FORMATS
from reference.weights import Weights
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import FileError, InputError, UnsupportedError
from zerfoo_numba.gguf_file import open_gguf


def load_model(path, mmproj=None, dtype="float32"):
    """The model of a GGUF file, computed in `dtype` ("float32" or "float64") throughout.

    `mmproj`: the file of an image tower and its projector. Errors: FileError, UnsupportedError;
    InputError for another dtype.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype {dtype!r} is neither 'float32' nor 'float64'")
    gguf = open_gguf(path)
    config = ModelConfig.from_gguf(gguf)
    config.check_tensors(gguf)
    for name, tensor in gguf.tensors.items():
        if tensor.type not in FORMATS:
            known = ", ".join(FORMATS)
            raise UnsupportedError(f"{path}: {name} has type {tensor.type}; {known} are read")
    return Model(gguf, config, dtype, None if mmproj is None else _tower(mmproj, config, dtype))


def _tower(mmproj, config, dtype):
    from reference.vision import Tower  # only images need Pillow

    tower = Tower(mmproj, dtype)
    if tower.config.out != config.D:
        raise FileError(
            f"{mmproj}: its image tokens are {tower.config.out} wide, the model's tokens {config.D}"
        )
    return tower


class Model:
    """A loaded model. `config` is its ModelConfig; weights are dequantised when first needed."""

    def __init__(self, gguf, config, dtype, tower=None):
        self.gguf = gguf
        self.tower = tower
        self.config = config
        self.dtype = np.dtype(dtype)
        self.weights = Weights(gguf, dtype)

    def logits(self, ids):
        """Logits of every position: ids (T,) -> (T, V) in the model's dtype.

        An image (path, PIL image, uint8 array) among the ids stands for all its tokens. Errors:
        InputError for no ids, one that is no token of the model, or no image.
        """
        return self._walk(self._prompt(ids), lambda name, x: x)

    def embed_image(self, image):
        """The tokens that an image becomes: (tokens, D). Errors: InputError."""
        if self.tower is None:
            raise InputError("an image needs a model loaded with mmproj, its projector's file")
        return self.tower.embed(image).tokens

    def taps(self, ids, inputs=None):
        """Every named intermediate array of a run over ids, in the order of computation.

        inputs: {name: array} puts an array in the place of a tap before the walk goes on, so
        {"blk.3.input": x} feeds layer 3 with x. Errors: InputError, also for a name that is not
        met or an array of another shape.
        """
        inputs = {} if inputs is None else inputs
        taps = {}

        def tap(name, x):
            if name in inputs:
                given = np.asarray(inputs[name], self.dtype)
                if given.shape != x.shape:
                    raise InputError(f"the input {name} is {given.shape}; the walk needs {x.shape}")
                x = given
            taps[name] = x
            return x

        self._walk(self._prompt(ids), tap)
        unknown = sorted(set(inputs) - set(taps))
        if unknown:
            raise InputError(f"this model computes no {unknown[0]}; taps(ids) lists what it does")
        return taps

    def _prompt(self, ids):
        return read_prompt(ids, self.config.V, self.tower)

    def _walk(self, prompt, tap):
        """A Prompt of T tokens -> logits (T, V)."""
        config, weights = self.config, self.weights
        x = weights.rows("token_embd.weight", prompt.ids) * self.dtype.type(config.embed_scale)
        for start, tokens in prompt.images:
            x[start : start + len(tokens)] = tokens
        if "position_embd.weight" in weights:
            x = x + weights.rows("position_embd.weight", np.arange(len(x)))
        if "token_embd_norm.weight" in weights:
            x = self._norm(x, "token_embd_norm")
        x = tap("embed", x)
        x = self._recurrent(x, tap) if config.recurrent else self._layers(x, prompt, tap)
        x = tap("result_norm", self._norm(x, "output_norm"))
        head = "output" if "output.weight" in weights else "token_embd"
        logits = self._linear(x, head) * self.dtype.type(config.logit_scale)
        if config.final_softcap is not None:
            logits = ops.softcap(logits, config.final_softcap)
        return tap("result_output", logits)

    def _recurrent(self, x, tap):
        """All blocks of a recurrent model: x (T, D) -> (T, D)."""
        kind = MIXERS[self.config.spec.mixer]
        mixer = kind(self.config, self.weights, self._linear, self._norm)
        for i in range(self.config.L):
            x = mixer.block(i, tap(f"blk.{i}.input", x), tap)
        return x

    def _layers(self, x, prompt, tap):
        """All blocks of a transformer: x (T, D) -> (T, D)."""
        tables = {}
        for i, layer in enumerate(self.config.layers):
            if layer.rope not in tables:
                tables[layer.rope] = self._rope_table(layer.rope, prompt.positions)
            places = tables[layer.rope], prompt.image
            x = self._block(f"blk.{i}.", layer, places, tap(f"blk.{i}.input", x), tap)
        return x

    def _block(self, blk, layer, places, x, tap):
        """One attention + feed-forward layer: x (T, D) -> (T, D)."""
        attn_norm, ffn_norm = "attn_norm", "ffn_norm"
        if blk + "attn_norm_2.weight" in self.weights:  # one per branch, as in Falcon 40B
            attn_norm, ffn_norm = "attn_norm_2", "attn_norm"
        pre_norms = self.config.spec.pre_norms
        normed = tap(blk + "attn_norm", self._norm(x, blk + attn_norm) if pre_norms else x)
        attn = self._attention(blk, layer, places, normed, tap)
        attn = tap(blk + "attn_out", self._linear(attn, blk + "attn_output"))
        if blk + "post_attention_norm.weight" in self.weights:
            attn = tap(blk + "post_attention_norm", self._norm(attn, blk + "post_attention_norm"))
        residual_scale = self.dtype.type(self.config.residual_scale)
        y = tap(blk + "ffn_input", x + residual_scale * attn)

        normed = normed if pre_norms else y
        if blk + ffn_norm + ".weight" in self.weights:
            parallel = self.config.spec.residual == "parallel"
            normed = self._norm(x if parallel else y, blk + ffn_norm)
        feed_forward = FeedForward(self.config, self.weights, self._linear)
        ffn = feed_forward(blk, tap(blk + "ffn_norm", normed), tap)
        if blk + "post_ffw_norm.weight" in self.weights:
            ffn = tap(blk + "post_ffw_norm", self._norm(ffn, blk + "post_ffw_norm"))
        return tap(blk + "output", y + residual_scale * ffn)

    def _attention(self, blk, layer, places, x, tap):
        """x (T, D), normed -> (T, H·VD), before the output matrix."""
        c, tokens, (table, image) = self.config, len(x), places
        q, k, v = self._qkv(blk, x)
        if blk + "attn_q_norm.weight" in self.weights:
            q = self._head_norm(q, blk + "attn_q_norm")
        if blk + "attn_k_norm.weight" in self.weights:
            k = self._head_norm(k, blk + "attn_k_norm")
        q = tap(blk + "q", ops.rope(q, *table, layer.rope.kind))
        k = tap(blk + "k", ops.rope(k, *table, layer.rope.kind))
        v = tap(blk + "v", v)
        attn = ops.attention(q, k, v, c.attn_scale, layer.window, c.attn_softcap, image)
        return tap(blk + "attn", attn.reshape(tokens, c.H * c.VD))

    def _qkv(self, blk, x):
        """x (T, D), normed -> q (T, H, HD), k (T, KH, HD) and v (T, KH, VD)."""
        c = self.config
        if blk + "attn_qkv.weight" in self.weights:
            rows = self._linear(x, blk + "attn_qkv")
            q, k, v = np.split(rows, (c.H * c.HD, (c.H + c.KH) * c.HD), axis=1)
        else:
            q, k, v = (self._linear(x, f"{blk}attn_{letter}") for letter in "qkv")
        heads = (c.H, c.HD), (c.KH, c.HD), (c.KH, c.VD)
        return [y.reshape(len(x), *head) for y, head in zip((q, k, v), heads, strict=True)]

    def _linear(self, x, name):
        """x Wᵀ + b; the bias is added if the file has one."""
        y = self.weights.matmul(x, name + ".weight")
        return y + self.weights.array(name + ".bias") if name + ".bias" in self.weights else y

    def _norm(self, x, name):
        """The norm kind of the architecture, over the last axis of x."""
        weight, eps = self.weights.array(name + ".weight"), self.config.eps
        if self.config.spec.norm == "rms":
            return ops.rmsnorm(x, weight, eps)
        bias = self.weights.array(name + ".bias") if name + ".bias" in self.weights else None
        return ops.layernorm(x, weight, bias, eps)

    def _head_norm(self, x, name):
        """The norm of each head of x (T, H, HD); or of all heads together, where it has a weight
        for each of their elements."""
        if self.weights.array(name + ".weight").shape == (x[0].size,):
            return self._norm(x.reshape(len(x), -1), name).reshape(x.shape)
        return self._norm(x, name)

    def _rope_table(self, rope, positions):
        """cos and sin of positions (3, T), for a sequence of that many tokens."""
        name = rope.freq_factors
        if rope.long_factors is not None and positions.shape[1] > rope.long_factors.context:
            name = rope.long_factors.name
        factors = None if name is None else self.weights.array(name)
        return ops.rope_table(positions if rope.sections else positions[0], rope, factors)

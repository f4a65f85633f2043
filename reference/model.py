"""A GGUF model in NumPy: one straight walk, embed -> blocks -> norm -> head.

The runtime's walk shares the configuration and the tensor names with this one, and no code. Letters
as in `reference.ops`; the names given to `tap` are those of the runtime's `taps`.
"""

import numpy as np

from reference import ops
from reference.quant import FORMATS
from reference.weights import Weights
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import InputError, UnsupportedError
from zerfoo_numba.gguf_file import open_gguf


def load_model(path, mmproj=None, dtype="float32"):
    """The model of a GGUF file, computed in `dtype` ("float32" or "float64") throughout.

    Errors: FileError, UnsupportedError; InputError for another dtype.
    """
    if mmproj is not None:
        raise UnsupportedError(
            f"no image projector is supported yet; load the model without {mmproj}"
        )
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype {dtype!r} is neither 'float32' nor 'float64'")
    gguf = open_gguf(path)
    config = ModelConfig.from_gguf(gguf)
    config.check_tensors(gguf)
    for name, tensor in gguf.tensors.items():
        if tensor.type not in FORMATS:
            known = ", ".join(FORMATS)
            raise UnsupportedError(f"{path}: {name} has type {tensor.type}; {known} are read")
    return Model(gguf, config, dtype)


class Model:
    """A loaded model. `config` is its ModelConfig; weights are dequantised when first needed."""

    def __init__(self, gguf, config, dtype):
        self.gguf = gguf
        self.config = config
        self.dtype = np.dtype(dtype)
        self.weights = Weights(gguf, dtype)

    def logits(self, ids):
        """Logits of every position: ids (T,) -> (T, V) in the model's dtype.

        Errors: InputError for no ids, or one that is no token of the model.
        """
        return self._walk(self._checked(ids), lambda name, x: x)

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

        self._walk(self._checked(ids), tap)
        unknown = sorted(set(inputs) - set(taps))
        if unknown:
            raise InputError(f"this model computes no {unknown[0]}; taps(ids) lists what it does")
        return taps

    def _checked(self, ids):
        array = np.asarray(ids)
        if array.ndim != 1 or array.size == 0:
            raise InputError("the token ids must be a flat list of at least one integer")
        if array.dtype.kind not in "iu":
            raise InputError(f"the token ids must be integers, not {array.dtype}")
        wrong = array[(array < 0) | (array >= self.config.V)]
        if wrong.size:
            raise InputError(
                f"token id {wrong[0]} is outside the vocabulary, 0 to {self.config.V - 1}"
            )
        return array.astype(np.intp)

    def _walk(self, ids, tap):
        """ids (T,) -> logits (T, V)."""
        config, weights = self.config, self.weights
        x = weights.rows("token_embd.weight", ids) * self.dtype.type(config.embed_scale)
        x = tap("embed", x)
        tables = {}
        for i, layer in enumerate(config.layers):
            if layer.rope not in tables:
                tables[layer.rope] = self._rope_table(layer.rope, len(ids))
            x = self._block(f"blk.{i}.", layer, tables[layer.rope], tap(f"blk.{i}.input", x), tap)
        x = tap("result_norm", self._norm(x, "output_norm"))
        head = "output" if "output.weight" in weights else "token_embd"
        logits = self._linear(x, head) * self.dtype.type(config.logit_scale)
        if config.final_softcap is not None:
            logits = ops.softcap(logits, config.final_softcap)
        return tap("result_output", logits)

    def _block(self, blk, layer, table, x, tap):
        """One attention + feed-forward layer: x (T, D) -> (T, D)."""
        attn_norm, ffn_norm = "attn_norm", "ffn_norm"
        if blk + "attn_norm_2.weight" in self.weights:  # one per branch, as in Falcon 40B
            attn_norm, ffn_norm = "attn_norm_2", "attn_norm"
        normed = tap(blk + "attn_norm", self._norm(x, blk + attn_norm))
        attn = self._attention(blk, layer, table, normed, tap)
        attn = tap(blk + "attn_out", self._linear(attn, blk + "attn_output"))
        if blk + "post_attention_norm.weight" in self.weights:
            attn = tap(blk + "post_attention_norm", self._norm(attn, blk + "post_attention_norm"))
        y = tap(blk + "ffn_input", x + attn)

        if blk + ffn_norm + ".weight" in self.weights:
            parallel = self.config.spec.residual == "parallel"
            normed = self._norm(x if parallel else y, blk + ffn_norm)
        ffn = self._ffn(blk, tap(blk + "ffn_norm", normed), tap)
        if blk + "post_ffw_norm.weight" in self.weights:
            ffn = tap(blk + "post_ffw_norm", self._norm(ffn, blk + "post_ffw_norm"))
        return tap(blk + "output", y + ffn)

    def _attention(self, blk, layer, table, x, tap):
        """x (T, D), normed -> (T, H·VD), before the output matrix."""
        c, tokens = self.config, len(x)
        q, k, v = self._qkv(blk, x)
        if blk + "attn_q_norm.weight" in self.weights:
            q = self._norm(q, blk + "attn_q_norm")
        if blk + "attn_k_norm.weight" in self.weights:
            k = self._norm(k, blk + "attn_k_norm")
        q = tap(blk + "q", ops.rope(q, *table, layer.rope.kind))
        k = tap(blk + "k", ops.rope(k, *table, layer.rope.kind))
        v = tap(blk + "v", v)
        attn = ops.attention(q, k, v, c.attn_scale, layer.window, c.attn_softcap)
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

    def _ffn(self, blk, x, tap):
        """x (T, D), normed -> (T, D)."""
        activation = {"swiglu": ops.swiglu, "geglu": ops.geglu, "gelu": ops.gelu}
        inputs = [self._linear(x, blk + "ffn_up")]
        if blk + "ffn_gate.weight" in self.weights:
            inputs.insert(0, self._linear(x, blk + "ffn_gate"))
        elif inputs[0].shape[1] == 2 * self.config.F:  # rows of gate, then of up, in one matrix
            inputs = np.split(inputs[0], 2, axis=1)
        names = ("ffn_gate", "ffn_up")[-len(inputs) :]
        inputs = [tap(blk + name, y) for name, y in zip(names, inputs, strict=True)]
        act = tap(blk + "ffn_act", activation[self.config.spec.ffn](*inputs))
        return tap(blk + "ffn_out", self._linear(act, blk + "ffn_down"))

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

    def _rope_table(self, rope, tokens):
        """cos and sin of positions 0 .. tokens - 1, for a sequence of that many tokens."""
        name = rope.freq_factors
        if rope.long_factors is not None and tokens > rope.long_factors.context:
            name = rope.long_factors.name
        factors = None if name is None else self.weights.array(name)
        return ops.rope_table(np.arange(tokens), rope, factors)

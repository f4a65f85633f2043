"""What a block format costs in accuracy: of the weights, and of a model's logits.

A float model is written once in every format; its logits are compared with those of the float
model. The float path is the reference on the dequantised weights, the integer path the runtime.
"""

import math
import tempfile
from pathlib import Path

import numpy as np

import reference
import zerfoo_numba
from bench.quants_write import writer
from reference.quant import dequantize
from zerfoo_numba import synth
from zerfoo_numba.errors import InputError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.gguf_writer import write_gguf
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS

TOKENS = 128
SMALL = "llama-3.2-tiny"  # every row is a multiple of 256, so every format takes every matrix


class FloatModel:
    """A model as float32 arrays: a synthetic shape (`model` is its name) or a GGUF file."""

    def __init__(self, model, folder, text=None, tokens=TOKENS):
        self.folder = Path(folder)
        self.synthetic = model in synth.SHAPES
        path = model
        if self.synthetic:
            path = self.folder / "float.gguf"
            synth.synthesize(model, path, quantization="F32")
        with open_gguf(path) as gguf:
            self.metadata = {name: _wide(value) for name, value in gguf.metadata.items()}
            self.tensors = {name: (t.shape, t.type) for name, t in gguf.tensors.items()}
            self.arrays = {
                name: np.array(dequantize(t.data, t.type, t.shape), np.float32)
                for name, t in gguf.tensors.items()
            }
        self.name = model if self.synthetic else Path(model).name
        self.ids = self._ids(path, text, tokens)

    def _ids(self, path, text, tokens):
        if text is None:
            V = self.tensors["token_embd.weight"][0][1]
            return np.random.default_rng(0).integers(0, V, tokens).tolist()
        try:
            content = Path(text).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{text} cannot be read as text: {error}") from error
        ids = zerfoo_numba.load_tokenizer(path).encode(content)[:tokens]
        if len(ids) < 2:
            raise InputError(f"{text} has {len(ids)} tokens; a perplexity needs at least two")
        return ids

    def write(self, type_name, path):
        """The model with its matrices in a format: (the NMSE of those, the share of all their
        elements that took it). Rows that are no whole blocks stay float32."""
        _, convert = writer(type_name)
        size = QUANTS[type_name].block_size
        taken = {n for n, (s, _) in self.tensors.items() if len(s) == 2 and s[0] % size == 0}
        matrices = sum(self.arrays[n].size for n, (s, _) in self.tensors.items() if len(s) == 2)
        kinds = {name: (shape, type_name if name in taken else "F32")
                 for name, (shape, _) in self.tensors.items()}  # fmt: skip
        error = power = elements = 0.0

        def data(name, shape, kind):
            nonlocal error, power, elements
            array = self.arrays[name]
            if name not in taken:
                return [array.tobytes()]
            blocks = np.ascontiguousarray(convert(array)).reshape(-1).view(np.uint8)
            back = dequantize(blocks, kind, shape)
            error += float(np.square(array - back, dtype=np.float64).sum())
            power += float(np.square(array, dtype=np.float64).sum())
            elements += array.size
            return [blocks.tobytes()]

        write_gguf(path, self.metadata, kinds, data)
        return error / power, elements / matrices


def _wide(value):
    """Integers that a writer would take for 32-bit ones, as what they are."""
    if isinstance(value, int) and not isinstance(value, bool) and not 0 <= value < 2**32:
        return np.int64(value) if value < 2**63 else np.uint64(value)
    return value


def log_softmax(logits):
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def mean_kl(logits, other):
    """Mean over positions of KL(softmax(logits) || softmax(other)), in nats."""
    p, q = log_softmax(logits), log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def compare(logits, other, ids, trained):
    """`other` against `logits`, (T, V) each: mean KL divergence in nats, top-1 agreement, and the
    perplexity of `other` on ids where the model has learnt something."""
    same = logits.argmax(axis=1) == other.argmax(axis=1)
    result = {"mean_kl": mean_kl(logits, other), "top1_agreement": float(same.mean())}
    if trained:
        result["perplexity"] = perplexity(other, ids)
    return result


def perplexity(logits, ids):
    following = log_softmax(logits[:-1])[np.arange(len(ids) - 1), ids[1:]]
    return math.exp(-following.mean())


def measure(names, model, device, progress):
    """{format: errors} of every format that can be written; `device` runs the integer path."""
    exact = _exact(model)
    trained, result = not model.synthetic, {}
    for name in names:
        if writer(name) is None:
            continue
        progress(f"accuracy of {name}")
        with tempfile.TemporaryDirectory(dir=model.folder) as folder:
            path = Path(folder) / f"{name}.gguf"
            nmse, share = model.write(name, path)
            by_reference = reference.load_model(path).logits(model.ids)
            row = {
                "writer": writer(name)[0],
                "share_of_weights": share,
                "weights_nmse": nmse,
                "float": compare(exact, by_reference, model.ids, trained),
                "int8": None,
            }
            if name in LAYOUTS:
                logits = _runtime(path, device, model.ids)
                row["int8"] = compare(exact, logits, model.ids, trained)
                row["int8"]["mean_kl_to_float"] = mean_kl(by_reference, logits)
            result[name] = row
    return result


def _exact(model):
    path = model.folder / "exact.gguf"
    model.write("F32", path)
    return reference.load_model(path).logits(model.ids)


def _runtime(path, device, ids):
    context = len(ids) + 1
    runtime = zerfoo_numba.load_model(
        path, device=device, context=context, activation="int8", cache_type="f32"
    )
    return runtime.logits(ids)

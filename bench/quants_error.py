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
from bench import small_text
from bench.quants_write import writer
from reference.quant import dequantize
from zerfoo_numba import synth
from zerfoo_numba.errors import InputError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.gguf_writer import write_gguf
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS

TOKENS = 8192
WINDOW = 512  # tokens that a model sees at once


class FloatModel:
    """A model as float32 arrays: a synthetic shape (`model` is its name) or a GGUF file.

    `windows`: at most `tokens` ids of a text, in parts that stand for themselves. Without `text`,
    a file, they come from the held-out text for the model of the package (as it was trained: text
    after text, each between BOS and EOS), and are random for every other.
    """

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
        self.text = None if text is None else Path(text).name
        ids = self._ids(path, text, tokens)
        self.windows = [ids[i : i + WINDOW] for i in range(0, len(ids) - 1, WINDOW)]
        self.tokens = sum(map(len, self.windows))

    def _ids(self, path, text, tokens):
        if text is None and Path(path) == zerfoo_numba.sample_model():
            self.text = small_text.HELD_OUT.stem
            tokenizer = zerfoo_numba.load_tokenizer(path)
            texts = (tokenizer.encode(text) for text in small_text.held_out())
            return [i for ids in texts for i in [*ids, tokenizer.eos_id]][:tokens]
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


def compare(exact, other, windows, trained):
    """`other` against `exact`, logits (T, V) of each window: mean KL divergence in nats, top-1
    agreement, and the perplexity of `other` on the ids where the model has learnt something."""
    pairs = list(zip(exact, other, strict=True))
    same = [a.argmax(axis=1) == b.argmax(axis=1) for a, b in pairs]
    result = {"mean_kl": mean([mean_kl(a, b) for a, b in pairs], windows),
              "top1_agreement": float(np.concatenate(same).mean())}  # fmt: skip
    if trained:
        result["perplexity"] = perplexity(other, windows)
    return result


def mean(values, windows):
    """Of what each window has for a token, the mean over all tokens."""
    return float(np.average(values, weights=[len(ids) for ids in windows]))


def perplexity(logits, windows):
    """exp of the mean negative log-likelihood of every id but the first of its window."""
    following = [
        log_softmax(rows[:-1])[np.arange(len(ids) - 1), ids[1:]]
        for rows, ids in zip(logits, windows, strict=True)
    ]
    return math.exp(-np.concatenate(following).mean())


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
            by_reference = _reference(path, model.windows)
            row = {
                "writer": writer(name)[0],
                "share_of_weights": share,
                "weights_nmse": nmse,
                "float": compare(exact, by_reference, model.windows, trained),
                "int8": None,
            }
            if name in LAYOUTS:
                logits = _runtime(path, device, model.windows)
                row["int8"] = compare(exact, logits, model.windows, trained)
                added = map(mean_kl, by_reference, logits)
                row["int8"]["mean_kl_to_float"] = mean(list(added), model.windows)
            result[name] = row
    return result


def _exact(model):
    path = model.folder / "exact.gguf"
    model.write("F32", path)
    return _reference(path, model.windows)


def _reference(path, windows):
    """Logits (T, V) of each window."""
    model = reference.load_model(path)
    return [model.logits(ids) for ids in windows]


def _runtime(path, device, windows):
    runtime = zerfoo_numba.load_model(
        path, device=device, context=max(map(len, windows)), activation="int8", cache_type="f32"
    )
    return [runtime.logits(ids) for ids in windows]

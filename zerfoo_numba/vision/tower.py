"""The walk of an image: patches -> tower -> projector -> the rows a text model takes for tokens.

It exists once here and once in `reference.vision`; the two share the config and the tensor names.
"""

from types import SimpleNamespace

import numpy as np

from zerfoo_numba.cache import LayerCache
from zerfoo_numba.errors import FileError
from zerfoo_numba.gguf_file import Tensor, open_gguf
from zerfoo_numba.rope_tables import RopeTable
from zerfoo_numba.vision.preprocess import prepare
from zerfoo_numba.vision.sequence import Picture
from zerfoo_numba.vision_config import ROPE_BASE, VisionConfig
from zerfoo_numba.weights import Weight, Weights

INPUT_PROJECTION = "mm.input_projection.weight"
NEWLINE = "model.image_newline"


def open_tower(path, ops, config):
    """The Tower of the mmproj file at `path`, for a text model of this `ModelConfig`.

    Raises FileError, UnsupportedError; FileError too where the two do not belong together.
    """
    gguf = open_gguf(path)
    vision = VisionConfig.from_gguf(gguf)
    vision.check_tensors(gguf)
    if vision.out != config.D:
        raise FileError(
            f"{path}: its image tokens are {vision.out} wide, and those of {config.name} "
            f"{config.D}: give the mmproj file of this model"
        )
    sections = any(layer.rope.sections for layer in config.layers)
    if vision.spec.image_positions == "grid" and not sections:
        raise FileError(
            f"{path}: its image tokens turn by row and column, and {config.name} has no "
            "rope.dimension_sections: give the mmproj file of this model"
        )
    return Tower(ops, gguf, vision)


class Tower:
    """The weights of an mmproj file on a device, and the walk through them.

    Everything is float32 but the weights, which stay in their block formats.
    """

    def __init__(self, ops, gguf, config):
        self.ops, self.config = ops, config
        tensors = {n: _flat(t) for n, t in gguf.tensors.items() if n.startswith(_PARTS)}
        held = SimpleNamespace(path=gguf.path, tensors=tensors, check_size=gguf.check_size)
        self.weights = Weights(ops.device, held, None)
        for name, tensor in tensors.items():
            (self.weights.matrix if len(tensor.shape) == 2 else self.weights.vector)(name)
        self.start = ops.device.upload(np.zeros(1, np.uint32), "start")
        self.projection = None
        if INPUT_PROJECTION in self.weights:  # the file holds it the other way round
            self.projection = self._transposed(self.weights.matrix(INPUT_PROJECTION))
        gguf.release_memory()

    @property
    def together(self):
        """How many tokens of an image a text model must take at once; 0 if it need not."""
        c = self.config
        return (c.image_size // c.patch // c.merge) ** 2 if c.spec.bidirectional else 0

    def picture(self, source):
        """The Picture of an image (whatever `load_image` takes), at position 0."""
        prepared, m = prepare(source, self.config), self.config.merge
        grid = prepared.grid and (prepared.grid[1] // m, prepared.grid[2] // m)
        return Picture(0, self.embed(prepared), grid, self.config.spec.bidirectional)

    def embed(self, prepared):
        """float32 (tokens, out): the rows of a `Prepared` image, in the order of its tokens."""
        rows = np.concatenate([self._picture(patches, prepared) for patches in prepared.patches])
        if self.config.newline:
            newline = self.ops.device.read(self.weights.vector(NEWLINE))
            rows = np.concatenate([rows, newline[None]])  # the last one, which order calls -1
        return rows[prepared.order]

    def _picture(self, patches, prepared):
        """What the projector makes of patches (P, 3 patch²): (P / merge², out)."""
        c, device = self.config, self.ops.device
        tokens = len(patches) + c.class_token
        b = self._buffers(tokens)
        self._enter(b, device.upload(np.ascontiguousarray(patches)), prepared.places)
        table = self._rope(prepared.places) if c.spec.positions == "rope" else None
        whole = np.tile(np.array([0, tokens - 1], np.uint32), (tokens, 1))
        spans = {True: _Spans(device, whole)}
        if prepared.windows is not None:
            spans[False] = _Spans(device, prepared.windows)
        states = device.empty((tokens, c.D * len(c.features)), np.float32, "states")
        for i in range(max(c.features) + 1):
            state = b["x"]
            if i == c.L and c.post_norm:
                state = b["normed"]
                self._norm(state, b["x"], "v.post_ln")
            for place in (n for n, wanted in enumerate(c.features) if wanted == i):
                self.ops.join(states, state, place * c.D)
            if i < max(c.features):
                self._block(f"v.blk.{i}.", b, table, spans[c.full[i]])
        width = states.shape[1]
        return self._project(states.view((len(patches), width), c.class_token * width))

    def _buffers(self, tokens):
        c, empty = self.config, self.ops.device.empty
        widths = dict.fromkeys(("x", "normed", "q", "k", "v", "attn", "result"), c.D)
        widths |= {"up": c.F, "gate": c.F}
        return {name: empty((tokens, width), np.float32, name) for name, width in widths.items()}

    def _enter(self, b, patches, places):
        """Patches, after the class token where there is one, to the stream x, with positions."""
        c, ops, x = self.config, self.ops, b["x"]
        first = int(c.class_token)
        rows, other = (b[n].view((patches.shape[0], c.D), first * c.D) for n in ("x", "result"))
        self._linear(rows, "v.patch_embd", patches)
        if c.temporal == 2:  # a still image is both frames
            ops.matmul(other, self.weights.matrix("v.patch_embd.weight.1"), patches)
            ops.add(rows, other)
        if c.class_token:
            ops.join(x.view((1, c.D)), self.weights.vector("v.class_embd").view((1, c.D)), 0)
        if c.spec.positions == "learned":
            numbers = first + places[:, 0] * (c.image_size // c.patch) + places[:, 1]
            numbers = np.concatenate([np.arange(first), numbers]).astype(np.uint32)
            table = self.weights.matrix("v.position_embd.weight")
            ops.embed(b["result"], table, ops.device.upload(numbers), 1.0)
            ops.add(x, b["result"])
        if c.pre_norm:
            self._norm(x, x, "v.pre_ln")

    def _rope(self, places):
        """cos and sin of every patch: a head's first pairs turn by its row, the rest by its column.

        transformers, VisionRotaryEmbedding: base^(-2i / (HD / 2)) for both, computed in float64.
        """
        quarter = self.config.HD // 4
        frequency = ROPE_BASE ** (-np.arange(quarter, dtype=np.float64) / quarter)
        angle = (places[:, :, None] * frequency).reshape(len(places), 2 * quarter)
        cos, sin = (self.ops.device.upload(f(angle).astype(np.float32)) for f in (np.cos, np.sin))
        return RopeTable(cos, sin, 4 * quarter, "half")

    def _block(self, blk, b, table, spans):
        c, ops = self.config, self.ops
        self._norm(b["normed"], b["x"], blk + "ln1")
        for name in "qkv":
            self._linear(b[name], f"{blk}attn_{name}", b["normed"])
        q, k, v, out = (b[n].view((b[n].shape[0], c.H, c.HD)) for n in ("q", "k", "v", "attn"))
        if table is not None:
            room = LayerCache(k, v, "f32")  # in place
            ops.qk_norm_rope_append(q, k, v, room, self.start, table, None, (None, None), c.eps)
        ops.vision_attention(out, q, k, v, spans.buffer, spans.seen, c.HD**-0.5)
        self._linear(b["result"], blk + "attn_out", b["attn"])
        self._add_norm(b["normed"], b["x"], b["result"], blk + "ln2")
        up, down = c.ffn_names
        self._linear(b["up"], blk + up, b["normed"])
        if c.gated:
            self._linear(b["gate"], blk + "ffn_gate", b["normed"])
            ops.gated(b["up"], b["gate"], b["up"], _GATED[c.activation])
        else:
            ops.plain(b["up"], b["up"], c.activation)
        self._linear(b["result"], blk + down, b["up"])
        ops.add(b["x"], b["result"])

    def _project(self, x):
        """The projector over the patches x (P, width): two layers on the merge² joined patches of
        a token, or one on their mean."""
        c, ops, device = self.config, self.ops, self.ops.device
        tokens = x.shape[0] // c.merge**2
        out = device.empty((tokens, c.out), np.float32, "image")
        if self.projection is not None:
            pooled = device.empty((tokens, x.shape[1]), np.float32, "pooled")
            ops.pool(pooled, x)
            weight = self.weights.vector("mm.soft_emb_norm.weight")
            ops.rmsnorm(pooled, pooled, weight, c.eps)
            ops.matmul(out, self.projection, pooled)
        else:
            width = self.weights.matrix("mm.0.weight").rows
            hidden = device.empty((tokens, width), np.float32, "hidden")
            self._linear(hidden, "mm.0", x.view((tokens, x.shape[1] * c.merge**2)))
            ops.plain(hidden, hidden, "gelu")
            self._linear(out, "mm.2", hidden)
        return device.read(out)

    def _linear(self, out, name, x):
        bias = self.weights.vector(name + ".bias")
        self.ops.matmul(out, self.weights.matrix(name + ".weight"), x, bias)

    def _norm(self, out, x, name):
        weight, bias = self.weights.vector(name + ".weight"), self.weights.vector(name + ".bias")
        if self.config.norm == "rms":
            self.ops.rmsnorm(out, x, weight, self.config.eps)
        else:
            self.ops.layernorm(out, x, weight, bias, self.config.eps)

    def _add_norm(self, out, residual, x, name):
        """residual += x; out = norm(residual)."""
        weight, bias = self.weights.vector(name + ".weight"), self.weights.vector(name + ".bias")
        if self.config.norm == "rms":
            self.ops.add_rmsnorm(out, residual, x, weight, self.config.eps)
        else:
            self.ops.add_layernorm(out, residual, x, weight, bias, self.config.eps)

    def _transposed(self, matrix):
        """The matrix (N, K) as float32 (K, N), decoded by the device."""
        ops, device = self.ops, self.ops.device
        out = device.empty((matrix.rows, matrix.columns), np.float32)
        rows = device.upload(np.arange(matrix.rows, dtype=np.uint32))
        ops.embed(out, matrix, rows, 1.0)
        values = np.ascontiguousarray(device.read(out).T)
        data = device.upload(values.view(np.uint8).reshape(-1), INPUT_PROJECTION)
        return Weight(data, "F32", matrix.columns, matrix.rows)


_PARTS = ("v.", "mm.", NEWLINE)  # a file may hold an audio or text tower beside
_GATED = {"silu": "swiglu", "gelu_tanh": "geglu"}


class _Spans:
    """spans (tokens, 2) on a device, and how many keys all of them hold."""

    def __init__(self, device, spans):
        self.buffer = device.upload(np.ascontiguousarray(spans, np.uint32), "spans")
        self.seen = int(np.sum(spans[:, 1].astype(np.int64) - spans[:, 0] + 1))


def _flat(tensor):
    """A kernel of patches (patch, patch, 3, D) as the matrix of its rows, else the tensor."""
    if len(tensor.shape) != 4:
        return tensor
    *inputs, outputs = tensor.shape
    return Tensor((int(np.prod(inputs)), outputs), tensor.type, tensor.data)

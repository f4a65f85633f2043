"""An image tower and its projector in NumPy: pixels -> tokens of a text model.

Patches stay in the order of the picture throughout; windows are a mask, and merging a reshape. P
patches, D width, H heads, HD head width, L blocks; `VisionConfig` has the rest.
CLIP, arXiv:2103.00020; SigLIP, arXiv:2303.15343; Qwen2-VL, arXiv:2409.12191; Qwen2.5-VL,
arXiv:2502.13923; LLaVA, arXiv:2310.03744; Gemma 3, arXiv:2503.19786; transformers' models of them.
"""

from typing import NamedTuple

import numpy as np

from reference import ops
from reference.quant import FORMATS
from reference.vision_images import fitting, pictures
from reference.weights import Weights
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.vision_config import ROPE_BASE, VisionConfig


class Embedded(NamedTuple):
    """An image as `tokens` (rows · columns, D of the text); of tiles there is no one grid: 0, 0."""

    tokens: np.ndarray
    rows: int
    columns: int


def gelu_quick(x):
    """x · sigmoid(1.702 x) (Hendrycks & Gimpel, 2016)."""
    return ops.silu(1.702 * x) / x.dtype.type(1.702)


ACTIVATIONS = {
    "gelu_quick": gelu_quick,
    "gelu": ops.gelu,
    "gelu_tanh": ops.gelu_tanh,
    "silu": ops.silu,
}


class Tower:
    """The tower and projector of an mmproj file. Errors: FileError, UnsupportedError."""

    def __init__(self, path, dtype):
        gguf = open_gguf(path)
        self.config = VisionConfig.from_gguf(gguf)
        self.config.check_tensors(gguf)
        for name, tensor in gguf.tensors.items():
            if tensor.type not in FORMATS:
                raise UnsupportedError(f"{path}: {name} has type {tensor.type}, which is not read")
        self.dtype = np.dtype(dtype)
        self.weights = Weights(gguf, dtype)

    def embed(self, image):
        """The tokens of an image (a path, PIL image or uint8 array). Errors: InputError."""
        config = self.config
        pixels, size = pictures(image, config)
        rows, columns = (side // config.patch for side in pixels[0].shape[1:])
        tokens = [self._project(self._states(p), rows, columns) for p in pixels]
        rows, columns = rows // config.merge, columns // config.merge
        if len(tokens) > 1:
            return Embedded(self._assembled(tokens, size, rows, columns), 0, 0)
        return Embedded(tokens[0], rows, columns)

    def _states(self, pixels):
        """pixels (3, height, width) -> the chosen hidden states of every patch, (P, n · D)."""
        config, weights = self.config, self.weights
        x = self._embedded(pixels.astype(self.dtype))
        rows, columns = (side // config.patch for side in pixels.shape[1:])
        table = self._rope_table(rows, columns) if config.spec.positions == "rope" else None
        window = self._same_window(rows, columns) if config.window is not None else None
        if config.pre_norm:
            x = self._norm(x, "v.pre_ln")
        states = [x]
        for i in range(config.L):
            x = self._block(f"v.blk.{i}.", x, table, None if config.full[i] else window)
            states.append(x)
        if config.post_norm:
            states[-1] = self._norm(x, "v.post_ln")
        first = 1 if "v.class_embd" in weights else 0  # the class token has done its part
        return np.concatenate([states[i][first:] for i in config.features], axis=1)

    def _embedded(self, pixels):
        """(P, D), or (P + 1, D) with the class token first: patches, and where each is."""
        size, weights = self.config.patch, self.weights
        _, height, width = pixels.shape
        kernel = weights.array("v.patch_embd.weight")
        if "v.patch_embd.weight.1" in weights:  # a still image is both frames of the kernel
            kernel = kernel + weights.array("v.patch_embd.weight.1")
        x = [
            kernel.reshape(len(kernel), -1) @ pixels[:, y : y + size, x : x + size].reshape(-1)
            for y in range(0, height - size + 1, size)
            for x in range(0, width - size + 1, size)
        ]
        x = np.stack(x)
        if "v.patch_embd.bias" in weights:
            x = x + weights.array("v.patch_embd.bias")
        if "v.class_embd" in weights:
            x = np.vstack([weights.array("v.class_embd").reshape(1, -1), x])
        if self.config.spec.positions == "learned":
            x = x + weights.array("v.position_embd.weight")
        return x

    def _rope_table(self, rows, columns):
        """cos and sin (P, HD/2): the first half of the pairs turns by the row of a patch."""
        quarter = self.config.HD // 4
        frequency = ROPE_BASE ** (-np.arange(quarter) / quarter)
        row, column = np.divmod(np.arange(rows * columns), columns)
        angle = np.hstack([np.outer(row, frequency), np.outer(column, frequency)])
        return np.cos(angle), np.sin(angle)

    def _same_window(self, rows, columns):
        """bool (P, P): whether two patches lie in one square of `window` pixels."""
        side = self.config.window // self.config.patch
        side -= side % self.config.merge  # squares of whole tokens
        row, column = np.divmod(np.arange(rows * columns), columns)
        square = (row // side) * columns + column // side
        return square[:, None] == square[None, :]

    def _block(self, blk, x, table, visible):
        """One attention + feed-forward block: x (P, D) -> (P, D)."""
        config = self.config
        normed = self._norm(x, blk + "ln1")
        q, k, v = (
            self._linear(normed, f"{blk}attn_{name}").reshape(len(x), config.H, config.HD)
            for name in "qkv"
        )
        if table is not None:
            q, k = ops.rope(q, *table, "half"), ops.rope(k, *table, "half")
        attn = np.empty_like(q)
        for h in range(config.H):
            scores = q[:, h] @ k[:, h].T * self.dtype.type(config.HD**-0.5)
            if visible is not None:
                scores[~visible] = -np.inf
            attn[:, h] = ops.softmax(scores) @ v[:, h]
        x = x + self._linear(attn.reshape(len(x), config.D), blk + "attn_out")
        return x + self._ffn(blk, self._norm(x, blk + "ln2"))

    def _ffn(self, blk, x):
        """x (P, D), normed -> (P, D)."""
        activation = ACTIVATIONS[self.config.activation]
        up, down = self.config.ffn_names
        y = self._linear(x, blk + up)
        if blk + "ffn_gate.weight" in self.weights:
            y = activation(self._linear(x, blk + "ffn_gate")) * y
        else:
            y = activation(y)
        return self._linear(y, blk + down)

    def _project(self, x, rows, columns):
        """States (P, n · D) -> tokens of the text model (P / merge², out)."""
        config, n = self.config, self.config.merge
        squares = x.reshape(rows // n, n, columns // n, n, -1).transpose(0, 2, 1, 3, 4)
        squares = squares.reshape(rows * columns // n**2, n * n, -1)
        if "mm.input_projection.weight" in self.weights:
            x = ops.rmsnorm(
                squares.mean(axis=1), self.weights.array("mm.soft_emb_norm.weight"), config.eps
            )
            return x @ self.weights.array("mm.input_projection.weight")
        hidden = self._linear(squares.reshape(len(squares), -1), "mm.0")
        return self._linear(ops.gelu(hidden), "mm.2")

    def _assembled(self, tokens, size, rows, columns):
        """The whole image, then the picture that the tiles make, each of its rows ended.

        tokens: of every picture, (rows · columns, D). What the tiles show beside the image, to
        fill their resolution, is cut off again (LLaVA 1.6: "spatial_unpad").
        """
        whole, tiles = tokens[0], np.stack(tokens[1:])
        if not self.config.newline:
            return np.concatenate(tokens)
        scale = [pixels / self.config.image_size for pixels in fitting(size, self.config)]
        down, across = (round(s) for s in scale)
        picture = tiles.reshape(down, across, rows, columns, -1).transpose(0, 2, 1, 3, 4)
        picture = picture.reshape(down * rows, across * columns, -1)
        picture = unpadded(picture, *size)
        newline = np.broadcast_to(
            self.weights.array("model.image_newline").reshape(-1),
            (len(picture), 1, picture.shape[2]),
        )
        picture = np.concatenate([picture, newline], axis=1)
        return np.concatenate([whole, picture.reshape(-1, picture.shape[2])])

    def _linear(self, x, name):
        """x Wᵀ + b; the bias is added if the file has one."""
        y = self.weights.matmul(x, name + ".weight")
        return y + self.weights.array(name + ".bias") if name + ".bias" in self.weights else y

    def _norm(self, x, name):
        weight, eps = self.weights.array(name + ".weight"), self.config.eps
        if self.config.norm == "rms":
            return ops.rmsnorm(x, weight, eps)
        bias = self.weights.array(name + ".bias") if name + ".bias" in self.weights else None
        return ops.layernorm(x, weight, bias, eps)


def unpadded(picture, width, height):
    """picture (rows, columns, D) without the rows or columns that an image left empty."""
    rows, columns = picture.shape[:2]
    if width / height > columns / rows:
        filled = int(round(height * (columns / width), 7))
        empty = (rows - filled) // 2
        return picture[empty : rows - empty]
    filled = int(round(width * (rows / height), 7))
    empty = (columns - filled) // 2
    return picture[:, empty : columns - empty]

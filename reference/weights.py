"""The tensors of a GGUF file as arrays, dequantised a piece at a time."""

import numpy as np

from reference.quant import dequantize
from zerfoo_numba.gguf_file import TYPE_BY_NAME

CHUNK_ELEMENTS = 1 << 23  # 32 MB of float32: what one step of a large matrix product holds
CACHE_BYTES = 512 << 20  # small models stay dequantised as a whole


class Weights:
    """Dequantised tensors of `gguf` in `dtype`; `name in weights` says whether the file has one."""

    def __init__(self, gguf, dtype):
        self.tensors = gguf.tensors
        self.dtype = np.dtype(dtype)
        self._cache = {}
        self._cached_bytes = 0

    def __contains__(self, name):
        return name in self.tensors

    def array(self, name):
        """The whole tensor, its shape reversed(ne): a weight row is one row of the array."""
        tensor = self.tensors[name]
        if name not in self._cache:
            array = dequantize(tensor.data, tensor.type, tensor.shape).astype(
                self.dtype, copy=False
            )
            # A walk visits the layers in turn: what came first is as good to keep as what came last
            if self._cached_bytes + array.nbytes > CACHE_BYTES:
                return array
            self._cache[name] = array
            self._cached_bytes += array.nbytes
        return self._cache[name]

    def rows(self, name, index):
        """Rows of a matrix, dequantised alone; index (T,) integers or a slice."""
        tensor = self.tensors[name]
        width, count = tensor.shape
        kind = TYPE_BY_NAME[tensor.type]
        row_bytes = width // kind.block_size * kind.block_bytes
        data = np.ascontiguousarray(tensor.data.reshape(count, row_bytes)[index])
        shape = (width, data.shape[0])
        return dequantize(data.reshape(-1), tensor.type, shape).astype(self.dtype, copy=False)

    def expert(self, name, e):
        """Matrix e (N, K) of a tensor (E, N, K), dequantised alone."""
        tensor = self.tensors[name]
        data = tensor.data.reshape(tensor.shape[2], -1)[e]
        return dequantize(data, tensor.type, tensor.shape[:2]).astype(self.dtype, copy=False)

    def matmul(self, x, name):
        """x Wᵀ with the matrix `name`, a file's (out, in) rows: x (T, in) -> (T, out)."""
        width, count = self.tensors[name].shape
        if width * count <= CHUNK_ELEMENTS:
            return x @ self.array(name).T
        y = np.empty((len(x), count), self.dtype)
        step = max(1, CHUNK_ELEMENTS // width)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            y[:, rows] = x @ self.rows(name, rows).T
        return y

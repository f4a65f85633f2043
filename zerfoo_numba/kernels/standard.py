"""The standard kernels: the product of the short lists of compile-time constants.

Each is compiled, checked for spills and forbidden instructions, and listed in reports/kernels.md.
"""

import itertools

import numpy as np

from zerfoo_numba.kernels import (
    activation,
    add,
    argmax,
    attention,
    embed,
    layernorm,
    matvec,
    matvec_int8,
    quantize,
    rmsnorm,
    rope,
)
from zerfoo_numba.kernels.kv import CACHE_TYPES
from zerfoo_numba.ptx.compile import Pointer
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS

F32, U32, U8 = Pointer(np.dtype("f4")), Pointer(np.dtype("u4")), Pointer(np.dtype("u1"))
f, u = np.float32(0), np.uint32(0)


def standard_kernels():
    """(name, kernel, example arguments) of every kernel that some model may launch."""
    yield "rmsnorm_kernel1", rmsnorm.rmsnorm_kernel1, (F32, F32, F32, u, f, f)
    for kernel, name in (
        (rmsnorm.rmsnorm_kernel2, "rmsnorm_kernel2"),
        (rmsnorm.add_rmsnorm_kernel2, "add_rmsnorm_kernel2"),
    ):
        yield name, kernel, (F32, F32, F32, F32, u, f, f)
    for kernel, name in (
        (layernorm.layernorm_kernel1, "layernorm_kernel1"),
        (layernorm.add_layernorm_kernel1, "add_layernorm_kernel1"),
    ):
        yield name, kernel, (F32, F32, F32, F32, F32, u, f, f, u)
    yield "add_kernel1", add.add_kernel1, (F32, F32, u)
    for kind, kernel in activation.KERNELS.items():
        yield f"{kind}_kernel1", kernel, (F32, F32, F32, u)
    for kind, kernel in activation.PLAIN_KERNELS.items():
        yield f"{kind}_kernel1", kernel, (F32, F32, u)
    yield "softcap_kernel1", activation.softcap_kernel1, (F32, f, u)
    yield "scale_kernel1", activation.scale_kernel1, (F32, f, u)
    yield "argmax_kernel1", argmax.argmax_kernel1, (U32, U32, U32, F32, u, u)
    yield "advance_kernel1", argmax.advance_kernel1, (U32, u)
    yield "quantize_kernel1", quantize.quantize_kernel1, (U32, F32, F32, u, u)
    yield from _by_block_format()
    yield from _by_packed_layout()
    yield from _by_cache_type()


def _by_block_format():
    for name in QUANTS:
        yield f"embed_kernel1 {name}", embed.make_embed_kernel1(name), (F32, U8, U32, u, f)
        for tile in (1, matvec.TILE):
            kernel = matvec.make_matvec_kernel1(name, tile)
            yield f"matvec_kernel1 {name} tile {tile}", kernel, (F32, U8, F32, F32, u, u, u, u)


def _by_packed_layout():
    for name in LAYOUTS:
        kernel = embed.make_embed_packed_kernel1(name)
        yield f"embed_packed_kernel1 {name}", kernel, (F32, U8, U32, u, u, f)
        for tile, alone in itertools.product((1, matvec_int8.TILE), (True, False)):
            kernel = matvec_int8.make_matvec_int8_kernel2(name, tile, alone)
            args = (F32, U8, U32, F32, F32, u, u, u, u, u, u)
            warps = "one warp" if alone else "warps"
            yield f"matvec_int8_kernel2 {name} tile {tile} {warps}", kernel, args


def _by_cache_type():
    for cache in CACHE_TYPES.values():
        kv = Pointer(np.dtype(cache.dtype))
        for pairs in ("half", "interleaved"):
            for norm in (None, "rms", "layer"):
                kernel = rope.make_rope_kernel1(pairs, norm, norm, cache.name)
                arrays = (F32, F32, F32, kv, kv, F32, F32, F32, F32, U32)
                name = f"rope_kernel1 {pairs} {norm + ' norm ' if norm else ''}{cache.name}"
                yield name, kernel, (*arrays, u, u, u, u, u, u, u, f, f)
        for width, parts in attention.head_shapes():
            for capped in (False, True):
                options = (width, parts, cache.name, capped)
                name = f"width {width or f'up to {32 * parts}'} {cache.name}{' capped' * capped}"
                args = (F32, F32, kv, kv, U32, u, u, u, u, f, u, f)
                prefill, decode = attention.make_prefill_kernel1, attention.make_decode_kernel1
                yield f"attention_prefill_kernel1 {name}", prefill(*options), args
                yield f"attention_decode_kernel1 {name}", decode(*options), args

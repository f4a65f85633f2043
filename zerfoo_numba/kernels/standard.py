"""The standard kernels: the product of the short lists of compile-time constants.

Each is compiled, checked for spills and forbidden instructions, and listed in reports/kernels.md.
"""

import itertools

import numpy as np

from zerfoo_numba.kernels import (
    activation,
    add,
    argmax,
    attention_append,
    attention_decode,
    attention_tile,
    conv,
    embed,
    experts_sum,
    group_norm,
    join,
    layernorm,
    low_rank,
    matmul,
    matmul_int8,
    matmul_mma,
    matvec,
    matvec_experts,
    matvec_group,
    matvec_int8,
    matvec_prologue,
    nonfinite,
    pack,
    pool,
    quantize,
    rmsnorm,
    rope,
    router,
    sample,
    sample_part,
    selective_scan,
    split,
    token_shift,
    vision_attention,
    wkv6,
    wkv7,
    wkv7_inputs,
)
from zerfoo_numba.kernels.heads import head_shapes
from zerfoo_numba.kernels.kv import CACHE_TYPES
from zerfoo_numba.ptx.compile import Pointer
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS

F32, U32, U8 = Pointer(np.dtype("f4")), Pointer(np.dtype("u4")), Pointer(np.dtype("u1"))
f, u = np.float32(0), np.uint32(0)
_SAMPLE_PART = (U32, U32, U32, F32, U32, U32, U32, F32)
_SAMPLE_JOIN = (U32, U32, U32, U32, U32, U32, U32, U32, F32)


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
    yield "add_positions_kernel1", add.add_positions_kernel1, (F32, F32, U32, u)
    for kind, kernel in activation.KERNELS.items():
        yield f"{kind}_kernel1", kernel, (F32, F32, F32, u)
    for kind, kernel in activation.PLAIN_KERNELS.items():
        yield f"{kind}_kernel1", kernel, (F32, F32, u)
    for parts in vision_attention.PARTS:
        kernel = vision_attention.make_vision_attention_kernel1(parts)
        name = f"vision_attention_kernel1 width up to {32 * parts}"
        yield name, kernel, (F32, F32, F32, F32, U32, u, u, u, f)
    yield "pool_kernel1", pool.pool_kernel1, (F32, F32, u, u, f)
    yield "join_kernel1", join.join_kernel1, (F32, F32, u, u, u)
    yield "softcap_kernel1", activation.softcap_kernel1, (F32, f, u)
    yield "scale_kernel1", activation.scale_kernel1, (F32, f, u)
    yield "argmax_kernel1", argmax.argmax_kernel1, (U32, U32, U32, F32, u, u)
    yield "advance_kernel1", argmax.advance_kernel1, (U32, u)
    yield "nonfinite_kernel1", nonfinite.nonfinite_kernel1, (U32, F32, u)
    yield "sample_part_kernel1", sample_part.sample_part_kernel1, (*_SAMPLE_PART, u, u)
    yield "sample_join_kernel1", sample.sample_join_kernel1, (*_SAMPLE_JOIN, u, u)
    yield "quantize_kernel1", quantize.quantize_kernel1, (U32, F32, F32, u, u)
    yield from _of_experts()
    yield from _by_block_format()
    yield from _by_packed_layout()
    yield from _merged()
    yield from _with_prologue()
    yield from _with_append()
    yield from _by_cache_type()
    yield from _recurrent()


def _of_experts():
    yield "route_kernel1", router.route_kernel1, (U32, F32, F32, u, u, u, u, f)
    yield "place_kernel1", router.place_kernel1, (U32, U32, U32, U32, u, u, u)
    yield "gather_kernel1", router.gather_kernel1, (F32, F32, U32, u, u)
    args = (F32, F32, F32, U32, u, u, u)
    yield "experts_sum_kernel1", experts_sum.experts_sum_kernel1, args
    yield "add_shared_kernel1", experts_sum.add_shared_kernel1, (F32, F32, F32, F32, u)
    for name, tile in itertools.product(QUANTS, (1, router.TILE)):
        kernel = matvec_experts.make_matvec_experts_kernel1(name, tile)
        args = (F32, U8, F32, U32, u, u, u)
        yield f"matvec_experts_kernel1 {name} tile {tile}", kernel, args
    for name, tile, alone in itertools.product(LAYOUTS, (1, router.TILE), (True, False)):
        kernel = matvec_experts.make_matvec_experts_int8_kernel1(name, tile, alone)
        args = (F32, U8, U32, F32, U32, u, u, u, u, u, u, u)
        warps = "one warp" if alone else "warps"
        yield f"matvec_experts_int8_kernel1 {name} tile {tile} {warps}", kernel, args


def _by_block_format():
    for name in QUANTS:
        yield f"embed_kernel1 {name}", embed.make_embed_kernel1(name), (F32, U8, U32, u, f)
        for tile in (1, matvec.TILE):
            kernel = matvec.make_matvec_kernel2(name, tile)
            yield f"matvec_kernel2 {name} tile {tile}", kernel, (F32, U8, F32, F32, u, u, u, u)
        kernel = matmul.make_matmul_kernel1(name)
        yield f"matmul_kernel1 {name}", kernel, (F32, U8, F32, F32, u, u, u, u, u)


def _by_packed_layout():
    for name in LAYOUTS:
        yield f"pack_kernel1 {name}", pack.make_pack_kernel1(name), (U8, U8, u, u, u)
        kernel = embed.make_embed_packed_kernel1(name)
        yield f"embed_packed_kernel1 {name}", kernel, (F32, U8, U32, u, u, f)
        for tile, alone in itertools.product((1, matvec_int8.TILE), (True, False)):
            kernel = matvec_int8.make_matvec_int8_kernel2(name, tile, alone)
            args = (F32, U8, U32, F32, F32, u, u, u, u, u, u)
            warps = "one warp" if alone else "warps"
            yield f"matvec_int8_kernel2 {name} tile {tile} {warps}", kernel, args
        kernel = matmul_int8.make_matmul_int8_kernel1(name)
        yield f"matmul_int8_kernel1 {name}", kernel, (F32, U8, U32, F32, F32, u, u, u, u, u, u)
        kernel = matmul_mma.make_matmul_mma_kernel1(name)
        yield f"matmul_mma_kernel1 {name}", kernel, (F32, U8, U32, F32, F32, u, u, u, u, u)


def _merged():
    for types in matvec_group.GROUPS:
        kernel, name = matvec_group.make_matvec_group_kernel1(types), " ".join(types)
        args = (*(F32,) * 3, *(U8,) * 3, *(F32,) * 3, U32, F32, *(u,) * 11)
        yield f"matvec_group_kernel1 {name}", kernel, args
    for kind, (gate, up) in itertools.product(matvec_group.ACTS, matvec_group.GATED):
        kernel = matvec_group.make_matvec_gated_kernel1(gate, up, kind)
        args = (F32, U8, U8, F32, F32, U32, F32, *(u,) * 7)
        yield f"matvec_gated_kernel1 {kind} {gate} {up}", kernel, args


def _with_prologue():
    operand, last = (F32,) * 5, (f, f, u)
    for types in (*matvec_prologue.SINGLES, *matvec_group.GROUPS):
        kernel = matvec_prologue.make_matvec_prologue_kernel1(types)
        args = (*(F32,) * 3, *(U8,) * 3, *(F32,) * 3, *operand, *(u,) * 15, *last)
        yield f"matvec_prologue_kernel1 {' '.join(filter(None, types))}", kernel, args
    for kind, (gate, up) in itertools.product(matvec_group.ACTS, matvec_group.GATED):
        kernel = matvec_prologue.make_matvec_gated_prologue_kernel1(gate, up, kind)
        args = (F32, U8, U8, F32, F32, *operand, *(u,) * 11, *last)
        yield f"matvec_gated_prologue_kernel1 {kind} {gate} {up}", kernel, args


def _with_append():
    kv, types = Pointer(np.dtype("u2")), attention_decode.USUAL
    args = (*(F32,) * 4, kv, kv, *(F32,) * 4, U32, U32, F32, U32, *(u,) * 12, *(f,) * 4)
    for width, pairs, norm in attention_append.USUAL:
        for tile in attention_decode.tiles(width // 32):
            shape = (width, width // 32, tile, *types, pairs, False, norm, norm)
            name = f"width {width} {pairs} {norm + ' norm ' if norm else ''}f16 tile {tile}"
            yield (
                f"attention_append_kernel1 {name}",
                attention_append.make_append_kernel1(*shape),
                args,
            )


def _rope_arguments(kv):
    return (F32, F32, F32, kv, kv, F32, F32, F32, F32, U32, U32, *(u,) * 10, f, f)


def _by_cache_type():
    for cache in CACHE_TYPES.values():
        kv, types = Pointer(np.dtype(cache.dtype)), (cache.name, cache.name)
        for pairs in ("half", "interleaved"):
            for norm in (None, "rms", "layer"):
                kernel = rope.make_rope_kernel1(pairs, False, norm, norm, *types)
                name = f"rope_kernel1 {pairs} {norm + ' norm ' if norm else ''}{cache.name}"
                yield name, kernel, _rope_arguments(kv)
        kernel = rope.make_rope_kernel1("half", True, None, None, *types)
        yield f"rope_kernel1 half sections {cache.name}", kernel, _rope_arguments(kv)
        for width, parts in head_shapes():
            name = f"width {width or f'up to {32 * parts}'} {cache.name}"
            kernel = attention_tile.make_prefill_kernel2(width, parts, *types)
            args = (F32, F32, kv, kv, U32, U32, *(u,) * 6, f, u, u, f)
            yield f"attention_prefill_kernel2 {name}", kernel, args
        for width, parts in attention_decode.kernel_shapes(types):
            name = f"width {width or f'up to {32 * parts}'} {cache.name}"
            for tile in attention_decode.tiles(parts):
                kernel = attention_decode.make_decode_kernel1(width, parts, tile, *types)
                args = (F32, F32, kv, kv, U32, F32, U32, *(u,) * 6, f, u, f)
                yield f"attention_decode_kernel1 {name} tile {tile}", kernel, args


def _recurrent():
    yield "conv_kernel1", conv.conv_kernel1, ((F32,) * 5 + (u,) * 6)
    yield "split_kernel1", split.split_kernel1, (F32, F32, u, u, u, f, u)
    scans = [("scan_kernel1", selective_scan.scan_kernel1)]
    scans += [
        (f"scan_kernel2 {n}", selective_scan.make_scan_kernel2(n)) for n in selective_scan.STATES
    ]
    for name, kernel in scans:
        yield name, kernel, ((F32,) * 9 + (u,) * 3)
    yield "token_shift_kernel1", token_shift.token_shift_kernel1, ((F32,) * 5 + (u,) * 5)
    for tile in (1, low_rank.TILE):
        kernel = low_rank.make_low_rank_kernel1(tile)
        yield f"low_rank_kernel1 tile {tile}", kernel, (F32, F32, F32, u, u, u, u)
    yield "wkv6_kernel1", wkv6.wkv6_kernel1, ((F32,) * 7 + (u,) * 3)
    yield "wkv7_kernel1", wkv7.wkv7_kernel1, ((F32,) * 8 + (u,) * 3)
    for width in wkv6.WIDTHS:
        yield f"wkv6_kernel2 {width}", wkv6.make_wkv6_kernel2(width), ((F32,) * 7 + (u,) * 3)
        yield f"wkv7_kernel2 {width}", wkv7.make_wkv7_kernel2(width), ((F32,) * 8 + (u,) * 3)
    for mixed in (False, True):
        kernel = wkv7_inputs.make_wkv7_inputs_kernel1(mixed)
        yield f"wkv7_inputs_kernel1{' mixed' * mixed}", kernel, ((F32,) * 10 + (u,))
    for bonus, gating in ((False, "silu"), (True, "plain"), (True, None)):
        kernel = group_norm.make_group_norm_kernel1(bonus, gating)
        name = f"group_norm_kernel1 {gating or 'no'} gate{' bonus' * bonus}"
        yield name, kernel, ((F32,) * 9 + (u, f))

"""cvt: between every pair of scalar types, and the packed conversions.

Types narrower than the register that holds them are passed at their own width; the engine
truncates a source register, and sign- or zero-extends a result as its type says.
"""

import numpy as np

from zerfoo_numba.ptx.emulator.arithmetic_formats import FORMATS, tf32
from zerfoo_numba.ptx.emulator.arithmetic_integer import clamp
from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    DTYPES,
    Operation,
    UnsupportedInstruction,
    bits_of,
    halves,
    join,
)
from zerfoo_numba.ptx.emulator.arithmetic_rounding import (
    MODES,
    flush,
    odd,
    rectify,
    saturate,
    settle,
    sum_error,
    to_f32,
)

_INTEGERS = ("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64")
_FLOATS = ("f16", "bf16", "f32", "f64")
_TO_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_PACKED = ("f16x2", "bf16x2", "e4m3x2", "e5m2x2", "e2m3x2", "e3m2x2", "e2m1x2")
_SIZE = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}


def _integer_to_integer(op, source, result):
    dtype = DTYPES[result]
    if not op.has("sat"):
        return lambda a: a.astype(dtype)
    return lambda a: clamp(a, result)


def _wide_sum(a):
    """A 64-bit integer as the nearest float64 and what is missing to it."""
    high = np.multiply(np.right_shift(a, a.dtype.type(32)).astype(np.float64), 2.0**32)
    low = np.bitwise_and(a, a.dtype.type(0xFFFFFFFF)).astype(np.float64)
    total = np.add(high, low)
    return total, sum_error(high, low, total)


def _integer_to_float(op, source, result):
    mode = op.need(*MODES)
    if mode == "rn" and result in ("f32", "f64"):
        dtype = DTYPES[result]
        return lambda a: a.astype(dtype)
    if result == "f64":
        return lambda a: settle(*_wide_sum(a.astype(f"{a.dtype.kind}8")), mode)

    def exact(a):
        return odd(*_wide_sum(a)) if a.itemsize == 8 else a.astype(np.float64)

    if result == "f32":
        return lambda a: to_f32(exact(a), mode)
    form = FORMATS[result]
    return lambda a: form.encode(exact(a), mode)


def _load(kind, ftz):
    """A float operand's values, at least float32."""
    if kind in FORMATS:
        return FORMATS[kind].decode
    return flush if ftz and kind == "f32" else lambda a: a


def _float_to_integer(op, source, result):
    rounding = _TO_INTEGRAL[op.need(*_TO_INTEGRAL)]
    ftz = op.has("ftz")
    op.has("sat")  # redundant: these conversions always saturate
    load = _load(source, ftz)
    bits = bits_of(result)
    limit = np.iinfo(DTYPES[result])
    for_nan = 0 if source != "f64" and bits < 64 else limit.min or 1 << bits - 1
    finish = _saturate_64 if bits == 64 else _saturate_32

    def convert(a):
        return finish(rounding(load(a)).astype(np.float64), limit, for_nan)

    return convert


def _saturate_32(x, limit, for_nan):
    clipped = np.minimum(np.maximum(x, float(limit.min)), float(limit.max))
    nan = np.isnan(x)
    if nan.any():
        clipped = np.where(nan, float(for_nan), clipped)[()]
    return clipped.astype(limit.dtype)


def _saturate_64(x, limit, for_nan):
    word = limit.dtype.type
    over = np.greater_equal(x, float(limit.max))  # the float is limit.max + 1
    nan = np.isnan(x)
    inside = np.where(over | nan, 0.0, np.maximum(x, float(limit.min)))
    result = np.where(over, word(limit.max), inside.astype(word))
    return np.where(nan, word(for_nan), result)[()]


def _float_to_float(op, source, result):
    integral = op.take(*_TO_INTEGRAL)
    mode = op.take(*MODES)
    ftz, sat = op.has("ftz"), op.has("sat")
    relu, finite = op.has("relu"), op.has("satfinite")
    if ftz and "f32" not in (source, result):
        raise UnsupportedInstruction(op.text)
    if integral and _SIZE[source] != _SIZE[result]:
        raise UnsupportedInstruction(op.text)
    load, store = _load(source, ftz), _store(op, source, result, mode, ftz, finite)

    def convert(a):
        x = load(a)
        if integral:
            x = _TO_INTEGRAL[integral](x)
        if sat:
            x = saturate(x)
        return store(rectify(x) if relu else x)

    return convert


def _store(op, source, result, mode, ftz, finite):
    """From values of `source`'s precision to `result`, rounding where that loses bits."""
    loses = _SIZE[source] > _SIZE[result] or {source, result} == {"f16", "bf16"}
    if loses != (mode is not None) and not (mode and result == "f64"):
        raise UnsupportedInstruction(op.text)
    if finite and (source != "f32" or result not in FORMATS):
        raise UnsupportedInstruction(op.text)
    if result in FORMATS:
        form = FORMATS[result]
        return lambda x: form.encode(x, mode or "rn", finite)
    if result == "f64":
        return lambda x: x.astype(np.float64)
    if ftz:
        return lambda x: flush(to_f32(x, mode or "rn"))
    return lambda x: to_f32(x, mode or "rn")


def _to_pair(op, result, source):
    """Two float32 (the first into the upper half) or a packed pair to a packed pair."""
    form = FORMATS[result[:-2]]
    mode = op.need("rn", "rz")
    relu, finite = op.has("relu"), op.has("satfinite")
    small = form.bits <= 8
    if small and (mode != "rn" or not finite):
        raise UnsupportedInstruction(op.text)
    width = np.uint16(4 if form.bits == 4 else 8)

    def encode(x):
        return form.encode(rectify(x) if relu else x, mode, finite)

    def together(high, low):
        if not small:
            return join(encode(low), encode(high))
        high = np.left_shift(encode(high).astype(np.uint16), width)
        code = np.bitwise_or(high, encode(low))
        return code.astype(np.uint8) if form.bits == 4 else code

    word = "b32" if not small else "b8" if form.bits == 4 else "b16"
    if source == "f32":
        return Operation(("f32", "f32"), (word,), together)
    if source not in ("f16x2", "bf16x2") or not small:
        raise UnsupportedInstruction(op.text)
    decode = FORMATS[source[:-2]].decode

    def from_pair(a):
        low, high = halves(a)
        return together(decode(high), decode(low))

    return Operation(("b32",), (word,), from_pair)


def _from_pair(op, result, source):
    """A packed pair of 8, 6 or 4-bit floats to f16x2."""
    form, half = FORMATS[source[:-2]], FORMATS["f16"]
    op.need("rn")
    relu = op.has("relu")
    if result != "f16x2":
        raise UnsupportedInstruction(op.text)
    width = 4 if form.bits == 4 else 8
    mask = (1 << form.bits) - 1

    def widen(code):
        x = form.decode(np.bitwise_and(code, code.dtype.type(mask)))
        return half.encode(rectify(x) if relu else x)

    def convert(a):
        return join(widen(a), widen(np.right_shift(a, a.dtype.type(width))))

    return Operation(("b8" if width == 4 else "b16",), ("b32",), convert)


def _to_tf32(op):
    mode = op.need("rna", "rn", "rz")
    relu, finite = op.has("relu"), op.has("satfinite")
    return Operation(("f32",), ("b32",), lambda a: tf32(rectify(a) if relu else a, mode, finite))


def _pack_saturated(op):
    """cvt.pack.sat: two s32 clamped, `a` above `b`, the low bits of `c` above both."""
    source, kind = op.parts.pop(), op.take("u16", "s16")
    op.need("sat")
    if kind:
        if source != "s32":
            raise UnsupportedInstruction(op.text)
        return Operation(
            ("s32", "s32"),
            ("b32",),
            lambda a, b: join(clamp(b, kind).view(np.uint16), clamp(a, kind).view(np.uint16)),
        )
    kind = op.need("u2", "s2", "u4", "s4", "u8", "s8")
    if source != "b32" or not op.has("s32"):
        raise UnsupportedInstruction(op.text)
    width = int(kind[1])
    low = -(1 << width - 1) if kind[0] == "s" else 0
    high = low + (1 << width) - 1
    mask = np.uint32((1 << width) - 1)

    def pack(a, b, c):
        a, b = (np.clip(x, np.int32(low), np.int32(high)).view(np.uint32) & mask for x in (a, b))
        both = np.bitwise_or(np.left_shift(a, np.uint32(width)), b)
        return np.bitwise_or(np.left_shift(c, np.uint32(2 * width)), both)

    return Operation(("s32", "s32", "b32"), ("b32",), pack)


def _cvt(op):
    if op.has("pack"):
        return _pack_saturated(op)
    kinds = (*_INTEGERS, *_FLOATS, *_PACKED, "tf32")
    source = op.kind(*kinds)
    result = op.kind(*kinds)
    if result == "tf32" and source == "f32":
        return _to_tf32(op)
    if result in _PACKED and source in ("f32", "f16x2", "bf16x2"):
        return _to_pair(op, result, source)
    if source in _PACKED and result in _PACKED:
        return _from_pair(op, result, source)
    if source not in (*_INTEGERS, *_FLOATS) or result not in (*_INTEGERS, *_FLOATS):
        raise UnsupportedInstruction(op.text)
    if source in _INTEGERS:
        build = _integer_to_integer if result in _INTEGERS else _integer_to_float
    else:
        build = _float_to_integer if result in _INTEGERS else _float_to_float
    return Operation((source,), (result,), build(op, source, result))


CONVERT = {"cvt": _cvt}

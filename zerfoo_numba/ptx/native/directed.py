"""float64 arithmetic in the rounding modes rz, rm and rp: the CPU's own, set for one operation.

LLVM's constrained intrinsics (LLVM Language Reference, "Constrained Floating-Point Intrinsics").
"""

from zerfoo_numba.ptx.native.lanes import vector
from zerfoo_numba.ptx.native.text import float_text, wide
from zerfoo_numba.ptx.native.value import Value, uniform

# PTX mode -> LLVM's name of it, and its number for llvm.set.rounding.
_MODES = {"rz": ("towardzero", 0), "rp": ("upward", 2), "rm": ("downward", 3)}
_NAMES = {
    "add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "fma": "fma", "mad": "fma",
    "sqrt": "sqrt",
}  # fmt: skip


def directed_double(code, name, mode, values):
    """`name` of float64 values, rounded by `mode`."""
    if name == "rcp":
        name, values = "div", [uniform("double", float_text(1.0, "double")), *values]
    return _constrained(code, _NAMES[name], "v32f64", mode, values, "double")


def directed_conversion(code, name, mode, value):
    """sitofp or uitofp of a 64-bit integer to float64."""
    return _constrained(code, name, "v32f64.v32i64", mode, [value], "double")


def _constrained(code, function, suffix, mode, values, result):
    kind = values[-1].type
    helper = f"directed.{function}.{mode}"
    if not code.dry:
        write = lambda: _helper(code, helper, function, suffix, mode, len(values), kind)  # noqa: E731
        code.declarations.helper(helper, write)
    arguments = [(wide(v.type), vector(code, v)) for v in values]
    return Value(result, vector=code.call_defined(wide(result), helper, *arguments))


def _helper(code, name, function, suffix, mode, count, kind):
    word, number = _MODES[mode]
    given = [f"{wide(kind)} %{x}" for x in "abc"[:count]]
    full = f"llvm.experimental.constrained.{function}.{suffix}"
    code.declarations.declare(wide("double"), full, [wide(kind)] * count + ["metadata"] * 2)
    code.declarations.declare("void", "llvm.set.rounding", ["i32"])
    return f"""define internal {wide("double")} @{name}({", ".join(given)}) noinline strictfp {{
  call void @llvm.set.rounding(i32 {number}) strictfp
  %r = call {wide("double")} @{full}({", ".join(given)}, metadata !"round.{word}", \
metadata !"fpexcept.ignore") strictfp
  call void @llvm.set.rounding(i32 1) strictfp
  ret {wide("double")} %r
}}"""

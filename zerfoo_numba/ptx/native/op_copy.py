"""cp.async, done at once: a copy is there when the instruction has run."""

from zerfoo_numba.ptx.native import memory
from zerfoo_numba.ptx.native.lanes import vector
from zerfoo_numba.ptx.native.scattered import absolute, fetch, lane_loop, spill
from zerfoo_numba.ptx.native.text import wide
from zerfoo_numba.ptx.structure import Constant


class _Words:
    """Copies are accesses of whole words, as many as there are."""

    type, size, kind, strong, order = "i32", 4, "b32", False, "monotonic"

    def __init__(self, space, count):
        self.space, self.count = space, count


def asynchronous(code, op):
    """cp.async.{ca,cg}.shared.global [to], [from], n{, size}; commit_group; wait_group n"""
    op.need("async")
    if op.take("commit_group", "wait_group", "wait_all"):
        return ()
    op.need("ca", "cg")
    op.need("shared", "shared::cta")
    op.need("global")
    hinted = any("cache_hint" in p for p in op.parts)
    op.parts = [p for p in op.parts if not p.startswith("L2::")]
    to, source, number, *more = op.sources
    more = more[:-1] if hinted else more
    if more and getattr(more[0], "type", "") == "pred":
        raise op.unsupported()
    addresses = [memory.address_of(code, source, "global"), memory.address_of(code, to, "shared")]
    code.settle()
    code.effect()
    if more and not (isinstance(more[0], Constant) and more[0].value == number.value):
        return _partial(code, addresses, number.value, code.read(more[0], "u32"))
    words = number.value // 4
    values = memory.load_from(code, _Words("global", words), addresses[0])
    memory.store_to(code, _Words("shared", words), addresses[1], values)
    return ()


def _partial(code, addresses, nbytes, size):
    """Each lane's own number of source bytes, and zeros behind them."""
    name = f"copy.async.{nbytes}"
    if not code.dry:
        code.declarations.declare("void", "llvm.memcpy.p0.p0.i64", ["ptr", "ptr", "i64", "i1"])
        code.declarations.declare("void", "llvm.memset.p0.i64", ["ptr", "i8", "i64", "i1"])
        code.declarations.helper(name, lambda: _helper(name, nbytes))
    source, to = (vector(code, absolute(code, s, a))
                  for s, a in zip(("global", "shared"), addresses, strict=True))  # fmt: skip
    arguments = ((wide("i64"), source), (wide("i64"), to), (wide("i32"), vector(code, size)))
    code.call_defined("void", name, *arguments, ("i32", code.active))
    return ()


def _helper(name, nbytes):
    kinds = (("a", "i64"), ("b", "i64"), ("n", "i32"))
    return lane_loop(
        name, "void", ", ".join(f"{wide(kind)} %{x}" for x, kind in kinds),
        "\n".join(spill(x, kind) for x, kind in kinds),
        "\n".join(fetch(x, kind) for x, kind in kinds)
        + "\n  %from = inttoptr i64 %a.x to ptr\n  %to = inttoptr i64 %b.x to ptr\n"
        f"  %over = icmp ugt i32 %n.x, {nbytes}\n  %few = select i1 %over, i32 {nbytes}, i32 %n.x\n"
        "  %count = zext i32 %few to i64\n"
        f"  call void @llvm.memset.p0.i64(ptr %to, i8 0, i64 {nbytes}, i1 false)\n"
        "  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %count, i1 false)",
        "  ret void",
    )  # fmt: skip


HANDLERS = {"cp": asynchronous}

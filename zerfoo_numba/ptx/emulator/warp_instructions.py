"""Code for what the lanes of a warp do together."""

from zerfoo_numba.ptx.emulator import warp
from zerfoo_numba.ptx.structure import Pair


def _results(item):
    first = item.operands[0]
    return (*first.items,) if isinstance(first, Pair) else (first, None)


def shuffle(translator, item):
    """shfl.sync.MODE.b32 d|p, a, b, c, membermask"""
    if item.parts[1] != "sync" or item.parts[-1] != "b32":
        raise translator.unsupported(item)
    value, inside = _results(item)
    function = translator.constant(warp.shuffle(item.parts[2]))
    arguments = ", ".join(translator.operand(o, "u32") for o in item.operands[1:])
    translator.lines.append(f"t, p = {function}(g, {arguments})")
    if value is not None:
        translator.assign(value, "t", "u32")
    if inside is not None:
        translator.assign(inside, "p", "pred")
    translator.lines.append("del t, p")


def vote(translator, item):
    """vote.sync.MODE.{pred,b32} d, p, membermask"""
    if item.parts[1] != "sync":
        raise translator.unsupported(item)
    mode = item.parts[2]
    function = translator.constant(warp.vote(mode))
    flags = translator.operand(item.operands[1], "pred")
    mask = translator.operand(item.operands[2], "u32")
    kind = "u32" if mode == "ballot" else "pred"
    translator.assign(item.operands[0], f"{function}(g, {flags}, {mask})", kind)


def active(translator, item):
    function = translator.constant(warp.active_mask)
    translator.assign(item.operands[0], f"{function}(g)", "u32")


def match(translator, item):
    """match.MODE.sync.{b32,b64} d|p, a, membermask"""
    value, agree = _results(item)
    function = translator.constant(warp.match(item.parts[1]))
    wide = "u64" if item.parts[-1] == "b64" else "u32"
    arguments = f"{translator.operand(item.operands[1], wide)}, "
    arguments += translator.operand(item.operands[2], "u32")
    if item.parts[1] == "any":
        translator.assign(value, f"{function}(g, {arguments})", "u32")
        return
    translator.lines.append(f"t, p = {function}(g, {arguments})")
    if value is not None:
        translator.assign(value, "t", "u32")
    if agree is not None:
        translator.assign(agree, "p", "pred")
    translator.lines.append("del t, p")


def elect(translator, item):
    """elect.sync d|p, membermask"""
    leader, is_leader = _results(item)
    mask = translator.operand(item.operands[1], "u32")
    translator.lines.append(f"t, p = {translator.constant(warp.elect)}(g, {mask})")
    if leader is not None:
        translator.assign(leader, "t", "u32")
    translator.assign(is_leader, "p", "pred")
    translator.lines.append("del t, p")


def reduction(translator, item):
    """redux.sync.OP.{u32,s32,b32} d, a, membermask"""
    if item.parts[-1] not in ("u32", "s32", "b32"):
        raise translator.unsupported(item)
    function = translator.constant(warp.redux(item.parts[2], item.parts[-1]))
    value, mask = (translator.operand(o, "u32") for o in item.operands[1:])
    translator.assign(item.operands[0], f"{function}(g, {value}, {mask})", "u32")


EMIT = {
    "activemask": active, "elect": elect, "match": match, "redux": reduction, "shfl": shuffle,
    "vote": vote,
}  # fmt: skip

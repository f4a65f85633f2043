"""Which registers are needed after each instruction of a body that has not been cut into blocks."""

from zerfoo_numba.ptx.effects import results, sources
from zerfoo_numba.ptx.structure import Label


def live_after(body, results=results, sources=sources):
    """Per item of `body`, the set of registers read later before they are written again.

    Backward data flow until nothing changes (Aho et al., Compilers, section 9.2.5).
    """
    labels = {item.name: i for i, item in enumerate(body) if isinstance(item, Label)}
    following = [_following(item, i, labels, len(body)) for i, item in enumerate(body)]
    before = [frozenset()] * (len(body) + 1)
    after = [frozenset()] * len(body)
    changed = True
    while changed:
        changed = False
        for i in reversed(range(len(body))):
            item = body[i]
            after[i] = frozenset().union(*(before[j] for j in following[i]))
            live = after[i]
            if not isinstance(item, Label):
                if item.guard is None:
                    live = live.difference(results(item))
                live = live.union(sources(item))
            changed |= live != before[i]
            before[i] = live
    return after


def _following(item, index, labels, count):
    if not isinstance(item, Label):
        kind = item.parts[0]
        if kind in ("bra", "brx"):
            names = item.operands[:1] if kind == "bra" else item.operands[1:]
            # A label elsewhere is the way out of the body.
            targets = [labels[o.name] for o in names if o.name in labels]
            return targets + ([index + 1] if item.guard is not None else [])
        if kind in ("ret", "exit", "trap") and item.guard is None:
            return []
    return [index + 1] if index + 1 < count else []

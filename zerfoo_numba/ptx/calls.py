"""Calls that cannot be put inline: recursion, and calls through a register.

Such a function stands once in the body. A caller puts what it still needs on the thread's stack,
a variable in local memory, with the number of the place to return to, and branches; `ret` is a
`brx.idx` over all those places. The address of a function is its number, from 1. Local variables
of such a function lie on the stack too, so that each activation has its own.
"""

from collections import Counter
from dataclasses import replace

from zerfoo_numba.ptx.inline import Inliner, call_parts, own_places, pass_in_registers, rename
from zerfoo_numba.ptx.stack import RETURN, Stack
from zerfoo_numba.ptx.structure import (
    Constant,
    Label,
    Pair,
    Register,
    Symbol,
    Vector,
)

MOST_INLINE = 2000  # instructions that the calls of one function may become


def linked_body(module, name):
    """-> the body of entry `name`, without calls, and the variables of it and what it calls."""
    entry = module.functions[name]
    apart, together = _apart(module, entry)
    inliner = Inliner(module, set(apart))
    kept = {v.name for v in entry.parameters}
    body, uneven = pass_in_registers(inliner.expand(entry.body, ""), kept)
    owned = [v for n in together for v in module.functions[n].variables if v.space != "param"]
    shared = (v for n in apart for v in module.functions[n].variables)
    owned += [v for v in shared if v.space not in ("param", "local")]
    variables = [*owned, *uneven]
    if not apart and not any(_is_call(item) for item in body):
        return body, variables
    stack = Stack({f: i + 1 for i, f in enumerate(apart)}, module.functions)
    result = [*stack.start(), *stack.with_calls(body, "", {})]
    for function in map(module.functions.get, apart):
        own, more = _own_body(inliner, function)
        variables += more
        depot = {v.name: v for v in function.variables if v.space == "local"}
        result += [Label(stack.entry(function.name)), *stack.with_calls(own, function.name, depot)]
    result += stack.end()
    variables.append(stack.variable)
    return [_with_numbers(item, stack.numbers) for item in result], variables


def _own_body(inliner, function):
    """A function's body with its parameters in the registers that all such functions share."""
    prefix = f"{function.name}:"
    places = {p.name: f"argument{i}" for i, p in enumerate(function.parameters)}
    places |= {r.name: f"result{i}" for i, r in enumerate(function.results)}
    places |= own_places(function, prefix)
    body = inliner.expand(function.body, "")
    body = [rename(item, prefix, places, RETURN) for item in body]
    return pass_in_registers(body, ())


def _is_call(item):
    return not isinstance(item, Label) and item.parts[0] == "call"


def _symbols(operand):
    match operand:
        case Symbol(name):
            return [name]
        case Vector(items) | Pair(items):
            return [s for i in items for s in _symbols(i)]
    return []


def _edges(module, function):
    """-> functions called by name, functions whose address is taken, any call by a register?"""
    called, taken, indirect = set(), set(), False
    for item in function.body:
        if isinstance(item, Label):
            continue
        if item.parts[0] == "call":
            target = call_parts(item)[1]
            if isinstance(target, Register):
                indirect = True
            else:
                called.add(target.name)
        elif item.parts[0] not in ("bra", "brx"):
            taken.update(s for o in item.operands for s in _symbols(o))
    defined = {n for n, f in module.functions.items() if f.body}
    return called & defined, taken & defined, indirect


def _apart(module, entry):
    """Names of the functions reached from `entry`: those that call themselves or go by address,
    and those that are put inline, with `entry` itself."""
    edges, reached, queue = {}, set(), [entry.name]
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            edges[name] = _edges(module, module.functions[name])
            queue += [*edges[name][0], *edges[name][1]]
    by_address = set().union(*(e[1] for e in edges.values()))
    after = {n: called | (by_address if by else set()) for n, (called, _, by) in edges.items()}
    recursive = {n for n in reached if n in _reachable(n, after)}
    apart = by_address | recursive | _large(module, reached)
    return sorted(apart), sorted(reached - apart)


def _large(module, reached):
    """Functions that would make the body very long, put inline wherever they are called."""
    sites = Counter(
        target.name
        for name in reached
        for item in module.functions[name].body
        if _is_call(item) and isinstance(target := call_parts(item)[1], Symbol)
    )
    sizes = {name: len(module.functions[name].body) for name in sites if name in reached}
    return {n for n, size in sizes.items() if sites[n] > 4 and sites[n] * size > MOST_INLINE}


def _reachable(name, after):
    found, queue = set(), [*after[name]]
    while queue:
        n = queue.pop()
        if n not in found:
            found.add(n)
            queue += after[n]
    return found


def _with_numbers(item, numbers):
    """Function names as operands are the functions' numbers."""
    if isinstance(item, Label) or item.parts[0] in ("bra", "brx"):
        return item

    def new(operand):
        if isinstance(operand, Symbol) and operand.name in numbers:
            return Constant(numbers[operand.name])
        return operand

    return replace(item, operands=tuple(new(o) for o in item.operands))


__all__ = ["linked_body"]

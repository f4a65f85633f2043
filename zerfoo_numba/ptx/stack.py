"""The stack of calls that are not put inline: see `calls`."""

from dataclasses import replace

from zerfoo_numba.ptx import effects
from zerfoo_numba.ptx.inline import call_parts
from zerfoo_numba.ptx.liveness import live_after
from zerfoo_numba.ptx.structure import (
    SIZES,
    Address,
    Constant,
    Instruction,
    Label,
    Register,
    Symbol,
    Variable,
)

BYTES = 16384  # of stack per thread
RETURN = "stack:return"
_OVERFLOW, _NOTHING = "stack:overflow", "stack:nothing"
_TOP, _LIMIT = Register("stack:top", "b64"), Register("stack:limit", "b64")
_NEXT, _INDEX = Register("stack:next", "b64"), Register("stack:index", "b32")
_FULL, _FLAG = Register("stack:full", "pred"), Register("stack:flag", "b16")
_CHOICE = Register("stack:choice", "b64")


def _made(opcode, *operands, guard=None, source=None, text=None):
    file, line = (source.file, source.line) if source else ("PTX", 0)
    text = text or (source.text if source else f"{opcode} of a call")
    return Instruction(opcode, operands, guard, file, line, text)


class Stack:
    """`numbers`: the functions that are called over the stack, by name."""

    variable = Variable("stack:memory", "local", 16, BYTES)

    def __init__(self, numbers, functions):
        self.numbers, self.functions = numbers, functions
        self.returns = []

    def entry(self, name):
        return f"stack:{name}"

    def start(self):
        """What the entry begins with."""
        return [
            _made("mov.b64", _TOP, Symbol(self.variable.name)),
            _made("add.s64", _LIMIT, _TOP, Constant(BYTES)),
        ]

    def end(self):
        """The common return, and what stops a thread that has gone astray."""
        targets = tuple(Symbol(name) for name in self.returns)
        back = [
            _made("ld.local.u32", _INDEX, Address(_TOP, -8)),
            _made("brx.idx", _INDEX, *targets),
        ]
        over = f"a call: the stack of {BYTES} bytes per thread is full; recursion is too deep"
        return [
            *([Label(RETURN), *back] if targets else []),
            Label(_OVERFLOW), _made("trap", text=over),
            Label(_NOTHING), _made("trap", text="a call through an address of no function"),
        ]  # fmt: skip

    def with_calls(self, body, name, depot):
        """A function's body, its calls made over the stack; `depot` are its local variables."""
        places, size = {}, 0
        for variable in depot.values():
            places[variable.name] = -(-size // variable.align) * variable.align
            size = places[variable.name] + variable.size
        size = -(-size // 16) * 16
        written, found = _written(body), []
        needed = live_after(body, lambda i: _results(i, written), _sources)
        for item, live in zip(body, needed, strict=True):
            if isinstance(item, Label) or item.parts[0] != "call":
                found += _on_stack(item, places)
                continue
            made = set(_results(item, written))
            saved = sorted(live - made - {_TOP, _LIMIT}, key=lambda r: (r.name, r.type))
            found += self._call(item, saved, size, written)
        return found

    def _call(self, item, saved, depot, written):
        results, target, arguments = call_parts(item)
        frame = depot + -(-(8 * len(saved) + 8) // 16) * 16
        here = f"stack:back{len(self.returns)}"
        self.returns.append(here)
        places = [(r, Address(_TOP, depot + 8 * i)) for i, r in enumerate(saved)]
        code = [
            _made("add.s64", _NEXT, _TOP, Constant(frame), source=item),
            _made("setp.gt.u64", _FULL, _NEXT, _LIMIT, source=item),
            _made("bra", Symbol(_OVERFLOW), guard=_FULL, source=item),
        ]
        for register, place in places:
            code += _save(register, place, item)
        code += self._arguments(item, arguments, written)
        code += [
            _made("mov.b64", _TOP, _NEXT, source=item),
            _made("st.local.u32", Address(_TOP, -8), Constant(len(self.returns) - 1), source=item),
            *self._jump(item, target, arguments),
            Label(here),
            _made("add.s64", _TOP, _TOP, Constant(-frame), source=item),
        ]
        for register, place in places:
            code += _restore(register, place, item)
        for i, result in enumerate(results):
            for register in written.get(result.name, ()):
                own = _shared(register, result.name, f"result{i}")
                code.append(_made(f"mov.{register.type}", register, own, source=item))
        return code

    def _arguments(self, item, arguments, written):
        for i, argument in enumerate(arguments):
            for register in written.get(argument.name, ()):
                own = _shared(register, argument.name, f"argument{i}")
                yield _made(f"mov.{register.type}", own, register, source=item)

    def _jump(self, item, target, arguments):
        """To the function named, or to the one whose number the register holds."""
        if isinstance(target, Symbol):
            return [_made("bra", Symbol(self.entry(target.name)), source=item)]
        names = list(self.numbers)
        fits = [len(self.functions[n].parameters) == len(arguments) for n in names]
        labels = [
            _NOTHING,
            *(self.entry(n) if f else _NOTHING for n, f in zip(names, fits, strict=True)),
        ]
        targets = tuple(Symbol(label) for label in (*labels, _NOTHING))
        most = Constant(len(labels))
        return [
            _made("min.u64", _CHOICE, target, most, source=item),
            _made("cvt.u32.u64", _INDEX, _CHOICE, source=item),
            _made("brx.idx", _INDEX, *targets, source=item),
        ]


def _written(body):
    """{place in `.param` space: the registers that its pieces have become}."""
    found = {}
    for item in body:
        if isinstance(item, Label):
            continue
        for operand in item.operands:
            if isinstance(operand, Register) and "+" in operand.name:
                pieces = found.setdefault(operand.name.rpartition("+")[0], [])
                if operand not in pieces:
                    pieces.append(operand)
    return found


def _shared(register, place, name):
    """The register that stands for the same piece in every function."""
    return Register(name + register.name.removeprefix(place), register.type)


def _results(item, written):
    """What an instruction writes; a call writes the pieces of its results."""
    if item.parts[0] != "call":
        return effects.results(item)
    return [r for place in call_parts(item)[0] for r in written.get(place.name, ())]


def _sources(item):
    if item.parts[0] != "call":
        return effects.sources(item)
    target = call_parts(item)[1]
    return [target] if isinstance(target, Register) else []


def _save(register, place, source):
    if register.type == "pred":
        yield _made("selp.b16", _FLAG, Constant(1), Constant(0), register, source=source)
        register = _FLAG
    yield _made(f"st.local.{_kind(register)}", place, register, source=source)


def _restore(register, place, source):
    if register.type != "pred":
        yield _made(f"ld.local.{_kind(register)}", register, place, source=source)
        return
    yield _made("ld.local.b16", _FLAG, place, source=source)
    yield _made("setp.ne.b16", register, _FLAG, Constant(0), source=source)


def _kind(register):
    return f"b{8 * SIZES[register.type]}" if register.type[0] != "f" else register.type


def _on_stack(item, places):
    """An instruction that mentions a local variable of its function finds it on the stack."""
    if isinstance(item, Label) or not places:
        return [item]
    operands = list(item.operands)
    for i, operand in enumerate(operands):
        if isinstance(operand, Address) and isinstance(operand.base, Symbol):
            if operand.base.name in places:
                operands[i] = Address(_TOP, places[operand.base.name] + operand.offset)
        elif isinstance(operand, Symbol) and operand.name in places and item.parts[0] == "mov":
            at = Constant(places[operand.name])
            return [replace(item, opcode="add.s64", operands=(operands[0], _TOP, at))]
    return [replace(item, operands=tuple(operands))]

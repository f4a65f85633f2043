"""How much an untrusted template may make, and how long it may run.

A value's weight is what str() would go through to write it: characters, and 8 for every item of a
container, shared parts as often as they are met. A run has a budget of weight, and values are
weighed as they are made; the few steps that make much of little are estimated beforehand.
"""

import json
import re
import sys
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import pass_eval_context
from jinja2.filters import do_join
from jinja2.sandbox import MAX_RANGE, SecurityError
from jinja2.utils import Namespace

MAX_WEIGHT = 1 << 22  # of one value
MAX_MADE = 1 << 27  # of all values that one run makes
TIME_LIMIT_S = 5.0
TEMPLATE_FILE = "<template>"  # the file name under which jinja2 compiles
_STOPPABLE = (
    TEMPLATE_FILE,
    __file__,
    str(Path(jinja2.__file__).parent),
    str(Path(json.__file__).parent),
)


class TimeUp(BaseException):
    """Not an Exception, so that nothing on the way takes it for an error of its own."""


class _Run:
    """What one run may still make, and the weights of the containers it was given."""

    def __init__(self, values: dict, seconds: float):
        self.seconds, self.end = seconds, time.monotonic() + seconds
        self.left = MAX_MADE
        self.given: dict[int, int] = {}
        self._weigh_given(values)

    def _weigh_given(self, value: Any) -> int:
        if isinstance(value, dict | list | tuple):
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            weight = 8 * len(value) + sum(map(self._weigh_given, parts))
            self.given[id(value)] = weight
            return weight
        return len(value) if isinstance(value, str) else 0

    def check_time(self) -> None:
        if time.monotonic() > self.end:
            raise TimeUp(f"it ran for more than {self.seconds:g} s")


_run: ContextVar[_Run] = ContextVar("_run")


@contextmanager
def limits(values: dict, seconds: float) -> Iterator[None]:
    """Bounds what runs inside: the weight it makes, given `values`, and its time.

    A trace function stops Python code in whatever thread it runs, with neither a signal nor a
    second process. It sees every call and every line of the template, but raises in the template's
    and the libraries' code alone: an error in somebody's finalizer would be lost.
    Errors: SecurityError, TimeUp.
    """
    run = _Run(values, seconds)

    def check(frame, event, argument):
        name = frame.f_code.co_filename
        if name.startswith(_STOPPABLE):
            run.check_time()
        return check if name == TEMPLATE_FILE else None

    token, before = _run.set(run), sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)
        _run.reset(token)


# Weights -----------------------------------------------------------------------------------


def weigh(*values: Any) -> int:
    """Errors: SecurityError above MAX_WEIGHT."""
    given, weight, waiting = _run.get().given, 0, [*values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str | bytes):
            weight += len(value)
        elif id(value) in given:
            weight += given[id(value)]
        elif isinstance(value, dict):
            weight += 8 * len(value)
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | KeysView | ValuesView | ItemsView):
            weight += 8 * len(value)
            waiting += value
        elif isinstance(value, Namespace):
            weight += 8
            waiting.append(object.__getattribute__(value, "_Namespace__attrs"))
        elif isinstance(value, int):
            weight += value.bit_length() // 8
        _check(weight)
    return weight


def _check(weight: int) -> None:
    if weight > MAX_WEIGHT:
        raise SecurityError(f"it would make a value of more than {MAX_WEIGHT} characters")


def spend(weight: int) -> None:
    """Errors: SecurityError where `weight` or all that was made is too much."""
    run = _run.get()
    run.check_time()
    _check(weight)
    run.left -= weight
    if run.left < 0:
        raise SecurityError(f"it would make values of more than {MAX_MADE} characters")


def made(value: Any) -> Any:
    spend(weigh(value))
    return value


def concat(pieces: Iterable[str]) -> str:
    kept, length = [], 0
    for piece in pieces:
        length += len(piece)
        _check(length)
        kept.append(piece)
    spend(length)
    return "".join(kept)


# What makes much of little -----------------------------------------------------------------


def before_replace(text: Any, old: Any = "", new: Any = "", *count: int) -> None:
    spend(str(text).count(str(old)) * len(str(new)))


def before_indent(text: Any, width: Any = 4, *flags: Any, **more: Any) -> None:
    spend((str(text).count("\n") + 1) * (width if isinstance(width, int) else len(str(width))))


def before_format(text: Any, *args: Any, **kwargs: Any) -> None:
    text = str(text)
    if re.search(r"\d{5}|\*|\{[^}]*\{", text):
        raise SecurityError("a field width in a format is too large")
    fields = text.count("%") + text.count("{")
    spend(fields * (9999 + max(map(weigh, (0, *args, *kwargs.values())))))


def join_method(separator: str, items: Iterable) -> str:
    items = [*items]
    spend(weigh(items) + len(separator) * len(items))
    return separator.join(items)


@pass_eval_context
def join_filter(context, value: Iterable, d: str = "", attribute: Any = None) -> str:
    items = [*value]
    spend(weigh(items) + len(str(d)) * len(items))
    return do_join(context, items, d, attribute)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """As in transformers; with `indent` json goes item by item, else by one call."""
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return concat(encoder.iterencode(value))


def check_count(*args: Any, **kwargs: Any) -> None:
    """Refuses arguments that are counts or widths beyond what range() may have."""
    for value in (*args[1:], *kwargs.values()):
        if isinstance(value, int) and abs(value) > MAX_RANGE:
            raise SecurityError(f"a count or width is above {MAX_RANGE}")

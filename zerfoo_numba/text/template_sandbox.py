"""Runs an untrusted Jinja template: what it may reach and call.

jinja2's immutable sandbox keeps Python's internals, and every change of the values, out of a
template's reach. What it leaves open, time and memory, `template_limits` bounds. Settings and
extra functions are those of Hugging Face's chat templates.
"""

import datetime
import functools
from collections.abc import Callable
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

from zerfoo_numba.text import template_limits as bounds

MAX_TEMPLATE_CHARS = 1 << 18

# Methods of strings, lists and dicts. Those left out make much of little or change their object.
_METHODS = {
    "capitalize", "casefold", "copy", "count", "endswith", "find", "format", "get", "index",
    "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace",
    "istitle", "isupper", "items", "join", "keys", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split",
    "splitlines", "startswith", "strip", "swapcase", "title", "upper", "values", "zfill",
}  # fmt: skip
_FILTERS_LEFT_OUT = (
    "center", "filesizeformat", "forceescape", "pprint", "random", "urlize", "wordwrap", "xmlattr",
)  # fmt: skip
_GLOBALS = ("range", "dict", "namespace", "cycler", "joiner")
# Methods and filters that make much of little, and what estimates it.
_BEFORE = {
    "replace": bounds.before_replace, "indent": bounds.before_indent,
    "format": bounds.before_format, "zfill": bounds.check_count, "batch": bounds.check_count,
    "slice": bounds.check_count, "truncate": bounds.check_count, "round": bounds.check_count,
    "tojson": bounds.check_count,
}  # fmt: skip


class Refusal(Exception):
    """A template's own raise_exception()."""


def run(template: str, values: dict, time_limit_s: float = bounds.TIME_LIMIT_S) -> str:
    """What `template` writes, given `values`.

    Errors: Refusal; TimeUp; jinja2's TemplateSyntaxError, and SecurityError where the sandbox or a
    limit stops it; and whatever a broken template provokes in the code it calls.
    """
    if len(template) > MAX_TEMPLATE_CHARS:
        raise SecurityError(f"it is longer than {MAX_TEMPLATE_CHARS} characters")
    with bounds.limits(values, time_limit_s):
        return bounds.concat(_compile(template).generate(values))


@pass_context  # because of the context jinja2 works out nothing while it compiles
def _written(context, value: Any) -> Any:
    bounds.weigh(value)
    return value


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])
    concat = staticmethod(bounds.concat)

    def call_binop(self, context, operator: str, left: Any, right: Any) -> Any:
        both_int = isinstance(left, int) and isinstance(right, int)
        if operator == "*" and both_int:
            bounds.spend(left.bit_length() + right.bit_length())
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(other, int):
                    bounds.spend(bounds.weigh(one) * max(other, 0))
        elif operator == "**" and both_int:
            bounds.spend(left.bit_length() * max(right, 0))
        elif operator == "%" and isinstance(left, str):
            bounds.before_format(left, right)
        return bounds.made(super().call_binop(context, operator, left, right))

    def call(self, context, function: Callable, *args, **kwargs) -> Any:
        bounds.weigh(args, kwargs)
        method = getattr(function, "__wrapped__", function)  # jinja2 wraps str.format
        subject, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(subject, str | bytes | list | tuple | dict):
            if name not in _METHODS:
                raise SecurityError(f"the method {name} is not available")
            if name == "join":
                function = functools.partial(bounds.join_method, subject)
            elif name in _BEFORE:
                _BEFORE[name](subject, *args, **kwargs)
        return bounds.made(super().call(context, function, *args, **kwargs))


def _bounded(name: str, function: Callable) -> Callable:
    before = _BEFORE.get(name)

    @functools.wraps(function)  # copies the mark by which jinja2 passes its own arguments
    def bounded(*args, **kwargs):
        bounds.weigh(args, kwargs)
        if before:
            before(*args, **kwargs)
        return bounds.made(function(*args, **kwargs))

    return bounded


class _Weighed(NodeTransformer):
    """Literals are weighed; `a ~ b` becomes `a|string + b|string`, which the sandbox watches."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node = self.generic_visit(node)
        strings = [nodes.Filter(n, "string", [], [], None, None) for n in node.nodes]
        return functools.reduce(nodes.Add, strings)

    def visit_List(self, node: nodes.Expr) -> nodes.Node:
        return nodes.Filter(self.generic_visit(node), "made", [], [], None, None)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self.visit_List(node) if node.ctx == "load" else node


class _Generation(Extension):
    """{% generation %} marks the text that a model is trained on; here that text is all it is."""

    tags = frozenset(["generation"])

    def parse(self, parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=_written,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    for name in _FILTERS_LEFT_OUT:
        del environment.filters[name]
    environment.filters |= {
        "join": bounds.join_filter,
        "replace": lambda text, old, new, count=-1: str(text).replace(str(old), str(new), count),
        "tojson": bounds.to_json,
    }
    environment.filters = {name: _bounded(name, f) for name, f in environment.filters.items()}
    environment.filters["made"] = bounds.made
    environment.globals = {name: environment.globals[name] for name in _GLOBALS}
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment.from_string(_Weighed().visit(environment.parse(template)))


def _raise_exception(message: str) -> None:
    raise Refusal(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)

"""Messages to prompt text, by the Jinja template that a GGUF file carries.

The template is untrusted: it runs in jinja2's immutable sandbox, which keeps Python's internals
out of its reach, with limits on its size, its output, its running time and the size of what one
operation can make. Settings and extra functions are those of Hugging Face's chat templates.
"""

import datetime
import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import MAX_RANGE, ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

from zerfoo_numba.errors import FileError, InputError

MAX_TEMPLATE_CHARS = 1 << 18
MAX_VALUE_CHARS = 1 << 22
TIME_LIMIT_S = 5.0
# Filters whose output can be far longer than their input and that no chat template needs.
_LEFT_OUT = ("center", "format", "wordwrap", "urlize", "xmlattr", "pprint", "filesizeformat")


class _Refused(Exception):
    """A template's own raise_exception()."""


def render_for(metadata: dict, tokenizer, messages: list[dict], **options) -> str:
    """`render` with the template and the BOS and EOS texts of a GGUF file.

    Errors: as `render`, and FileError for a file without a template.
    """
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str):
        raise FileError(
            "the file has no key tokenizer.chat_template, so it is no chat model; "
            "`generate` continues plain text with it"
        )
    bos, eos = (
        "" if i is None else tokenizer.pieces[i] for i in (tokenizer.bos_id, tokenizer.eos_id)
    )
    return render(template, messages, bos_token=bos, eos_token=eos, **options)


def render(
    template: str,
    messages: list[dict],
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
    time_limit_s: float = TIME_LIMIT_S,
) -> str:
    """The prompt text for `messages` ([{"role": ..., "content": ...}, ...]).

    The text holds control tokens spelled out, so it is encoded with parse_special.
    Errors: InputError for malformed messages and for those that the template itself refuses;
    FileError for a template that is broken, or that the sandbox or a limit stops.
    """
    _check_messages(messages)
    if len(template) > MAX_TEMPLATE_CHARS:
        raise FileError(
            f"the chat template has {len(template)} characters; at most {MAX_TEMPLATE_CHARS} run"
        )
    values = {
        "messages": messages,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    try:
        compiled = _compile(template)
        with _deadline(time_limit_s):
            return _collect(compiled.generate(values))
    except _Refused as error:
        raise InputError(f"the chat template refuses these messages: {error}") from None
    except SecurityError as error:
        raise FileError(f"the chat template was stopped: {error}") from None
    except jinja2.TemplateSyntaxError as error:
        raise FileError(f"line {error.lineno} of the chat template: {error.message}") from None
    except Exception as error:  # whatever an untrusted template provokes in the code it calls
        raise FileError(f"the chat template fails: {type(error).__name__}: {error}") from None


def _check_messages(messages: list[dict]) -> None:
    if not isinstance(messages, list | tuple) or not messages:
        raise InputError("messages must be a list of at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(f'message {i} must be a dict with a "role" and a "content"')
        if not isinstance(message.get("content"), str | list):
            raise InputError(f'the "content" of message {i} must be a str or a list of parts')


def _collect(pieces: Iterator[str]) -> str:
    out, length = [], 0
    for piece in pieces:
        length += len(piece)
        _check_size(length)
        out.append(piece)
    return "".join(out)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, and a bound on what one operator, call or filter can make."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call_binop(self, context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and _sized(left) and _sized(right):
            _check_size(len(left) + len(right))
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if _sized(one) and isinstance(other, int):
                    _check_size(len(one) * max(other, 0))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() * max(right, 0))
        elif operator == "%" and isinstance(left, str) and re.search(r"\d{5}|\*", left):
            raise SecurityError("a field width in a format is too large")
        return super().call_binop(context, operator, left, right)

    def call(self, context, function: Callable, *args, **kwargs) -> Any:
        _check_arguments(args, kwargs)
        if getattr(function, "__name__", "") in ("format", "format_map"):
            raise SecurityError("str.format, whose field widths have no limit, is not available")
        return super().call(context, function, *args, **kwargs)


class _PlainOperators(NodeTransformer):
    """`a ~ b` becomes `a|string + b|string`, an operator that the sandbox watches."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node = self.generic_visit(node)
        strings = [nodes.Filter(n, "string", [], [], None, None) for n in node.nodes]
        return functools.reduce(nodes.Add, strings)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    for name in _LEFT_OUT:
        del environment.filters[name]
    environment.filters |= {name: _bounded(f) for name, f in environment.filters.items()}
    environment.filters["tojson"] = _to_json
    environment.globals = {
        name: environment.globals[name] for name in ("range", "dict", "namespace")
    } | {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    tree = _PlainOperators().visit(environment.parse(template))
    return environment.from_string(tree)


def _bounded(function: Callable) -> Callable:
    @functools.wraps(function)  # copies the mark by which jinja2 passes the context
    def bounded(*args, **kwargs):
        _check_arguments(args, kwargs)
        result = function(*args, **kwargs)
        if _sized(result):
            _check_size(len(result))
        return result

    return bounded


def _sized(value: Any) -> bool:
    return isinstance(value, str | bytes | list | tuple)


def _check_size(size: int) -> None:
    if size > MAX_VALUE_CHARS:
        raise SecurityError(f"it would make a value of {size} characters or items")


def _check_arguments(args: tuple, kwargs: dict) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > MAX_RANGE:
            raise SecurityError(f"an argument of {value} is above {MAX_RANGE}")


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Stops Python code that runs inside after `seconds`, whatever thread it is in.

    A trace function is the one means that needs neither a signal nor a second process.
    """
    end = time.monotonic() + seconds

    def check(frame, event, argument):
        if time.monotonic() > end:
            raise SecurityError(f"it ran for more than {seconds:g} s")
        return check

    before = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)


def _raise_exception(message: str) -> None:
    raise _Refused(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    _check_arguments((indent,), {})
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )

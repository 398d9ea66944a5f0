"""Jinja's sandbox with limits, for templates that strangers wrote: prompt templates, and chat templates of models.

Jinja keeps such a template away from Python; it leaves to others that a template may run for ever. Here the rounds of
all loops and the calls of all macros are counted, and the shortest ways to fill the memory are closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARS = 100_000
"""The longest text that a repetition (`"-" * 80`) may make, in characters."""
MAX_JOINED = 100 * MAX_CHARS
"""The longest text or list that joining two (`+`, `~`) may make: more than any conversation has."""
MAX_BITS = 128
"""The largest product or power of whole numbers."""
MAX_STEPS = 100_000
"""Rounds of loops and calls of macros in one rendering, as many as Jinja allows one `range`; under a second."""

# A format's fields, whose numbers may be widths; and a width that is given beside the format, where nobody sees it.
_FIELD = {"%": re.compile(r"%([^%a-zA-Z]*)"), "format": re.compile(r"\{([^{}]*)")}
_BESIDE = {"%": re.compile(r"%[^%a-zA-Z]*\*"), "format": re.compile(r"\{[^{}]*\{")}
_NESTED = (list, tuple, dict)
_SIZED = (str, *_NESTED)
_PADDING = {"ljust", "rjust", "center", "zfill", "expandtabs"}

FAILURES = (
    *(jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(SyntaxError, RecursionError, MemoryError),
)
"""What compiling or filling a template can raise; anything else is our bug."""


class _Counted(Context):
    """The variables of one rendering, and how many steps it has taken."""

    steps = 0


class _Counting(CodeGenerator):
    """Compiles a call of `Sandbox.step` into the body of every loop and macro."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 (Jinja's name)
        self._count(node)
        super().visit_For(node, frame)

    def visit_Macro(self, node: nodes.Macro, frame: Frame) -> None:  # noqa: N802
        self._count(node)
        super().visit_Macro(node, frame)

    def visit_CallBlock(self, node: nodes.CallBlock, frame: Frame) -> None:  # noqa: N802
        self._count(node)
        super().visit_CallBlock(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        joined = nodes.EnvironmentAttribute("joined")
        self.visit(nodes.Call(joined, node.nodes, [], None, None, lineno=node.lineno), frame)

    def _count(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> None:
        call = nodes.Call(nodes.EnvironmentAttribute("step"), [nodes.ContextReference()], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno).set_environment(self.environment))


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox without chance (the same values always give the same text) and with limits."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})
    code_generator_class = _Counting
    context_class = _Counted

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"finalize": _printed, **options})
        del self.globals["lipsum"], self.filters["random"]
        for name, function in list(self.filters.items()):
            self.add_filter(name, function)
        self.filters["join"] = _materialised(self.filters["join"])
        for check, names in _FILTERS.items():
            for name in names:
                self.filters[name] = _checked(check, self.filters[name])

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Let templates use a function as a filter, on values that are not too long."""
        self.filters[name] = _checked(_check_size, function)

    def step(self, context: _Counted) -> None:
        """Count one round of a loop or one call of a macro. Raises SecurityError at the limit."""
        context.steps += 1
        if context.steps > MAX_STEPS:
            raise SecurityError(f"more than {MAX_STEPS} rounds of loops")

    def joined(self, *parts: Any) -> str:
        """What `a ~ b` writes. Raises SecurityError for what is too long."""
        _check_size(parts)
        return "".join(map(str, parts))

    def call(self, context: Context, function: Any, /, *args: Any, **named: Any) -> Any:
        """A call that a template makes. Raises SecurityError for a text that would be padded beyond all measure."""
        method = getattr(function, "__wrapped__", function)  # Jinja puts a safe `format` around the real one
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str | bytes) and name in _PADDING:
            _check_padding(owner, *args, *named.values())
        elif isinstance(owner, str) and name in ("format", "format_map"):
            _check_format("format", owner.replace("{{", "").replace("}}", ""), *args, *named.values())
        elif isinstance(owner, str) and name == "join" and args:
            args = (_items(owner, args[0]), *args[1:])
        elif isinstance(owner, str) and name == "replace":
            _check_replacing(owner, *args)
        return super().call(context, function, *args, **named)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_format(operator, left, right)
        if operator == "+" and all(isinstance(side, str | list | tuple) for side in (left, right)):
            _within(len(left) + len(right), MAX_JOINED, "a text or list")
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise SecurityError(f"a number of more than {MAX_BITS} bits")
        for text, times in ((left, right), (right, left)) if operator == "*" else ():
            if isinstance(text, str | list | tuple) and isinstance(times, int) and len(text) * times > MAX_CHARS:
                raise SecurityError(f"a repetition of more than {MAX_CHARS} characters or items")
        return super().call_binop(context, operator, left, right)


def written(template: jinja2.Template, **variables: Any) -> str:
    """What a template of the sandbox writes. Raises SecurityError for what is too long, and what filling raises."""
    chunks, size = [], 0
    for chunk in template.generate(**variables):
        chunks.append(chunk)
        size += len(chunk)
        _within(size, MAX_JOINED, "a text")
    return "".join(chunks)


def _within(size: int, most: int, what: str) -> None:
    if size > most:
        raise SecurityError(f"{what} of more than {most} characters or items")


def _length(value: Any) -> int:
    """About how long a value is as text: at least its strings' characters, and one for anything else."""
    size, left = 0, [value]
    while left and size <= MAX_JOINED:
        each = left.pop()
        size += len(each) if isinstance(each, _SIZED) else 1
        if size <= MAX_JOINED and isinstance(each, list | tuple):
            left += each
        elif size <= MAX_JOINED and isinstance(each, dict):
            left += [*each.keys(), *each.values()]
    return size


def _check_size(*values: Any) -> None:
    for value in values:
        if isinstance(value, _NESTED):  # of anything else there is no more than what is there already
            _within(_length(value), MAX_JOINED, "a text")


def _printed(value: Any) -> Any:
    """What stands between braces, as it will be written."""
    _check_size(value)
    return value


def _items(separator: str, values: Any) -> list[Any]:
    """What is to be joined, which may come from a filter one by one."""
    items = list(values)
    _within(_length(items) + len(separator) * len(items), MAX_JOINED, "a text")
    return items


def _check_padding(text: object, *widths: object) -> None:
    for width in widths:
        if isinstance(width, int):
            _within(width, MAX_CHARS, "a padding")


def _check_format(kind: str, text: str, *values: object) -> None:
    fields = _FIELD[kind].findall(text)
    widths = [int(width) for field in fields for width in re.findall("[0-9]+", field)]
    if _BESIDE[kind].search(text) or max(widths, default=0) > MAX_CHARS:
        raise SecurityError(f"a padding of more than {MAX_CHARS} characters, or of who knows how many")
    longest = max((_length(each) for value in values for each in _parts(value)), default=0)
    _within(len(text) + sum(widths) + len(fields) * longest, MAX_JOINED, "a text")


def _parts(value: object) -> Iterable[object]:
    """What a format may write of one argument: each part of a tuple or a mapping by itself."""
    return value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else [value]


def _check_printf(text: object, *values: object) -> None:
    _check_format("%", str(text), *values)


def _check_replacing(*values: object) -> None:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) >= 3:  # text, old, new
        _within(texts[0].count(texts[1]) * len(texts[2]), MAX_JOINED, "a text")


_FILTERS: dict[Callable[..., None], tuple[str, ...]] = {
    _check_padding: ("center", "indent", "batch", "slice"),
    _check_printf: ("format",),
    _check_replacing: ("replace",),
}


def _materialised(join: Callable[..., Any]) -> Callable[..., Any]:
    """The filter `join` of what is measured first."""

    @wraps(join)
    def joined(context: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
        return join(context, _items(str(d), value), d, attribute)

    return joined


def _checked(check: Callable[..., None], function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        check(*args, *named.values())
        return function(*args, **named)

    return checked

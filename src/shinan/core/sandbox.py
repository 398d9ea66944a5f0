"""Jinja's sandbox with limits, for templates that strangers wrote: prompt templates, and chat templates of models.

Jinja keeps such a template away from Python; it leaves to others that a template may run for ever. Here the rounds of
all loops and the calls of all macros are counted, and the shortest ways to fill the memory are closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
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

# A width in a format, as a number above MAX_CHARS or given beside the format, where nobody can see it.
_WIDE = {"%": re.compile(r"%[^%a-zA-Z]*(?:\d{6,}|\*)"), "format": re.compile(r"\{[^{}]*(?:\d{6,}|\{)")}
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
        super().__init__(**options)
        del self.globals["lipsum"], self.filters["random"]
        for check, names in _FILTERS.items():
            for name in names:
                self.filters[name] = _checked(check, self.filters[name])

    def step(self, context: _Counted) -> None:
        """Count one round of a loop or one call of a macro. Raises SecurityError at the limit."""
        context.steps += 1
        if context.steps > MAX_STEPS:
            raise SecurityError(f"more than {MAX_STEPS} rounds of loops")

    def joined(self, *parts: Any) -> str:
        """What `a ~ b` writes. Raises SecurityError for what is too long."""
        texts = [str(part) for part in parts]
        _within(sum(map(len, texts)), MAX_JOINED, "a text")
        return "".join(texts)

    def call(self, context: Context, function: Any, /, *args: Any, **named: Any) -> Any:
        """A call that a template makes. Raises SecurityError for a text that would be padded beyond all measure."""
        method = getattr(function, "__wrapped__", function)  # Jinja puts a safe `format` around the real one
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str | bytes) and name in _PADDING:
            _check_padding(owner, *args, *named.values())
        elif isinstance(owner, str) and name == "format":
            _check_format(name, owner.replace("{{", "").replace("}}", ""))
        elif isinstance(owner, str) and name == "replace":
            _check_replacing(owner, *args)
        return super().call(context, function, *args, **named)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_format(operator, left)
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


def _within(size: int, most: int, what: str) -> None:
    if size > most:
        raise SecurityError(f"{what} of more than {most} characters or items")


def _check_padding(text: object, *widths: object) -> None:
    for width in widths:
        if isinstance(width, int):
            _within(width, MAX_CHARS, "a padding")


def _check_format(kind: str, text: str) -> None:
    if _WIDE[kind].search(text):
        raise SecurityError(f"a padding of more than {MAX_CHARS} characters, or of who knows how many")


def _check_printf(text: object, *_: object) -> None:
    _check_format("%", str(text))


def _check_replacing(*values: object) -> None:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) >= 3:  # text, old, new
        _within(texts[0].count(texts[1]) * len(texts[2]), MAX_JOINED, "a text")


_FILTERS: dict[Callable[..., None], tuple[str, ...]] = {
    _check_padding: ("center", "indent", "batch", "slice"),
    _check_printf: ("format",),
    _check_replacing: ("replace",),
}


def _checked(check: Callable[..., None], function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        check(*args, *named.values())
        return function(*args, **named)

    return checked

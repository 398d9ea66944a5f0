"""Jinja's sandbox with limits, for templates that strangers wrote: prompt templates, and chat templates of models.

Jinja keeps such a template away from Python; it leaves to others that a template may run for ever. Here the rounds of
all loops and the calls of all macros are counted, and the shortest ways to fill the memory are closed.
"""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARS = 100_000
"""The longest text that a repetition (`"-" * 80`) may make, in characters."""
MAX_BITS = 128
"""The largest product or power of whole numbers."""
MAX_STEPS = 100_000
"""Rounds of loops and calls of macros in one rendering, as many as Jinja allows one `range`; under a second."""

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

    def _count(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> None:
        call = nodes.Call(nodes.EnvironmentAttribute("step"), [nodes.ContextReference()], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno).set_environment(self.environment))


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox without chance (the same values always give the same text) and with limits."""

    intercepted_binops = frozenset({"*", "**"})
    code_generator_class = _Counting
    context_class = _Counted

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.globals["lipsum"], self.filters["random"]

    def step(self, context: _Counted) -> None:
        """Count one round of a loop or one call of a macro. Raises SecurityError at the limit."""
        context.steps += 1
        if context.steps > MAX_STEPS:
            raise SecurityError(f"more than {MAX_STEPS} rounds of loops")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise SecurityError(f"a number of more than {MAX_BITS} bits")
        for text, times in ((left, right), (right, left)):
            if isinstance(text, str | list | tuple) and isinstance(times, int) and len(text) * times > MAX_CHARS:
                raise SecurityError(f"a repetition of more than {MAX_CHARS} characters or items")
        return super().call_binop(context, operator, left, right)

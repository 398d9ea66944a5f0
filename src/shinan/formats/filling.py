"""Texts filled from a row in Jinja's sandbox, with a sentence for each way in which that fails.

What `PromptTemplate` and the importers of other people's templates share. Template files are passed around, so they
reach nothing but the row; what a row says is never taken for template code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError

from shinan.core.errors import DataError, nearest
from shinan.core.sandbox import FAILURES, MAX_CHARS, Sandbox
from shinan.formats.rows import Row, Where, fault, kind

_PRINTABLE = (str, int, jinja2.Undefined)
_MISSING = re.compile(r"'(.+)' is undefined")
_MEND = "correct the row or the template"


class FillingError(DataError):
    """A row that a template cannot be filled with.

    `reason` is a short stable word for counts: missing_field, not_a_choice, too_long, bad_text, forbidden or
    template_failed; users of `Filling` add their own (empty, ...).
    """

    def __init__(self, reason: str, what: str, *, where: str, fix: str) -> None:
        super().__init__(what, where=where, fix=fix)
        self.reason = reason


class Choices(list[str]):
    """The choices as a template sees them. A negative index, the common mark of unlabelled rows, is no choice."""


def printed(value: Any) -> Any:
    """What `{{ }}` may print. Refuses what Python would print as `None`, `nan`, `['a']` or `<built-in method ...>`."""
    if isinstance(value, _PRINTABLE) or (isinstance(value, float) and value == value):
        return value
    raise jinja2.TemplateRuntimeError(f"cannot print {kind(value)}; see Jinja's default, join, tojson and string")


class RowSandbox(Sandbox):
    """The sandbox of texts over rows: strict about what a row lacks, and about what can be printed."""

    def __init__(self, finalize: Callable[[Any], Any] = printed, **options: Any) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, autoescape=False, finalize=finalize, **options)
        # Jinja's own `tojson` escapes <, > and & for HTML.
        self.add_filter("tojson", lambda value: json.dumps(value, ensure_ascii=False))

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Choices) and not isinstance(argument, slice) and argument not in range(len(obj)):
            return self.undefined(hint=f"there is no choice {argument!r}; they are 0 to {len(obj) - 1}")
        return super().getitem(obj, argument)

    def fields(self, row: Row) -> dict[str, Any]:
        """What a text over `row` sees by name: its fields, and Jinja's own functions (`range`, ...)."""
        return self.globals | row

    def compiled(self, source: str) -> jinja2.Template:
        """`source` as a template. Raises ValueError in words for what is no Jinja."""
        try:
            return self.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"not a valid template, line {error.lineno} of the text: {error.message}") from None
        except FAILURES as error:  # nested too deeply, or a number of too many digits
            raise ValueError(f"not a valid template: {error}") from None


@dataclass(slots=True)
class Filling:
    """One row being filled into one template's texts.

    Attributes:
        template: the template's name.
        row: the row as read.
        where: the row's place.
        fields: what the texts see by name; from `RowSandbox.fields`.
    """

    template: str
    row: Row
    where: Where
    fields: dict[str, Any]

    def text(self, part: str, source: jinja2.Template) -> str:
        """The text that a source writes for the row. Raises FillingError; `part` says which text of the template."""
        return self._sound(part, self._written(part, source))

    def pieces(self, part: str, source: jinja2.Template, separator: str) -> list[str]:
        """`text` cut at a separator, which may be one that no row can hold; the pieces are stripped."""
        return [self._sound(part, piece.strip()) for piece in self._written(part, source).split(separator)]

    def _written(self, part: str, source: jinja2.Template) -> str:
        written, size = [], 0
        made = source.environment
        try:
            # `generate` does the same and more: it copies all fields, and rewrites the traceback of a failure, which
            # costs far more than the filling.
            for chunk in source.root_render_func(made.context_class(made, self.fields, source.name, source.blocks)):
                written.append(chunk)
                size += len(chunk)
                if size > MAX_CHARS:
                    self.refuse("too_long", part, f"is longer than {MAX_CHARS} characters")
        except jinja2.UndefinedError as error:
            self._refuse_undefined(part, error.message or "a field is missing")
        except SecurityError as error:
            fix = "use the row's fields only"
            self.refuse("forbidden", part, f"asks for what templates may not do: {error}", fix)
        except FAILURES as error:
            self.refuse("template_failed", part, f"fails: {error or type(error).__name__}")
        return "".join(written)

    def _sound(self, part: str, text: str) -> str:
        if problem := fault(text):
            self.refuse("bad_text", part, f"holds {problem}")
        return text

    def _refuse_undefined(self, part: str, message: str) -> NoReturn:
        match = _MISSING.fullmatch(message)
        if match is None:
            reason = "not_a_choice" if message.startswith("there is no choice") else "missing_field"
            self.refuse(reason, part, f"fails: {message}")
        keys = ", ".join(map(repr, list(self.row)[:12])) + (", …" if len(self.row) > 12 else "")
        fix = nearest(match[1], self.row) or _MEND
        self.refuse("missing_field", part, f"needs the field {match[1]!r}, and the row has {keys or 'none'}", fix)

    def refuse(self, reason: str, part: str, what: str, fix: str = _MEND) -> NoReturn:
        """Raise FillingError: `template NAME: PART WHAT`."""
        raise FillingError(reason, f"template {self.template!r}: {part} {what}", where=str(self.where), fix=fix)

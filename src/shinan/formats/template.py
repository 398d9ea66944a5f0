"""PromptTemplate: a row of an annotated dataset becomes an Example, as Jinja texts over the row's fields say.

    templates:
      - name: nli-question
        task: nli
        instruction: Does the first sentence imply the second?
        input: "First: {{ premise }}\\nSecond: {{ hypothesis }}"
        choices: [Yes, Maybe, No]
        output: "{{ choices[label] }}"

The way of FLAN (arXiv 2109.01652, section 2.1) and T0 (arXiv 2110.08207, section 4). Template files are passed around,
so they run in Jinja's sandbox and reach nothing but the row; what a row says is never taken for template code.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shinan.core.config import Config, load_yaml, validate
from shinan.core.errors import DataError, nearest
from shinan.core.example import Example, Message, Part, Provenance, assistant
from shinan.core.sandbox import FAILURES, MAX_CHARS, Sandbox
from shinan.formats.rows import Row, Where, fault, kind

SEPARATOR = "|||"
"""Stands between choices, or between accepted outputs, that one text lists."""

_MISSING = re.compile(r"'(.+)' is undefined")


class _Choices(list[str]):
    """The choices as a template sees them. A negative index, the common mark of unlabelled rows, is no choice."""


class _RowSandbox(Sandbox):
    """The sandbox of prompt templates: strict about what a row lacks, and about what can be printed."""

    def __init__(self) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=_printed
        )
        # Jinja's own `tojson` escapes <, > and & for HTML.
        self.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, _Choices) and not isinstance(argument, slice) and argument not in range(len(obj)):
            return self.undefined(hint=f"there is no choice {argument!r}; they are 0 to {len(obj) - 1}")
        return super().getitem(obj, argument)


def _printed(value: Any) -> Any:
    """What `{{ }}` may print. Refuses what Python would print as `None`, `nan`, `['a']` or `<built-in method ...>`."""
    if isinstance(value, str | int | jinja2.Undefined) or (isinstance(value, float) and value == value):
        return value
    raise jinja2.TemplateRuntimeError(f"cannot print {kind(value)}; see Jinja's default, join, tojson and string")


_ENVIRONMENT = _RowSandbox()


@lru_cache(maxsize=1024)
def _compile(source: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(source)


def _compiles(source: str) -> str:
    try:
        _compile(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"not a valid template, line {error.lineno} of the text: {error.message}") from None
    except FAILURES as error:  # nested too deeply, or a number of too many digits
        raise ValueError(f"not a valid template: {error}") from None
    return source


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Source = Annotated[str, AfterValidator(_compiles)]
Sources = Annotated[list[Source], BeforeValidator(_listed)]


class PromptTemplate(Config):
    """One way to ask about a row. Texts see the row's fields by name and the whole row as `row`."""

    name: str = Field(min_length=1)
    """Its name; examples are made by `template:NAME`."""
    input: Source
    """What the task is applied to."""
    output: Sources = Field(min_length=1)
    """The reply, or a list of accepted ones (best first), also in one text as `a ||| b`."""
    instruction: Source = ""
    """What to do."""
    choices: Sources = Field(default_factory=list)
    """Possible answers in order, as a list or in one text as `a ||| b`; the other texts see them as `choices`."""
    task: str = ""
    """The task that the examples belong to."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Tags of each example."""

    def apply(self, row: Row, where: Where, index: int, *, licence: str = "unknown") -> Example:
        """The row as an example: a user turn of typed parts, the best output as reply, all outputs as targets.

        Args:
            row: fields by name.
            where: the row's place; its `source` becomes the example's.
            index: the example's position in that source, told apart from those of other templates by the caller.
            licence: the source's licence.

        Raises:
            DataError: a field that the row lacks, an output that is empty or no choice, a template that fails or asks
                for what the sandbox forbids.
        """
        filling = _Filling(self.name, row, str(where), {"row": row, **row})
        choices: list[str] = []
        if self.choices:
            choices = [choice.strip() for choice in filling.texts("choices", self.choices)]
            filling.fields["choices"] = _Choices(choices)
            filling.check(
                "choices", len(choices) > 1 and len(set(choices)) == len(choices), "must be two or more, all different"
            )
        instruction = filling.text("instruction", self.instruction).strip("\n")
        asked = filling.text("input", self.input).strip("\n")
        filling.check("input", bool(instruction.strip() or asked.strip()), "is empty")
        targets = filling.texts("output", self.output)
        if choices:
            targets = [target.strip() for target in targets]
            filling.check("output", set(targets) <= set(choices), f"is none of the choices: {targets}")
        parts = (Part(instruction, "instruction"), Part(asked, "input"))
        return Example(
            (Message("user", tuple(part for part in parts if part.text.strip())), assistant(targets[0])),
            targets=tuple(targets),
            choices=tuple(choices),
            task=self.task,
            tags=dict(self.metadata),
            provenance=Provenance(where.source, index, licence, f"template:{self.name}"),
        )


@dataclass(slots=True)
class _Filling:
    """One row being filled into one template's texts."""

    template: str
    row: Row
    where: str
    fields: dict[str, Any]

    def check(self, part: str, holds: bool, what: str) -> None:
        """Raise DataError unless it holds."""
        if not holds:
            self._refuse(part, what, "correct the row or the template")

    def texts(self, part: str, sources: list[str]) -> list[str]:
        """The texts of a list. A text with the separator is split, and its pieces stripped."""
        found = []
        for text in (self.text(part, source) for source in sources):
            if SEPARATOR in text and SEPARATOR in repr(self.row):
                self._refuse(part, f"cannot be split, as the row itself has {SEPARATOR!r}", "take this row out")
            found += [piece.strip() for piece in text.split(SEPARATOR)] if SEPARATOR in text else [text]
        self.check(part, all(text.strip() for text in found), "is empty")
        return found

    def text(self, part: str, source: str) -> str:
        """The text that a source writes for the row."""
        written, size = [], 0
        try:
            for chunk in _compile(source).generate(self.fields):
                written.append(chunk)
                size += len(chunk)
                self.check(part, size <= MAX_CHARS, f"is longer than {MAX_CHARS} characters")
        except jinja2.UndefinedError as error:
            self._refuse_undefined(part, error.message or "a field is missing")
        except SecurityError as error:
            self._refuse(part, f"asks for what templates may not do: {error}", "use the row's fields only")
        except FAILURES as error:
            self._refuse(part, f"fails: {error or type(error).__name__}", "correct the row or the template")
        text = "".join(written)
        self.check(part, not (problem := fault(text)), f"holds {problem}")
        return text

    def _refuse_undefined(self, part: str, message: str) -> NoReturn:
        match = _MISSING.fullmatch(message)
        if match is None:
            self._refuse(part, f"fails: {message}", "correct the row or the template")
        keys = ", ".join(map(repr, list(self.row)[:12])) + (", …" if len(self.row) > 12 else "")
        fix = nearest(match[1], self.row)
        self._refuse(part, f"needs the field {match[1]!r}, and the row has {keys or 'none'}", fix)

    def _refuse(self, part: str, what: str, fix: str) -> NoReturn:
        raise DataError(f"template {self.template!r}: {part} {what}", where=self.where, fix=fix)


class _TemplateFile(Config):
    templates: list[PromptTemplate] = Field(min_length=1)
    """The templates of one dataset."""

    @model_validator(mode="after")
    def _different_names(self) -> _TemplateFile:
        names = [template.name for template in self.templates]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two templates are named {name!r}")
        return self


def load_templates(path: Path) -> tuple[PromptTemplate, ...]:
    """The templates of a YAML file, under its key `templates`.

    Raises ConfigError with every problem of the file, each with its line: unknown keys, texts that are not Jinja.
    """
    return tuple(validate(_TemplateFile, load_yaml(path)).templates)

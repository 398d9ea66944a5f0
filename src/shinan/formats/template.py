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

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import jinja2
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shinan.core.config import Config, load_yaml, validate
from shinan.core.example import Example, Message, Part, Provenance, assistant
from shinan.formats.filling import Choices, Filling, RowSandbox
from shinan.formats.rows import Row, Where

SEPARATOR = "|||"
"""Stands between choices, or between accepted outputs, that one text lists."""

_ENVIRONMENT = RowSandbox(keep_trailing_newline=True)


@lru_cache(maxsize=1024)
def _compile(source: str) -> jinja2.Template:
    return _ENVIRONMENT.compiled(source)


def _compiles(source: str) -> str:
    _compile(source)
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
            FillingError: a field that the row lacks, an output that is empty or no choice, a template that fails or
                asks for what the sandbox forbids.
        """
        filling = _Filling(self.name, row, where, _ENVIRONMENT.fields({"row": row, **row}))
        choices: list[str] = []
        if self.choices:
            choices = [choice.strip() for choice in filling.texts("choices", self.choices)]
            filling.fields["choices"] = Choices(choices)
            if len(choices) < 2 or len(set(choices)) < len(choices):
                filling.refuse("bad_choices", "choices", "must be two or more, all different")
        instruction = filling.written("instruction", self.instruction).strip("\n")
        asked = filling.written("input", self.input).strip("\n")
        if not (instruction.strip() or asked.strip()):
            filling.refuse("empty", "input", "is empty")
        targets = filling.texts("output", self.output)
        if choices:
            targets = [target.strip() for target in targets]
            if not set(targets) <= set(choices):
                filling.refuse("not_a_choice", "output", f"is none of the choices: {targets}")
        parts = (Part(instruction, "instruction"), Part(asked, "input"))
        return Example(
            (Message("user", tuple(part for part in parts if part.text.strip())), assistant(targets[0])),
            targets=tuple(targets),
            choices=tuple(choices),
            task=self.task,
            tags=dict(self.metadata),
            provenance=Provenance(where.source, index, licence, f"template:{self.name}"),
        )


class _Filling(Filling):
    """One row being filled into one template's texts, lists of them too."""

    def written(self, part: str, source: str) -> str:
        """The text that a source writes for the row."""
        return self.text(part, _compile(source))

    def texts(self, part: str, sources: list[str]) -> list[str]:
        """The texts of a list. A text with the separator is split, and its pieces stripped."""
        found = []
        for text in (self.written(part, source) for source in sources):
            if SEPARATOR in text and SEPARATOR in repr(self.row):
                what = f"cannot be split, as the row itself has {SEPARATOR!r}"
                self.refuse("ambiguous_bars", part, what, "take this row out")
            found += [piece.strip() for piece in text.split(SEPARATOR)] if SEPARATOR in text else [text]
        if not all(text.strip() for text in found):
            self.refuse("empty", part, "is empty")
        return found


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

"""PromptSource's `templates.yaml` files, the prompts of P3 and T0, read and applied to rows.

    dataset: glue
    subset: mrpc
    templates:
      00000000-0000-0000-0000-000000000001: !Template
        name: same or not
        jinja: "Do these mean the same? {{sentence1}} {{sentence2}} ||| {{ answer_choices[label] }}"
        answer_choices: no ||| yes
        ...

arXiv 2202.01279, and arXiv 2110.08207, section 4. A text is Jinja: what to ask, `|||`, and the reply (or several). What
`promptsource` 0.2.3 writes for a row is written here to the character, but for this:

- A field that the row lacks, `None` and lists are never printed (it prints nothing, `None`, `['a']`), and a label below
  0 is no choice (it takes the last one). Such a row is refused, as is a reply that is empty or none of the choices.
- `choice` draws by seed, template and row, so that the same row always reads the same.
- Bars in the data never split a text, also those inside lists and objects. It hides bars behind a code word, which one
  dataset's templates know; here the bars of the template are the marked ones, and that word stands for bars.
- The limit of characters holds for what each `{{ }}` prints, and for each choice. There it is a filter written behind
  the expression, which in `{{ a + b }}` reaches `b` alone, and choices have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.runtime import Context
from pydantic import Field

from shinan.core.config import Config, load_yaml, validate
from shinan.core.errors import ConfigError, Problem, shown
from shinan.core.example import Example, Provenance, assistant, user
from shinan.core.hashing import derive_seed
from shinan.formats.filling import Choices, Filling, RowSandbox, printed
from shinan.formats.rows import Row, Where

LIMIT = 2048
"""Characters of a field that promptsource and P3 print."""

_BARS = "|||"
_CUT = "\0|||\0"  # what the template's own bars become; no row may hold a NUL character
_WORD = "3ed2dface8203c4c9dfb1a5dc58e41e0"  # stands for bars of the data in texts that split data at them (multi_news)
_CHANCE = "choice()"  # no name that a template could say


@dataclass(slots=True)
class _Chance:
    """The draws of one rendering."""

    seed: int
    template: str
    row: int
    drawn: int = 0

    def draw(self, items: Sequence[Any]) -> Any:
        if not len(items):
            raise jinja2.TemplateRuntimeError("there is nothing to choose from")
        chance = derive_seed(self.seed, "promptsource/choice", self.template, self.row, self.drawn)
        self.drawn += 1
        return items[chance % len(items)]


@jinja2.pass_context
def _choice(context: Context, items: Sequence[Any]) -> Any:
    return context.resolve(_CHANCE).draw(items)


def _most_frequent(items: Sequence[Any]) -> list[Any]:
    """The items that stand most often in `items`, in their order."""
    counts = Counter(items)
    return [item for item, count in counts.items() if count == max(counts.values())]


def _highlight(text: str) -> str:
    """`text` as promptsource's app shows variables, in HTML."""
    return f"<span style='color: #F08080'>{text}</span>"


class _PromptSandbox(RowSandbox):
    """The sandbox with the helpers of promptsource, and its limit on what is printed."""

    def __init__(self, limit: int | None) -> None:
        super().__init__(finalize=self._printed)
        self.limit = limit
        self.globals["zip"] = zip
        self.filters |= {"choice": _choice, "most_frequent": _most_frequent, "highlight": _highlight}

    def _printed(self, value: Any) -> Any:
        return self.cut(value) if isinstance(value, str) else printed(value)

    def cut(self, text: str) -> str:
        """`text` within the limit: Jinja's `truncate`, which ends a cut text at a blank and with three dots."""
        if self.limit is None or len(text) <= self.limit:
            return text
        return str(self.filters["truncate"](self, text, self.limit))


_sandbox = cache(_PromptSandbox)


@dataclass(frozen=True, slots=True)
class P3Template:
    """One template of one dataset.

    Attributes:
        dataset: `NAME`, or `NAME/SUBSET`.
        name: its name, unique in its dataset; examples are made by `template:p3/DATASET/NAME`.
        id: promptsource's identifier.
        reference: who wrote it, or the paper that it is from.
        original_task: whether it asks for what the dataset was made for; others turn the task round.
        tags: those of each example: dataset, template, language of the prompt, metrics, and what the file says of it.
        jinja: what to ask and the reply.
        answer_choices: the possible replies, if it says them.
        limit: the longest text that is printed of a field, in characters.
    """

    dataset: str
    name: str
    id: str
    reference: str
    original_task: bool
    tags: Mapping[str, str]
    jinja: jinja2.Template = field(repr=False, compare=False)
    answer_choices: jinja2.Template | None = field(repr=False, compare=False)
    limit: int | None = LIMIT

    @property
    def path(self) -> str:
        """`DATASET/NAME`."""
        return f"{self.dataset}/{self.name}"

    @property
    def maker(self) -> str:
        """Who makes its examples."""
        return f"template:p3/{self.path}"

    def apply(
        self, row: Row, where: Where, *, seed: int = 0, licence: str = "unknown", source: str | None = None
    ) -> Example:
        """The row as an example: a user turn, the first reply, all replies as targets, and the choices.

        Args:
            row: fields by name; a hyphen in a name is `_` in the template (as in T0's code).
            where: the row's place.
            seed: decides what `choice` draws.
            licence: the source's licence.
            source: the source that the example's provenance names, if not the row's.

        Raises:
            FillingError: see the module; also a row with a field `answer_choices`, which is the templates' own.
        """
        sandbox = _sandbox(self.limit)
        fields = sandbox.fields({name.replace("-", "_"): value for name, value in row.items()})
        filling = Filling(self.path, row, where, fields)
        if "answer_choices" in fields:
            what = "has a field 'answer_choices', which is the templates' own"
            filling.refuse("reserved_field", "the row", what, "give the field another name")
        fields[_CHANCE] = _Chance(seed, self.path, where.row)
        choices: list[str] = []
        if self.answer_choices:
            found = filling.pieces("answer_choices", self.answer_choices, _CUT)
            choices = [sandbox.cut(choice) for choice in found]
            fields["answer_choices"] = Choices(choices)
        asked, *targets = filling.pieces("jinja", self.jinja, _CUT)
        if not (asked and targets and all(targets)):
            what = "nothing" if not (asked or any(targets)) else "no prompt" if not asked else "an empty reply"
            filling.refuse("empty", "jinja", f"writes {what}", "take the row out, or the template")
        if choices and not set(targets) <= set(choices):
            other = shown(next(target for target in targets if target not in choices))
            filling.refuse("not_a_choice", "jinja", f"writes {other}, which is none of the {len(choices)} choices")
        return Example(
            (user(asked), assistant(targets[0])),
            targets=tuple(targets),
            choices=tuple(choices),
            task=self.dataset,
            tags=self.tags,
            provenance=Provenance(source or where.source, where.row, licence, self.maker),
        )


class _Metadata(Config):
    original_task: bool | None = None
    choices_in_prompt: bool | None = None
    metrics: list[str] | None = None
    languages: list[str] | None = None


class _Entry(Config):
    id: str
    name: str = Field(min_length=1)
    jinja: str
    answer_choices: str | None = None
    reference: str | None = None
    metadata: _Metadata


class _File(Config):
    dataset: str = Field(min_length=1)
    subset: str | None = None
    templates: dict[str, _Entry] = Field(min_length=1)


def load_promptsource(
    path: Path, *, limit: int | None = LIMIT, refuse: Callable[[Problem], None] | None = None
) -> tuple[P3Template, ...]:
    """The templates of a genuine `templates.yaml`, in its order.

    Args:
        path: the file.
        limit: characters printed of a field; None for all.
        refuse: called with what is wrong with each template that is no Jinja, has no bars, or has the name or the id of
            one before it; the others are returned.

    Raises:
        ConfigError: a file that is missing, no YAML or of other keys; without `refuse`, also every refused template.
    """
    document = load_yaml(path, ("!Template", "!TemplateMetadata"))
    file = validate(_File, document)
    problems: list[Problem] = []
    made: list[P3Template] = []
    for key, entry in file.templates.items():
        try:
            if any(entry.name == other.name or entry.id == other.id for other in made):
                raise ValueError("a template before it has the same name or id")
            made.append(_template(file, entry, limit))
        except ValueError as error:
            problems.append(Problem(f"template {entry.name!r}: {error}", document.where(("templates", key))))
    if problems and not refuse:
        raise ConfigError(problems)
    if refuse:
        for problem in problems:
            refuse(problem)
    return tuple(made)


def _template(file: _File, entry: _Entry, limit: int | None) -> P3Template:
    """Raises ValueError for texts that cannot be used."""
    if _BARS not in entry.jinja:
        raise ValueError(f"jinja has no {_BARS} between what to ask and the reply")
    dataset = f"{file.dataset}/{file.subset}" if file.subset else file.dataset
    known = entry.metadata
    tags = {
        "dataset": dataset,
        "template": entry.name,
        "language": ", ".join(known.languages or ()),
        "metrics": ", ".join(known.metrics or ()),
        "original_task": _said(known.original_task),
        "choices_in_prompt": _said(known.choices_in_prompt),
    }
    jinja = _compiled("jinja", entry.jinja, limit)
    # Cut as one text, the last choices would be lost.
    choices = None if entry.answer_choices is None else _compiled("answer_choices", entry.answer_choices, None)
    return P3Template(
        dataset,
        entry.name,
        entry.id,
        entry.reference or "",
        known.original_task is True,
        {name: said for name, said in tags.items() if said},
        jinja,
        choices,
        limit,
    )


def _said(value: bool | None) -> str:
    return "" if value is None else str(value).lower()


def _compiled(part: str, source: str, limit: int | None) -> jinja2.Template:
    try:
        return _sandbox(limit).compiled(source.replace(_BARS, _CUT).replace(_WORD, _BARS))
    except ValueError as error:
        raise ValueError(f"{part} is {str(error).replace(repr(_CUT[0]), repr(_BARS[0]))}") from None

"""Annotated shapes: the fields that datasets of one kind have, and our template sets that ask about them.

A set is a YAML file, `templates/SHAPE.yaml`, in the manner of FLAN (arXiv 2109.01652, section 2.1: ten templates a
dataset, some of which turn the task around) and of xP3mt (arXiv 2211.01786, section 3.1: prompts and label words in the
language of the data):

    shape: nli
    about: Does one text follow from another?
    fields:
      premise: {kind: text, about: what is taken as given}
      hypothesis: {kind: text, about: what may follow from it}
      label: {kind: label, about: how the two are related}
    answer: label
    labels: [entailment, neutral, contradiction]
    languages:
      en:
        words: ["Yes", Maybe, "No"]
        templates:
          - name: conclude
            instruction: Does the second text follow from the first?
            input: "First: {{ premise }}\\nSecond: {{ hypothesis }}{{ options }}"
            cue: "Answer: "
        inverted: [...]

Texts are Jinja (see `formats.template`) over the shape's fields and, where they apply, `answer` (how the reply says
it), `words` (the possible answers), `options` (the same as a block that begins with its own line break; empty where
they aren't shown), `label` (the right label's name, whatever the language) and `gap` (one or two line breaks).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from jinja2 import meta
from pydantic import Field, StringConstraints

from shinan.core.config import Config, load_yaml, validate
from shinan.core.errors import ConfigError, Problem, nearest
from shinan.core.sandbox import Sandbox
from shinan.formats.template import PromptTemplate, Sources

FOLDER = Path(__file__).parent / "templates"

FieldKind = Literal["text", "steps", "texts", "label", "choices", "choice", "facts", "entities"]
"""What a field holds: a text; the steps of a solution; accepted texts, best first; one of a set of labels; the possible
answers of this row; the right one of them; facts, each a text; named entities, each with `text` and `type`."""

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
_GIVEN = ("options", "words", "label", "answer", "gap")


class FieldOf(Config):
    """One field of a shape."""

    kind: FieldKind
    about: str
    """What it means, for who maps a dataset's columns to it."""
    optional: bool = False
    """Whether a dataset may be without it."""


class AskTemplate(PromptTemplate):
    """One way to ask about an instance of a shape. `choices` and `task` are not for templates of a set."""

    output: Sources = Field(default_factory=list)
    """The reply; by default the set's."""
    cue: str = ""
    """What stands between the input and the answer, such as `Answer: `. A prompt ends with it, without its last blank;
    in a demonstration the answer follows it."""
    words: list[str] = Field(default_factory=list)
    """What this template calls the labels, in their order; by default the language's words."""


class Language(Config):
    """The templates of a set in one language."""

    words: list[str] = Field(default_factory=list)
    """What the labels are called, in their order."""
    templates: list[AskTemplate] = Field(min_length=1)
    """They ask for the answer."""
    inverted: list[AskTemplate] = Field(min_length=1)
    """They show the answer and ask for something that has it."""
    reasoned: list[AskTemplate] = Field(default_factory=list)
    """They ask for the rationale, and then the answer (chain of thought)."""


class TemplateSet(Config):
    """A shape and its templates."""

    shape: _Name
    """Its name; the file's name, too."""
    about: str
    """What the task is."""
    fields: dict[_Name, FieldOf] = Field(min_length=2)
    """What a row says."""
    answer: str
    """The field that is asked for."""
    labels: list[_Name] = Field(default_factory=list)
    """The names of the possible labels; none where each dataset has its own."""
    output: Sources = Field(default_factory=lambda: ["{{ answer }}"])
    """The reply of templates that don't say another."""
    languages: dict[_Name, Language] = Field(min_length=1)
    """The templates, by language code."""

    @property
    def has_options(self) -> bool:
        """Whether an answer is one of several that can be shown."""
        return self.fields[self.answer].kind in ("label", "choice")

    @property
    def asked(self) -> tuple[str, ...]:
        """The fields that make up the question."""
        return tuple(name for name in self.fields if name not in (self.answer, RATIONALE))


RATIONALE = "rationale"
"""The field that holds the way to the answer, in shapes that have one."""


def shape_names() -> list[str]:
    """The shapes that we have templates for."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def set_path(shape: str) -> Path:
    """The file of a shape: ours by its name, or a YAML file of the user's own.

    Raises ConfigError with the nearest name if there is no such shape.
    """
    if shape.endswith((".yaml", ".yml")):
        return Path(shape)
    if shape not in shape_names():
        raise ConfigError([Problem(f"no shape is named {shape!r}", "", nearest(shape, shape_names()))])
    return FOLDER / f"{shape}.yaml"


@lru_cache(maxsize=64)
def load_set(path: Path) -> TemplateSet:
    """A template set. Raises ConfigError with every problem of the file, each with its line."""
    document = load_yaml(path)
    made = validate(TemplateSet, document)
    if problems := [Problem(what, document.where(keys), fix) for what, keys, fix in _faults(made)]:
        raise ConfigError(problems)
    return _with_outputs(made)


def _with_outputs(made: TemplateSet) -> TemplateSet:
    """The same with the set's reply in every template that doesn't say its own."""
    languages = {}
    for code, language in made.languages.items():
        parts = {
            name: [t if t.output else t.model_copy(update={"output": made.output}) for t in templates]
            for name, templates in _parts(language)
        }
        languages[code] = language.model_copy(update=parts)
    return made.model_copy(update={"languages": languages})


_Fault = tuple[str, Sequence[str | int], str]


def _faults(made: TemplateSet) -> Iterator[_Fault]:
    """What does not fit together: (what, keys that lead to it, what to do)."""
    if made.answer not in made.fields:
        yield f"'answer' names no field: {made.answer!r}", ["answer"], nearest(made.answer, made.fields)
        return
    if made.labels and made.fields[made.answer].kind != "label":
        yield "there are labels, but the answer is not of kind 'label'", ["labels"], "leave them out"
    if made.fields[made.answer].optional:
        yield "the answer is optional", ["fields", made.answer, "optional"], "leave `optional` out"
    if made.fields[made.answer].kind == "choice":
        listed = [name for name, spec in made.fields.items() if spec.kind == "choices"]
        if len(listed) != 1 or made.fields[listed[0]].optional:
            what = f"the answer is one of the choices, and {len(listed)} fields are of kind 'choices'"
            yield what, ["answer"], "have one such field, and not an optional one"
    seen: set[str] = set()
    for code, language in made.languages.items():
        keys = ["languages", code]
        if len(language.words) != len(made.labels):
            yield f"{len(language.words)} words for {len(made.labels)} labels", [*keys, "words"], "give each one word"
        if language.reasoned and RATIONALE not in made.fields:
            yield f"no field is named {RATIONALE!r}", [*keys, "reasoned"], "add the field, or take these out"
        for part, templates in _parts(language):
            for index, template in enumerate(templates):
                yield from _template_faults(made, template, [*keys, part, index], seen)


def _parts(language: Language) -> Iterator[tuple[str, list[AskTemplate]]]:
    yield from (("templates", language.templates), ("inverted", language.inverted), ("reasoned", language.reasoned))


def _template_faults(
    made: TemplateSet, template: AskTemplate, keys: list[str | int], seen: set[str]
) -> Iterator[_Fault]:
    if template.name in seen:
        yield f"two templates are named {template.name!r}", [*keys, "name"], "rename one"
    seen.add(template.name)
    for name in ("choices", "task"):
        if name in template.model_fields_set:
            yield f"{name!r} has no effect in a set", [*keys, name], "take it out"
    if template.words and len(template.words) != len(made.labels):
        yield f"{len(template.words)} words for {len(made.labels)} labels", [*keys, "words"], "give each one word"
    known = [*made.fields, *_GIVEN]
    texts = {"instruction": [template.instruction], "input": [template.input], "output": template.output or made.output}
    for part, text in ((part, text) for part, listed in texts.items() for text in listed):
        for name in sorted(_variables(text) - set(known)):
            yield f"no field is named {name!r}", [*keys, part], nearest(name, known)


_SANDBOX = Sandbox()


def _variables(text: str) -> set[str]:
    return set(meta.find_undeclared_variables(_SANDBOX.parse(text)))

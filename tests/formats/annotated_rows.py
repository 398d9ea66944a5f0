"""A row of every annotated shape, each value told apart from all others, and the templates rendered on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shinan.core.example import Example
from shinan.formats.annotated import AskTemplate, Language, TemplateSet, load_set, set_path, shape_names
from shinan.formats.flan import Manner, Renderer
from shinan.formats.instances import Instance
from shinan.formats.rows import Where

VALUES: dict[str, Any] = {
    "texts": ["‹ANSWER 1›", "‹ANSWER 2›"],
    "choices": ["‹RED›", "‹GREEN›", "‹BLUE›"],
    "choice": "‹GREEN›",
    "facts": ["‹FACT 1›", "‹FACT 2›"],
    "entities": [{"text": "‹KYOTO›", "type": "‹PLACE›"}, {"text": "‹AYA›", "type": "‹PERSON›"}],
}
TOPICS = ("‹WORLD›", "‹SPORTS›")


def instances(shape: TemplateSet) -> Iterator[Instance]:
    """An instance for every label; one where the answer is no label."""
    fields = {name: VALUES.get(spec.kind, f"‹{name.upper()}›") for name, spec in shape.fields.items()}
    kind = shape.fields[shape.answer].kind
    if kind == "label":
        labels = tuple(shape.labels) or TOPICS
        for right, label in enumerate(labels):
            yield Instance(fields | {shape.answer: label}, labels, right)
    elif kind == "choice":
        yield Instance(fields, tuple(VALUES["choices"]), 1)
    else:
        yield Instance(fields)


def renderer(shape: TemplateSet, language: str, template: AskTemplate, turn: str, style: str) -> Renderer:
    """A renderer that has this one template, and asks in one way."""
    spoken = shape.languages[language]
    alone = Language(words=spoken.words, templates=[template], inverted=[template], reasoned=[template])
    manner = Manner({style: 1.0}, len, invert=1e9 if turn == "inverted" else 0, cot=float(turn == "reasoned"))  # type: ignore[dict-item]
    return Renderer(shape.model_copy(update={"languages": {language: alone}}), language, manner, 0)


def cases() -> list[tuple[str, str, str, str]]:
    """(shape, language, turn, template) of all templates."""
    found = []
    for name in shape_names():
        for code, language in load_set(set_path(name)).languages.items():
            for turn, part in (
                ("straight", language.templates),
                ("inverted", language.inverted),
                ("reasoned", language.reasoned),
            ):
                found += [(name, code, turn, template.name) for template in part]
    return found


def named(language: Language, name: str) -> AskTemplate:
    """The template of that name."""
    every = [*language.templates, *language.inverted, *language.reasoned]
    return next(template for template in every if template.name == name)


def rendered(case: tuple[str, str, str, str], style: str = "zero_shot") -> Iterator[tuple[Instance, Example]]:
    """Each instance of the shape in one template."""
    shape, code, turn, name = case
    made = load_set(set_path(shape))
    asks = renderer(made, code, named(made.languages[code], name), turn, style)
    for number, instance in enumerate(instances(made)):
        yield instance, asks.render(number, instance, Where("rows", number), base=Example(()))

"""Rows of an annotated dataset, read as instances of a shape: which column is which field, which value which label."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from shinan.core.errors import ConfigError, DataError, Problem, nearest, shown
from shinan.formats.annotated import FieldOf, TemplateSet
from shinan.formats.rows import Row, Where, kind
from shinan.formats.template import PromptTemplate

Columns = str | list[str]
"""Where a field stands in a row: a column, a path such as `translation.en` or `answers.text`, or a Jinja text over the
row; for `choices` also one column a choice, for `entities` also the columns of the texts and of the types."""

_BLANK = " \t\r\n\u3000\ufeff"  # XQuAD's contexts begin with a byte-order mark

_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's marks for a calculator: 48/2 = <<48/2=24>>24


class RowError(DataError):
    """A row that cannot be made into an example. `reason` is a short stable word."""

    def __init__(self, reason: str, what: str, *, where: str, fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Instance:
    """One row of a shape.

    Attributes:
        fields: value of each field; a label is its name, a choice its text.
        options: the possible answers: names of labels, or the row's own choices; none where the answer is open.
        right: which of them is right (0 where there are none).
    """

    fields: Mapping[str, Any]
    options: tuple[str, ...] = ()
    right: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """How the rows of one dataset are read; made by `reading`.

    Attributes:
        shape: what is read.
        columns: where each field stands.
        values: fields that are the same in every row.
        labels: {the dataset's value as text: name of the label, or position of the choice}.
        options: names of the labels that the dataset uses, in the shape's order.
        named: whether the dataset's mapping says what it calls the choices; else they are known by text, letter or
            position.
    """

    shape: TemplateSet
    columns: Mapping[str, Columns]
    values: Mapping[str, str]
    labels: Mapping[str, str]
    options: tuple[str, ...]
    named: bool = False

    def read(self, row: Row, where: Where) -> Instance:
        """The row as an instance. Raises RowError for a field that is missing, empty, of another kind, or no label."""
        at = _At(str(where), row)
        found: dict[str, Any] = dict(self.values)
        for name in self.shape.fields:
            if name in self.columns:
                found[name] = self._field(name, at, where)
        answer = self.shape.fields[self.shape.answer].kind
        if answer == "choice":
            return self._chosen(found, at)
        if answer == "label":
            return Instance(found, self.options, self.options.index(found[self.shape.answer]))
        return Instance(found)

    def value(self, path: str, name: str, row: Row, where: Where) -> Any:
        """What stands at the end of a path in a row. Raises RowError if nothing does."""
        return _At(str(where), row).get(path, name)

    def _field(self, name: str, at: _At, where: Where) -> Any:
        columns, spec = self.columns[name], self.shape.fields[name]
        if isinstance(columns, str) and "{{" in columns:
            return _READ[spec.kind](_filled(name, columns, at.row, where), name, at)
        found = at.get(columns, name) if isinstance(columns, str) else [at.get(path, name) for path in columns]
        if spec.kind == "label":
            return self._label(found, name, at)
        if spec.kind == "entities" and isinstance(columns, list):
            found = _zipped(found, name, at)
        return found if spec.kind == "choice" else _READ[spec.kind](found, name, at)

    def _label(self, value: Any, name: str, at: _At) -> str:
        key = _key(value)
        if key not in self.labels:
            raise at.fault(
                "unknown_label", f"the {name} {shown(value)} is none of the labels", nearest(key, self.labels)
            )
        return self.labels[key]

    def _chosen(self, found: dict[str, Any], at: _At) -> Instance:
        """The choice by what `labels` says; without them by its text, its letter, or its position counted from 0."""
        name = self.shape.answer
        value, choices = found[name], next(found[n] for n, spec in self.shape.fields.items() if spec.kind == "choices")
        if self.named:
            right = int(self.labels.get(_key(value), "-1"))
        elif isinstance(value, str) and value.strip(_BLANK) in choices:
            right = choices.index(value.strip(_BLANK))
        elif isinstance(value, int) and not isinstance(value, bool):
            right = value
        else:
            right = int(self.labels.get(_key(value), "-1"))
        if right not in range(len(choices)):
            fix = f"the choices are {shown(choices)}; say with `labels` how the dataset counts them"
            raise at.fault("unknown_label", f"the {name} {shown(value)} is none of the choices", fix)
        return Instance(found | {name: choices[right]}, tuple(choices), right)


def reading(
    shape: TemplateSet,
    columns: Mapping[str, Columns],
    values: Mapping[str, str],
    labels: Sequence[str] | Mapping[str, str] | None,
) -> Reading:
    """Check a mapping of columns to fields, and of a dataset's labels to the shape's.

    Args:
        shape: what is to be read.
        columns: {field: where it stands in a row}.
        values: {field: its value in every row}.
        labels: the labels of the dataset's values 0, 1, ..., or {value: label}. By default the values are the labels'
            names or numbers; choices are named by letter.

    Raises:
        ConfigError: with every field that is unknown, given twice or missing, and every label that the shape lacks.
    """
    problems = list(_column_faults(shape, columns, values))
    by_value, wrong = _labels_of(shape, labels)
    problems += wrong
    if problems:
        raise ConfigError(problems)
    used = shape.labels or list(dict.fromkeys(by_value.values()))
    options = tuple(label for label in used if label in by_value.values())
    return Reading(shape, columns, values, by_value, options, named=labels is not None)


_ONE_COLUMN = "name one column; `choices` may have one for each, `entities` two, and a text may be made by Jinja"


def _column_faults(shape: TemplateSet, columns: Mapping[str, Columns], values: Mapping[str, str]) -> list[Problem]:
    problems = []
    for where, given in (("fields", columns), ("values", values)):
        for name in given:
            if name not in shape.fields:
                what = f"the shape {shape.shape} has no field {name!r}"
                problems.append(Problem(what, f"{where} {name}", nearest(name, shape.fields)))
    for name, spec in shape.fields.items():
        if name in columns and name in values:
            problems.append(Problem(f"{name!r} has both a column and a value", f"values {name}", "leave one out"))
        if name not in columns and name not in values and not spec.optional:
            fix = f"name its column: {spec.about}"
            problems.append(Problem(f"the shape {shape.shape} needs the field {name!r}", "fields", fix))
        if name in values and spec.kind != "text":
            problems.append(Problem(f"{name!r} is not a text", f"values {name}", "name its column under `fields`"))
        if problem := _columns_fault(columns.get(name, ""), spec):
            problems.append(Problem(problem, f"fields {name}", _ONE_COLUMN))
    return problems


def _columns_fault(columns: Columns, spec: FieldOf) -> str:
    if isinstance(columns, list):
        fits = len(columns) > 1 if spec.kind == "choices" else spec.kind == "entities" and len(columns) == 2
        return "" if fits else f"{len(columns)} columns for a field of kind {spec.kind!r}"
    if "{{" not in columns:
        return ""
    if spec.kind not in ("text", "steps", "texts"):
        return f"a Jinja text for a field of kind {spec.kind!r}"
    try:
        PromptTemplate(name="field", input=columns, output=["-"])
    except ValidationError as error:
        return str(error.errors()[0]["ctx"]["error"])
    return ""


def _labels_of(
    shape: TemplateSet, labels: Sequence[str] | Mapping[str, str] | None
) -> tuple[dict[str, str], list[Problem]]:
    """{value as text: label}, and what is wrong with what was given."""
    answer = shape.fields[shape.answer].kind
    if answer == "choice":
        if isinstance(labels, Mapping):
            return {}, [Problem("the choices' names are a list", "labels", "write them in order: [A, B, C, D]")]
        return {name: str(index) for index, name in enumerate(labels or string.ascii_uppercase)}, []
    if answer != "label":
        wrong = Problem(f"the shape {shape.shape} has no labels", "labels", "take `labels` out")
        return {}, [wrong] if labels is not None else []
    if labels is None:
        if not shape.labels:
            fix = "list the names of the labels 0, 1, ..., in the language of the prompts"
            return {}, [Problem(f"in the shape {shape.shape} each dataset has its own labels", "labels", fix)]
        labels = shape.labels
    if isinstance(labels, Mapping):
        by_value = dict(labels)
    else:
        by_value = {str(index): label for index, label in enumerate(labels)} | {label: label for label in labels}
        if len(labels) == 2 == len(shape.labels):
            by_value = {"false": labels[0], "true": labels[1]} | by_value
    problems = [
        Problem(f"the shape {shape.shape} has no label {label!r}", "labels", nearest(label, shape.labels))
        for label in dict.fromkeys(by_value.values())
        if shape.labels and label not in shape.labels
    ]
    if len(set(by_value.values())) < 2:
        problems.append(Problem("there is only one label", "labels", "name every label that the dataset uses"))
    return by_value, problems


@dataclass(frozen=True, slots=True)
class _At:
    """A row and its place."""

    where: str
    row: Row

    def fault(self, reason: str, what: str, fix: str = "correct the row or the mapping") -> RowError:
        return RowError(reason, what, where=self.where, fix=fix)

    def get(self, path: str, name: str) -> Any:
        """The value at the end of a path; in a list, of each of its items."""
        if path in self.row:  # a column may have a dot in its name
            return self.row[path]
        value: Any = self.row
        for step in path.split("."):
            value = self._step(value, step, path, name)
        return value

    def _step(self, value: Any, step: str, path: str, name: str) -> Any:
        if isinstance(value, list):
            return [self._step(item, step, path, name) for item in value]
        if not isinstance(value, dict) or step not in value:
            keys = list(value) if isinstance(value, dict) else []
            what = f"{name} is read from {path!r}, and there is no {step!r} among {', '.join(map(repr, keys[:12]))}"
            raise self.fault("missing_field", what, nearest(step, keys))
        return value[step]


def _filled(name: str, source: str, row: Row, where: Where) -> str:
    try:
        return PromptTemplate(name=name, input=source, output=["-"]).apply(row, where, 0).prompt_text
    except DataError as error:
        raise RowError("missing_field", error.what, where=error.where, fix=error.fix) from None


def _key(value: Any) -> str:
    """A dataset's label as text: 1, 1.0, "1" and " 1" are the same, true is `true`."""
    if isinstance(value, bool) or value is None:
        return kind(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip(_BLANK) if isinstance(value, str | int | float) else kind(value)


def _text(value: Any, name: str, at: _At) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip(_BLANK)):
        raise at.fault("empty_field", f"{name} is empty")
    if not isinstance(value, str):
        raise at.fault("wrong_type", f"{name} is {kind(value)}, not text")
    return value.strip(_BLANK)


def _steps(value: Any, name: str, at: _At) -> str:
    return _text(_CALCULATOR.sub("", _text(value, name, at)), name, at)


def _list(value: Any, name: str, at: _At) -> list[Any]:
    if not isinstance(value, list):
        raise at.fault("wrong_type", f"{name} is {kind(value)}, not a list")
    if not value:
        raise at.fault("empty_field", f"{name} is empty")
    return value


def _texts(value: Any, name: str, at: _At) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(_text(item, name, at) for item in _list(items, name, at)))


def _choices(value: Any, name: str, at: _At) -> list[str]:
    choices = [_text(item, name, at) for item in _list(value, name, at)]
    if len(set(choices)) < len(choices) or len(choices) < 2:
        raise at.fault("bad_choices", f"{name} must be two or more, all different: {shown(choices)}")
    return choices


def _facts(value: Any, name: str, at: _At) -> list[str]:
    items = value if isinstance(value, list) else [value]
    facts = []
    for item in _list(items, name, at):
        parts = item if isinstance(item, list) else [item]
        facts.append(" | ".join(_text(part, name, at) for part in parts))
    return facts


def _entities(value: Any, name: str, at: _At) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise at.fault("wrong_type", f"{name} is {kind(value)}, not a list")
    entities = []
    for item in value:
        pair = [item.get("text"), item.get("type")] if isinstance(item, dict) else item
        if not isinstance(pair, list) or len(pair) != 2:
            raise at.fault("wrong_type", f"{name} has {shown(item)}", 'write each like {"text": "...", "type": "..."}')
        entities.append({"text": _text(pair[0], name, at), "type": _text(pair[1], name, at)})
    return entities


def _zipped(columns: list[Any], name: str, at: _At) -> list[list[Any]]:
    texts, types = columns
    if not isinstance(texts, list) or not isinstance(types, list) or len(texts) != len(types):
        raise at.fault("wrong_type", f"{name} needs two lists of the same length")
    return [list(pair) for pair in zip(texts, types, strict=True)]


_READ = {"text": _text, "steps": _steps, "texts": _texts, "choices": _choices, "facts": _facts, "entities": _entities}

"""Strict configuration: YAML with line numbers, every error at once, the nearest valid name for a mistyped key."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from shinan.core.errors import ConfigError, Problem, nearest

Keys = tuple[str | int, ...]
M = TypeVar("M", bound="Config")


class Config(BaseModel):
    """Base of everything a person types: unknown keys and loose types are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


@dataclass(slots=True)
class Document:
    """A parsed YAML file: plain data, and the line each key stands on."""

    data: Any
    path: str
    lines: dict[Keys, int] = field(default_factory=dict)

    def where(self, keys: Sequence[str | int]) -> str:
        """`file:line: a.b` for a key path; the nearest enclosing line if the key itself is absent."""
        known = tuple(keys)
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known)
        dotted = ".".join(str(key) for key in keys)
        place = f"{self.path}:{line}" if line else self.path
        return f"{place}: {dotted}" if dotted else place


class _Rules(Composer, SafeConstructor, Resolver):
    """Safe loading in which only `true` and `false` are booleans (YAML 1.2): `no` is Norwegian, not False.

    Dates stay text, and `1e-4` is a number, as in YAML 1.2.
    """


_CHANGED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
_Rules.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag not in _CHANGED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Rules.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), ["t", "f"])
_Rules.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?)$"),
    list("-+.0123456789"),
)

if yaml.__with_libyaml__:
    from yaml._yaml import CParser

    class _Loader(_Rules, CParser):
        """libyaml parses (four times as fast); nodes are composed in Python, where deep nesting raises, not crashes."""

        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

else:

    class _Loader(_Rules, yaml.SafeLoader):  # type: ignore[no-redef]
        """PyYAML built without libyaml."""


def load_yaml(path: Path) -> Document:
    """Parse a YAML file into data and line numbers.

    Raises ConfigError for a missing or unreadable file, broken YAML, or a key given twice (each with its line).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = sorted(str(p.name) for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise ConfigError([Problem("no such file", str(path), nearest(path.name, near))]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(f"cannot read it: {error}", str(path), "save it as UTF-8 text")]) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, path: str = "<text>") -> Document:
    """`load_yaml` for text already read."""
    document = Document(None, path)
    problems: list[Problem] = []
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _note_lines(node, (), document, problems)
                document.data = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError([Problem(f"not valid YAML: {error.problem}", f"{path}{line}")]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([Problem(f"not valid YAML: {error}", path)]) from None
    if problems:
        raise ConfigError(problems)
    return document


def _note_lines(node: yaml.Node, keys: Keys, document: Document, problems: list[Problem]) -> None:
    document.lines.setdefault(keys, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key_node, value_node in node.value:
            path = (*keys, str(key_node.value))
            if key_node.value in seen:
                where = f"{document.path}:{key_node.start_mark.line + 1}: {'.'.join(map(str, path))}"
                problems.append(Problem("this key is given twice", where, "keep one of the two"))
            seen.add(key_node.value)
            document.lines[path] = key_node.start_mark.line + 1
            _note_lines(value_node, path, document, problems)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*keys, index), document, problems)


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """Apply `a.b=value` settings (values are YAML; list items are addressed by index). Raises ConfigError."""
    problems: list[Problem] = []
    for text in overrides:
        dotted, equals, raw = text.partition("=")
        where = f"--set {text}"
        if not equals or not dotted:
            problems.append(Problem("expected KEY=VALUE", where, "write it like --set tune.epochs=2"))
            continue
        *parents, last = dotted.split(".")
        target = document.data
        try:
            for key in parents:
                target = target[int(key)] if isinstance(target, list) else target.setdefault(key, {})
            if isinstance(target, list):
                target[int(last)] = parse_yaml(raw, where).data
            else:
                target[last] = parse_yaml(raw, where).data
        except ConfigError as error:
            problems.extend(error.problems)
        except (TypeError, AttributeError, ValueError, IndexError):
            problems.append(Problem("no such place in the recipe", where, "check the keys before the last one"))
        else:
            document.lines.pop((*parents, last), None)
    if problems:
        raise ConfigError(problems)
    return document


def validate(model: type[M], document: Document) -> M:
    """Turn a document into a config object. Raises ConfigError with every problem, each at its line."""
    if not isinstance(document.data, dict):
        raise ConfigError([Problem("expected keys and values", document.path, "see `shinan new` for an example")])
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(problems_of(error, model, document.where)) from None


def problems_of(
    error: ValidationError, model: type[BaseModel], where: Callable[[Sequence[str | int]], str]
) -> list[Problem]:
    """pydantic's errors as sentences; unknown keys get the nearest valid name."""
    problems = []
    for item in error.errors():
        keys = [key for key in item["loc"] if not (isinstance(key, str) and key.startswith(("function-", "list[")))]
        if item["type"] == "extra_forbidden":
            fix = nearest(str(keys[-1]), _field_names(model, keys[:-1]))
            problems.append(Problem(f"unknown key {keys[-1]!r}", where(keys), fix))
        elif item["type"] == "missing":
            problems.append(Problem(f"{keys[-1]!r} is missing", where(keys), "add it"))
        elif item["type"] == "value_error":
            problems.append(Problem(str(item["ctx"]["error"]), where(keys)))
        else:
            got = repr(item["input"])
            shown = got if len(got) <= 60 else got[:57] + "..."
            problems.append(Problem(f"{item['msg']} (got {shown})", where(keys)))
    return problems


def _field_names(model: type[BaseModel], keys: Sequence[str | int]) -> list[str]:
    """Field names of the (possibly nested) model that `keys` lead to."""
    annotation: Any = model
    for key in keys:
        annotation = _inner_model(annotation)
        if annotation is None:
            return []
        if isinstance(key, str) and key in annotation.model_fields:
            annotation = annotation.model_fields[key].annotation
    inner = _inner_model(annotation)
    return list(inner.model_fields) if inner else []


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list, tuple, dict):
        return next(filter(None, map(_inner_model, get_args(annotation))), None)
    return None

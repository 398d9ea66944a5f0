"""Strict configuration: YAML with line numbers, every error at once, the nearest valid name for a mistyped key."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import Resolver

from shinan.core.errors import ConfigError, Problem, nearest, shown

Keys = tuple[str | int, ...]
M = TypeVar("M", bound="Config")

_MERGED = 1000  # keys of a mapping that merges others


class Config(BaseModel):
    """Base of everything a person types: unknown keys and loose types are errors, values are frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


@dataclass(slots=True)
class Document:
    """A parsed YAML file: plain data, and where each key stands: `file:line`, or the `--set` that wrote it."""

    data: Any
    path: str
    places: dict[Keys, str] = field(default_factory=dict)

    def where(self, keys: Sequence[str | int]) -> str:
        """`file:line: a.b` for a key path; the nearest enclosing line if the key itself is absent."""
        known = tuple(keys)
        while known and known not in self.places:
            known = known[:-1]
        place = self.places.get(known, self.path)
        dotted = ".".join(str(key) for key in keys)
        return f"{place}: {dotted}" if dotted else place


class _Rules(Composer, SafeConstructor, Resolver):
    """Plain data only, in which only `true` and `false` are booleans (YAML 1.2): `no` is Norwegian, not False.

    Dates stay text, and `1e-4` is a number, as in YAML 1.2; `12:30` and `010`, 750 and 8 in YAML 1.1, stay text too.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put merged keys (`<<`) in. Every level of aliases multiplies them, so a few lines could fill the memory."""
        given = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > max(given, _MERGED):
            raise ConstructorError(None, None, f"`<<` makes a mapping of more than {_MERGED} keys", node.start_mark)


_TAG = "tag:yaml.org,2002:"
_CHANGED = (f"{_TAG}bool", f"{_TAG}timestamp", f"{_TAG}float", f"{_TAG}int")
_PLAIN = (None, *(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map")))
_Rules.yaml_constructors = {tag: make for tag, make in SafeConstructor.yaml_constructors.items() if tag in _PLAIN}
_Rules.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag not in _CHANGED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Rules.add_implicit_resolver(f"{_TAG}bool", re.compile("^(?:true|false)$"), ["t", "f"])
_Rules.add_implicit_resolver(f"{_TAG}int", re.compile("^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_FLOAT = (
    f"{_TAG}float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?)$"),
    list("-+.0123456789"),
)
_Rules.add_implicit_resolver(*_FLOAT)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that YAML 1.1 would read as something else, and those that we would."""


_Dumper.add_implicit_resolver(*_FLOAT)

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


def _loader(mappings: Sequence[str]) -> type[_Loader]:
    """The loader that reads mappings with these tags as plain ones."""
    known = dict(_Rules.yaml_constructors)
    for tag in mappings:
        known[tag] = known[f"{_TAG}map"]
    return type("_Loader", (_Loader,), {"yaml_constructors": known})


def load_yaml(path: Path, mappings: Sequence[str] = ()) -> Document:
    """Parse a YAML file into data and line numbers. `mappings` are tags (`!Name`) of mappings to read as plain ones.

    Raises ConfigError for a missing or unreadable file, broken YAML, or a key given twice (each with its line).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = sorted(str(p.name) for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise ConfigError([Problem("no such file", str(path), nearest(path.name, near))]) from None
    except OSError as error:
        raise ConfigError([Problem(f"cannot read it: {error.strerror}", str(path), "name a readable file")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(f"cannot read it: {error}", str(path), "save it as UTF-8 text")]) from None
    except ValueError as error:  # a NUL character in the name
        raise ConfigError([Problem(f"cannot read it: {error}", str(path), "name a readable file")]) from None
    return parse_yaml(text, str(path), mappings)


def parse_yaml(text: str, path: str = "<text>", mappings: Sequence[str] = ()) -> Document:
    """`load_yaml` for text already read."""
    document = Document(None, path)
    problems: list[Problem] = []
    try:
        loader = _loader(mappings)(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _note_places(node, (), document, problems, set())
                document.data = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise ConfigError([Problem(f"not valid YAML: {what}", f"{path}{line}")]) from None
    except RecursionError:
        raise ConfigError([Problem("not usable YAML: nested too deeply", path)]) from None
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise ConfigError([Problem(f"not valid YAML: {error}", path)]) from None
    if problems:
        raise ConfigError(problems)
    return document


def dump_yaml(data: Any) -> str:
    """Plain data as YAML that `parse_yaml` reads as the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _note_places(node: yaml.Node, keys: Keys, document: Document, problems: list[Problem], visited: set[int]) -> None:
    """Note the line of every key under `node`, once: following each alias anew would take exponential time."""
    if id(node) in visited:
        return
    visited.add(id(node))
    document.places.setdefault(keys, f"{document.path}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # a list as a key: refused where the data are made
            name = str(key_node.value)
            path, place = (*keys, name), f"{document.path}:{key_node.start_mark.line + 1}"
            if name in seen:
                dotted = ".".join(map(str, path))
                problems.append(Problem("this key is given twice", f"{place}: {dotted}", "keep one of the two"))
            seen.add(name)
            document.places[path] = place
            _note_places(value_node, path, document, problems, visited)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_places(item, (*keys, index), document, problems, visited)


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """Apply `a.b=value` settings (values are YAML; list items are addressed by index).

    Raises ConfigError with all that cannot be applied, after the others were.
    """
    problems: list[Problem] = []
    for text in overrides:
        dotted, equals, raw = text.partition("=")
        where = f"--set {text}"
        if not equals or not dotted:
            problems.append(Problem("expected KEY=VALUE", where, "write it like --set tune.epochs=2"))
            continue
        try:
            value = parse_yaml(raw, where).data
            document.data, place = _replaced(document.data, dotted.split("."), value)
        except ConfigError as error:
            problems.extend(error.problems)
        except (TypeError, ValueError, IndexError, RecursionError):
            problems.append(Problem("no such place in the recipe", where, "check the keys before the last one"))
        else:
            kept = {keys: line for keys, line in document.places.items() if keys[: len(place)] != place}
            document.places = kept | {place: where}
    if problems:
        raise ConfigError(problems)
    return document


def _replaced(data: Any, keys: Sequence[str], value: Any) -> tuple[Any, Keys]:
    """`data` with `value` at `keys`, and that place. What lies on the way is copied, since an anchor may share it.

    Raises TypeError, ValueError or IndexError if the keys lead nowhere.
    """
    if not keys:
        return value, ()
    first = keys[0]
    if isinstance(data, list):
        index = range(len(data))[int(first)]
        changed, rest = _replaced(data[index], keys[1:], value)
        return [*data[:index], changed, *data[index + 1 :]], (index, *rest)
    if isinstance(data, dict):
        inner = {} if data.get(first) is None else data[first]
        changed, rest = _replaced(inner, keys[1:], value)
        return data | {first: changed}, (first, *rest)
    raise TypeError(f"no key {first!r} in {shown(data)}")


def validate(model: type[M], document: Document) -> M:
    """Turn a document into a config object. Raises ConfigError with every problem, each at its line."""
    if not isinstance(document.data, dict):
        raise ConfigError([Problem("expected keys and values", document.path, "see `shinan new` for an example")])
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(problems_of(error, model, document.data, document.where)) from None


def problems_of(
    error: ValidationError, model: type[BaseModel], data: Any, where: Callable[[Sequence[str | int]], str]
) -> list[Problem]:
    """pydantic's errors about `data` as sentences; unknown keys get the nearest valid name."""
    found = [(_place_in(data, item["loc"], item["type"]), item) for item in error.errors()]
    problems = []
    for keys, item in found:
        if any(len(other) > len(keys) and other[: len(keys)] == keys for other, _ in found):
            continue  # only another form that the value could have had: what is wrong lies deeper
        if item["type"] == "extra_forbidden":
            fix = nearest(str(keys[-1]), _field_names(model, keys[:-1]))
            problems.append(Problem(f"unknown key {shown(keys[-1])}", where(keys), fix))
        elif item["type"] == "missing":
            problems.append(Problem(f"{keys[-1]!r} is missing", where(keys), "add it"))
        elif item["type"] == "value_error":
            problems.append(Problem(str(item["ctx"]["error"]), where(keys)))
        else:
            problems.append(Problem(f"{item['msg']} (got {shown(item['input'])})", where(keys)))
    return problems


def _place_in(data: Any, loc: Sequence[str | int], kind: str) -> Keys:
    """`loc` without what pydantic puts between the keys: the branches of a union (`bool`, `list[str]`), `[key]`."""
    keys: list[str | int] = []
    for key in loc:
        if (key in data) if isinstance(data, dict) else isinstance(key, int):
            keys.append(key)
            data = cast(Any, data)[key] if isinstance(data, dict | list | tuple) else None
    return (*keys, loc[-1]) if kind == "missing" else tuple(keys)


def _field_names(model: type[BaseModel], keys: Sequence[str | int]) -> list[str]:
    """Names, as they are typed, of the fields of the (possibly nested) model that `keys` lead to."""
    annotation: Any = model
    for key in keys:
        inner = _inner_model(annotation)
        if inner is None:
            return []
        annotation = next((f.annotation for name, f in inner.model_fields.items() if key == (f.alias or name)), inner)
    inner = _inner_model(annotation)
    return [field.alias or name for name, field in inner.model_fields.items()] if inner else []


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The first model in an annotation such as `dict[str, M]`, `list[M]` or `M | bool`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner_model, get_args(annotation))), None)

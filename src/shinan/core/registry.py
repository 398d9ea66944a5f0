"""One table of named components: kind + name -> a function, its version and its parameters.

A component is a plain function with a decorator. What a recipe says under `with:` is validated against the function's
signature before anything runs, and recorded with defaults filled in, so that a stage's key tells exactly what ran.
Third parties register by an entry point in the group `shinan`, which names a module to import.

    @register("check", "structure", version=1)
    def structure(*, max_words: int = 2048) -> Check: ...
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from shinan.core.config import problems_of
from shinan.core.errors import ConfigError, Problem, RunError, nearest

F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[Mapping[str, Any]], Iterable[Problem]]


@dataclass(frozen=True, slots=True)
class Component:
    """A registered function.

    Attributes:
        kind: what it can be used for (`build`, `check`, `scorer`, `objective`).
        name: what recipes call it.
        version: raised whenever its results change; part of every cache key.
        function: the function itself.
        content: what it reads from outside its parameters (files, collections), as a JSON-able value: part of every
            cache key too, so that edited data is never taken for the old.
        check: what is wrong with parameters of the right types: names that do not exist, options that exclude each
            other. `where` of each problem is a parameter's name.
    """

    kind: str
    name: str
    version: int
    function: Callable[..., Any]
    content: Callable[[Mapping[str, Any]], Any] | None = None
    check: Check | None = None

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @property
    def takes_rows(self) -> bool:
        """Whether a build component is called with rows of other stages: `(seed, rows, *, ...)`."""
        rows = inspect.signature(self.function).parameters.get("rows")
        return rows is not None and rows.kind is not rows.KEYWORD_ONLY


@dataclass(frozen=True, slots=True)
class Bound:
    """A component with validated parameters, defaults filled in."""

    component: Component
    params: Mapping[str, Any]

    def __call__(self, *args: Any) -> Any:
        """Call the function: positional `args` from the code, keywords from the recipe."""
        return self.component.function(*args, **self.params)

    def identity(self) -> dict[str, Any]:
        """What goes into a cache key: kind, name, version, every parameter, and the content it reads."""
        dump = {name: TypeAdapter(Any).dump_python(value, mode="json") for name, value in sorted(self.params.items())}
        identity = {
            "use": f"{self.component.kind}.{self.component.name}",
            "version": self.component.version,
            "with": dump,
        }
        content = self.component.content
        return identity if content is None else identity | {"content": content(self.params)}


_TABLE: dict[tuple[str, str], Component] = {}


def register(
    kind: str,
    name: str,
    *,
    version: int = 1,
    content: Callable[[Mapping[str, Any]], Any] | None = None,
    check: Check | None = None,
) -> Callable[[F], F]:
    """Decorator: enter a function under (kind, name). Keyword-only parameters are the recipe's options.

    `version`, `content` and `check`: see `Component`. Raises ValueError if another function already has that name.
    """

    def enter(function: F) -> F:
        old = _TABLE.get((kind, name))
        same = old and (old.function.__module__, old.function.__qualname__) == (
            function.__module__,
            function.__qualname__,
        )
        if old and not same:
            raise ValueError(f"two components named {kind}.{name}: {old.function!r} and {function!r}")
        _TABLE[kind, name] = Component(kind, name, version, function, content, check)
        return function

    return enter


@cache
def _load_plugins() -> None:
    for point in entry_points(group="shinan"):
        try:
            point.load()
        except Exception as error:
            what = f"the plug-in cannot be loaded: {type(error).__name__}: {error}"
            fix = "repair or uninstall the package that declares this entry point"
            raise RunError(what, where=f"{point.name} = {point.value}", fix=fix) from error


def names(kind: str) -> list[str]:
    """Registered names of a kind, plug-ins included."""
    _load_plugins()
    return sorted(name for k, name in _TABLE if k == kind)


def lookup(kind: str, name: str, *, where: str = "") -> Component:
    """The component of that name. Raises ConfigError with the nearest valid name."""
    _load_plugins()
    found = _TABLE.get((kind, name))
    if found is None:
        raise ConfigError([Problem(f"no {kind} is named {name!r}", where, nearest(name, names(kind)))])
    return found


def bind(kind: str, name: str, params: Mapping[str, Any], *, where: str = "") -> Bound:
    """Validate `params` against the component's keyword-only parameters.

    Raises ConfigError naming every unknown, missing or mistyped parameter, or then all that its `check` finds, each
    with `where` and its name.
    """
    component = lookup(kind, name, where=where)
    fields: dict[str, Any] = {}
    hints = typing.get_type_hints(component.function, include_extras=True)  # extras: PositiveInt and the like
    for parameter in inspect.signature(component.function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model = create_model(f"{kind}.{name}", __config__=strict, **fields)
    try:
        checked = model.model_validate(dict(params))
    except ValidationError as error:
        problems = problems_of(error, model, params, lambda path: f"{where} {'.'.join(map(str, path))}".lstrip())
        raise ConfigError(problems) from None
    bound = Bound(component, {key: getattr(checked, key) for key in fields})
    wrong = list(component.check(bound.params)) if component.check else []
    if wrong:
        raise ConfigError([problem._replace(where=f"{where} {problem.where}".lstrip()) for problem in wrong])
    return bound

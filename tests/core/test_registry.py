"""Components: how parameters are checked and recorded, and how others add theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import PositiveInt

from shinan.core import registry
from shinan.core.errors import ConfigError, RunError
from shinan.core.registry import Component, bind, lookup, names, register


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_TABLE", {})
    registry._load_plugins.cache_clear()
    yield
    registry._load_plugins.cache_clear()


def sized(*, size: PositiveInt, unit: Literal["words", "characters"] = "words", only: list[str] | None = None) -> Any:
    """Keeps rows of a size.

    More text.
    """
    return size, unit, only


def told(function: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        function()
    return str(caught.value).splitlines()


class TestBinding:
    def test_defaults_are_filled_in_and_given_to_the_function(self) -> None:
        register("check", "sized", version=3)(sized)
        bound = bind("check", "sized", {"size": 5})
        assert dict(bound.params) == {"size": 5, "unit": "words", "only": None}
        assert bound() == (5, "words", None)
        assert bind("check", "sized", {"size": 5, "only": ["a"]})() == (5, "words", ["a"])

    def test_positional_parameters_are_the_codes_own(self) -> None:
        @register("build", "rows")
        def rows(seed: int, *, limit: int = 2) -> tuple[int, int]:
            return seed, limit

        assert bind("build", "rows", {"limit": 4})(7) == (7, 4)
        assert told(lambda: bind("build", "rows", {"seed": 1}, where="r.yaml:3: build.0")) == [
            "r.yaml:3: build.0 seed: unknown key 'seed'",
            "  do this: use one of: limit",
        ]

    @pytest.mark.promise10
    def test_every_wrong_parameter_is_told(self) -> None:
        register("check", "sized")(sized)
        wrong = {"siez": 3, "unit": "lines", "only": ["a", 1]}
        assert told(lambda: bind("check", "sized", wrong, where="r.yaml:9: curate.0")) == [
            "r.yaml:9: curate.0 size: 'size' is missing",
            "  do this: add it",
            "r.yaml:9: curate.0 unit: Input should be 'words' or 'characters' (got 'lines')",
            "r.yaml:9: curate.0 only.1: Input should be a valid string (got 1)",
            "r.yaml:9: curate.0 siez: unknown key 'siez'",
            "  do this: did you mean 'size'?",
        ]

    @pytest.mark.parametrize(
        ("size", "sentence"),
        [
            ("5", "size: Input should be a valid integer (got '5')"),
            (True, "size: Input should be a valid integer (got True)"),
            (0, "size: Input should be greater than 0 (got 0)"),
        ],
    )
    def test_types_are_strict(self, size: object, sentence: str) -> None:
        register("check", "sized")(sized)
        assert told(lambda: bind("check", "sized", {"size": size})) == [sentence]

    @pytest.mark.promise10
    def test_an_unknown_name(self) -> None:
        register("check", "sized")(sized)
        register("scorer", "other")(sized)
        assert told(lambda: lookup("check", "sizd", where="r.yaml:4: curate.0")) == [
            "r.yaml:4: curate.0: no check is named 'sizd'",
            "  do this: did you mean 'sized'?",
        ]
        assert told(lambda: bind("checks", "sized", {})) == ["no checks is named 'sized'"]
        assert (names("check"), names("scorer"), names("none")) == (["sized"], ["other"], [])


class TestIdentity:
    def test_it_holds_version_and_every_parameter(self) -> None:
        register("check", "sized", version=3)(sized)
        assert bind("check", "sized", {"size": 5}).identity() == {
            "use": "check.sized",
            "version": 3,
            "with": {"only": None, "size": 5, "unit": "words"},
        }

    def test_a_default_and_the_same_value_spelt_out_are_one(self) -> None:
        register("check", "sized")(sized)
        short, long = bind("check", "sized", {"size": 5}), bind("check", "sized", {"unit": "words", "size": 5})
        assert json.dumps(short.identity()) == json.dumps(long.identity())

    def test_what_is_read_from_outside_is_part_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "rows"
        path.write_text("one", "utf-8")

        @register("build", "file", content=lambda params: Path(params["path"]).read_text("utf-8"))
        def file(*, path: str) -> None: ...

        bound = bind("build", "file", {"path": str(path)})
        before = bound.identity()
        path.write_text("two", "utf-8")
        assert (before["content"], bound.identity()["content"]) == ("one", "two")

    def test_values_become_json(self) -> None:
        @register("build", "odd")
        def odd(*, kinds: tuple[str, ...] = ("a",), path: Path = Path("x")) -> None: ...

        assert json.loads(json.dumps(bind("build", "odd", {}).identity()["with"])) == {"kinds": ["a"], "path": "x"}

    def test_the_summary_is_the_first_line(self) -> None:
        register("check", "sized")(sized)
        assert lookup("check", "sized").summary == "Keeps rows of a size."
        assert Component("check", "none", 1, lambda: None).summary == ""


class TestRegistering:
    def test_a_second_function_of_one_name_is_refused(self) -> None:
        register("check", "sized")(sized)

        def other() -> None: ...

        with pytest.raises(ValueError, match=r"two components named check\.sized: .*sized.* and .*other"):
            register("check", "sized")(other)
        assert lookup("check", "sized").function is sized
        assert register("scorer", "sized")(other) is other  # another kind

    def test_a_module_may_be_read_again(self) -> None:
        register("check", "sized", version=1)(sized)
        register("check", "sized", version=2)(sized)
        assert lookup("check", "sized").version == 2


class TestPlugins:
    @pytest.fixture
    def install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
        """Puts a distribution with one module, named by an entry point, on sys.path."""

        def add(code: str) -> None:
            info = tmp_path / "shinan_extra-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shinan-extra\nVersion: 1.0\n", "utf-8")
            (info / "entry_points.txt").write_text("[shinan]\nextra = shinan_extra_for_tests\n", "utf-8")
            (tmp_path / "shinan_extra_for_tests.py").write_text(code, "utf-8")
            monkeypatch.syspath_prepend(tmp_path)

        yield add
        sys.modules.pop("shinan_extra_for_tests", None)

    def test_an_entry_point_names_a_module_that_registers(self, install: Callable[[str], None]) -> None:
        install(
            "from shinan.core.registry import register\n\n"
            '@register("check", "shouting", version=2)\n'
            'def shouting(*, share: float = 0.5) -> str:\n    """Drops loud rows."""\n    return f"over {share}"\n'
        )
        assert names("check") == ["shouting"]
        bound = bind("check", "shouting", {"share": 0.25})
        assert (bound(), bound.component.summary, bound.identity()["version"]) == ("over 0.25", "Drops loud rows.", 2)
        assert told(lambda: bind("check", "shoutin", {}))[1] == "  do this: did you mean 'shouting'?"

    @pytest.mark.promise10
    @pytest.mark.parametrize(
        ("code", "why"),
        [
            ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
            ("1 / 0", "ZeroDivisionError: division by zero"),
        ],
    )
    def test_a_broken_one_is_named(self, install: Callable[[str], None], code: str, why: str) -> None:
        install(code)
        with pytest.raises(RunError) as caught:
            names("check")
        assert str(caught.value) == (
            f"extra = shinan_extra_for_tests: the plug-in cannot be loaded: {why}\n"
            "  do this: repair or uninstall the package that declares this entry point"
        )

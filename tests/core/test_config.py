"""Configuration: what is read, and what a person is told who mistyped it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

from shinan.core import config
from shinan.core.config import Config, Document, apply_overrides, dump_yaml, load_yaml, parse_yaml, validate
from shinan.core.errors import ConfigError


class Inner(Config):
    """A nested section."""

    n: int = Field(8, ge=2)
    params: dict[str, int] = Field(default_factory=dict, alias="with")


class Outer(Config):
    """A whole file."""

    name: str
    seed: int = 0
    rate: float = 1.0
    fast: bool = False
    sections: list[Inner] = Field(default_factory=list)
    by_name: dict[str, Inner] = Field(default_factory=dict)
    clean: Inner | bool = True
    words: list[str] | str = "a"

    @field_validator("name")
    @classmethod
    def _short(cls, name: str) -> str:
        if len(name) > 9:
            raise ValueError(f"{name!r} is too long")
        return name


def read(text: str, *overrides: str) -> Outer:
    return validate(Outer, apply_overrides(parse_yaml(text, "r.yaml"), overrides))


def told(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    return str(caught.value)


class _PythonLoader(config._Rules, yaml.SafeLoader):
    """What is used where PyYAML was built without libyaml."""


class TestValues:
    """Scalars as in YAML 1.2, whichever parser reads them."""

    @pytest.fixture(params=["libyaml", "python"], autouse=True)
    def _parser(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "python":
            monkeypatch.setattr(config, "_Loader", _PythonLoader)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("true", True),
            ("false", False),
            *[(word, word) for word in ("yes", "no", "on", "off", "y", "n", "True", "FALSE")],
            ("2001-01-31", "2001-01-31"),
            ("2001-01-31 12:00:00", "2001-01-31 12:00:00"),
            ("12:30", "12:30"),
            ("010", "010"),
            ("1_000", "1_000"),
            ("0x10", "0x10"),
            ("0", 0),
            ("-3", -3),
            ("+4", 4),
            ("1e-4", 0.0001),
            ("1E5", 100000.0),
            ("-1.5e+3", -1500.0),
            (".5", 0.5),
            ("1.", 1.0),
            ("1.2.3", "1.2.3"),
            (".inf", ".inf"),
            (".nan", ".nan"),
            ("null", None),
            ("~", None),
            ("", None),
            ("'true'", "true"),
            ('"1e-4"', "1e-4"),
            ("1e", "1e"),
            ("文", "文"),
        ],
    )
    def test_scalars(self, text: str, value: object) -> None:
        found = parse_yaml(f"key: {text}").data["key"]
        assert (found, type(found)) == (value, type(value))

    def test_nested_data_anchors_and_merging(self) -> None:
        text = "base: &base {a: 1}\nuse: *base\nmore: {<<: *base, b: [x, {y: 2}]}\n"
        assert parse_yaml(text).data == {"base": {"a": 1}, "use": {"a": 1}, "more": {"a": 1, "b": ["x", {"y": 2}]}}

    @pytest.mark.parametrize(
        "text",
        ["a: !!timestamp x", "a: !!set {b, c}", "a: !!binary eA==", "a: !!python/object/apply:os.system [ls]", "!x a"],
    )
    def test_tags_make_nothing_but_plain_data(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"t\.yaml:1: not valid YAML: could not determine a constructor"):
            parse_yaml(text, "t.yaml")

    @pytest.mark.parametrize("text", ["a: !!int ''", "a: !!int x", "a: !!float ''", "a: !!bool x", "a: " + "9" * 5000])
    def test_a_tag_that_does_not_fit_its_value(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"t\.yaml: not valid YAML: "):
            parse_yaml(text, "t.yaml")

    @pytest.mark.promise10
    @pytest.mark.parametrize("text", ["[" * 3000, "a: " * 50 + "{" * 3000])
    def test_deep_nesting_is_an_error_not_a_crash(self, text: str) -> None:
        with pytest.raises(ConfigError):
            parse_yaml(text)

    def test_aliases_of_aliases_are_followed_once(self) -> None:
        lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 6))]
        document = parse_yaml("\n".join(lines), "r.yaml")
        assert len(document.places) < 20  # of 66,430 paths to an x
        assert document.where(("a5", 3, 3)) == "r.yaml:6: a5.3.3"

    def test_a_list_that_holds_itself(self) -> None:
        assert told("name: &a [*a]\n") == "r.yaml:1: name: Input should be a valid string (got [[...]])"

    @pytest.mark.promise10
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("a: 1\nb: [1\nc: 2\n", "r.yaml:3: not valid YAML: while parsing a flow sequence, "),
            ("a: 'x\n", "r.yaml:2: not valid YAML: while scanning a quoted scalar, found unexpected end of stream"),
            ("a: 1\nb: *x\n", "r.yaml:2: not valid YAML: found undefined alias 'x'"),
            ("a: 1\n---\nb: 2\n", "r.yaml:2: not valid YAML: expected a single document in the stream, but found ano"),
            ("? [a, b]\n: 1\n", "r.yaml:1: not valid YAML: while constructing a mapping, found unhashable key"),
            ("a: \x07\n", "r.yaml: not valid YAML: "),
        ],
    )
    def test_broken_yaml_is_told_with_its_line(self, text: str, sentence: str) -> None:
        assert told(text).startswith(sentence)

    @pytest.mark.promise10
    def test_keys_given_twice(self) -> None:
        assert told("a: {b: 1, b: 2}\nc:\n  - d: 1\n    e: 2\n    d: 3\na: 4\n") == (
            "r.yaml:1: a.b: this key is given twice\n  do this: keep one of the two\n"
            "r.yaml:5: c.0.d: this key is given twice\n  do this: keep one of the two\n"
            "r.yaml:6: a: this key is given twice\n  do this: keep one of the two"
        )


@pytest.mark.promise10
@given(st.text(st.characters(exclude_categories=())) | st.text("ab01:-?[]{},&*!|>'\"%@#~<=. \n\t", max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_document_or_a_config_error(text: str) -> None:
    try:
        document = parse_yaml(text)
    except ConfigError as error:
        assert str(error).startswith("<text>")  # noqa: PT017
    else:
        assert isinstance(document, Document)


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(_PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
@settings(max_examples=100, deadline=None)
def test_what_pyyaml_writes_with_quotes_and_tags_is_read_back(value: object) -> None:
    text = yaml.safe_dump(value, default_style='"', default_flow_style=True)
    assert parse_yaml(text).data == value


@pytest.mark.promise10
class TestProblems:
    def test_every_problem_is_told_at_its_line(self) -> None:
        text = (
            "naem: a\n"
            "seed: '1'\n"
            "rate: fast\n"
            "sections:\n"
            "  - n: 1\n"
            "  - wiht: {}\n"
            "    params: {}\n"
            "by_name:\n"
            "  foo:\n"
            "    m: 2\n"
        )
        assert told(text).splitlines() == [
            "r.yaml:1: name: 'name' is missing",
            "  do this: add it",
            "r.yaml:2: seed: Input should be a valid integer (got '1')",
            "r.yaml:3: rate: Input should be a valid number (got 'fast')",
            "r.yaml:5: sections.0.n: Input should be greater than or equal to 2 (got 1)",
            "r.yaml:6: sections.1.wiht: unknown key 'wiht'",
            "  do this: did you mean 'with'?",
            "r.yaml:7: sections.1.params: unknown key 'params'",
            "  do this: use one of: n, with",
            "r.yaml:10: by_name.foo.m: unknown key 'm'",
            "  do this: use one of: n, with",
            "r.yaml:1: naem: unknown key 'naem'",
            "  do this: did you mean 'name'?",
        ]

    def test_of_a_value_with_two_forms_only_the_likely_one_is_told(self) -> None:
        assert told("name: a\nclean:\n  n: 1\n  m: 2\n").splitlines() == [
            "r.yaml:3: clean.n: Input should be greater than or equal to 2 (got 1)",
            "r.yaml:4: clean.m: unknown key 'm'",
            "  do this: use one of: n, with",
        ]

    def test_the_forms_of_a_value_are_no_part_of_its_place(self) -> None:
        assert told("name: a\nwords: {b: 1}\n").splitlines() == [
            "r.yaml:2: words: Input should be a valid list (got {'b': 1})",
            "r.yaml:2: words: Input should be a valid string (got {'b': 1})",
        ]
        assert told("name: a\nwords: [b, 1]\n") == "r.yaml:2: words.1: Input should be a valid string (got 1)"

    def test_a_check_of_our_own(self) -> None:
        assert told("seed: 1\nname: abcdefghij\n") == "r.yaml:2: name: 'abcdefghij' is too long"

    def test_a_key_that_is_no_text(self) -> None:
        assert told("name: a\nby_name:\n  1: {}\n") == "r.yaml:2: by_name.1: Input should be a valid string (got 1)"

    def test_a_long_value_is_cut(self) -> None:
        found = told(f"name: a\nseed: {'x' * 99}\n")
        assert found == f"r.yaml:2: seed: Input should be a valid integer (got '{'x' * 56}...)"

    def test_numbers_are_finite(self) -> None:
        assert told("name: a\nrate: 1e999\n") == "r.yaml:2: rate: Input should be a finite number (got inf)"

    @pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "text\n"])
    def test_something_else_than_keys_and_values(self, text: str) -> None:
        assert told(text) == "r.yaml: expected keys and values\n  do this: see `shinan new` for an example"

    def test_loose_types_are_no_types(self) -> None:
        assert "valid boolean (got 'yes')" in told("name: a\nfast: yes\n")
        assert "valid boolean (got 1)" in told("name: a\nfast: 1\n")
        assert "valid integer (got 1.0)" in told("name: a\nseed: 1.0\n")
        assert math.isclose(read("name: a\nrate: 2\n").rate, 2.0)

    def test_values_are_frozen(self) -> None:
        found = read("name: a\n")
        with pytest.raises(ValueError, match="frozen"):
            found.name = "b"  # type: ignore[misc]


class TestPlaces:
    def test_a_place_without_a_line_is_the_nearest_around_it(self) -> None:
        document = parse_yaml("a:\n  b:\n    - c: 1\n", "r.yaml")
        places = [document.where(keys) for keys in ((), ("a",), ("a", "b", 0, "c"), ("a", "b", 7), ("z",))]
        assert places == ["r.yaml:1", "r.yaml:1: a", "r.yaml:3: a.b.0.c", "r.yaml:2: a.b.7", "r.yaml:1: z"]

    def test_without_lines_there_is_the_file(self) -> None:
        assert Document({}, "f.jsonl:3").where(("a", 0)) == "f.jsonl:3: a.0"
        assert Document({}, "f.jsonl:3").where(()) == "f.jsonl:3"


class TestOverrides:
    def test_values_are_yaml_and_places_are_made(self) -> None:
        text = "name: a\nsections:\n  - n: 3\n  - n: 4\nclean: false\n"
        found = read(
            text + "by_name:\n",
            "seed=7",
            "sections.1.n=9",
            "by_name.new.n=5",
            "rate=1e-3",
            "words=[x, 'y=z']",
            "name=b",
        )
        assert (found.seed, found.rate, found.words, found.name) == (7, 0.001, ["x", "y=z"], "b")
        assert [section.n for section in found.sections] == [3, 9]
        assert found.by_name["new"].n == 5
        assert read(text, "sections.-1={n: 2}").sections[1].n == 2
        assert read(text, "seed=1", "seed=2").seed == 2

    def test_a_shared_value_is_changed_in_one_place_only(self) -> None:
        document = parse_yaml("a: &x {k: 1}\nb: *x\n")
        assert apply_overrides(document, ["b.k=2"]).data == {"a": {"k": 1}, "b": {"k": 2}}

    def test_a_wrong_value_is_told_as_it_was_typed(self) -> None:
        found = told("name: a\nsections:\n  - n: 3\nclean: {n: 3}\n", "sections.0.n=x", "clean={n: 1}", "seeed=1")
        assert found.splitlines() == [
            "--set sections.0.n=x: sections.0.n: Input should be a valid integer (got 'x')",
            "--set clean={n: 1}: clean.n: Input should be greater than or equal to 2 (got 1)",
            "--set seeed=1: seeed: unknown key 'seeed'",
            "  do this: did you mean 'seed'?",
        ]

    @pytest.mark.promise10
    def test_every_setting_that_leads_nowhere_is_told(self) -> None:
        wrong = ["sections.5.n=1", "sections.x.n=1", "name.first=b", "=1", "seed", "seed=[", "seed={b: 1, b: 2}"]
        found = told("name: a\nsections:\n  - n: 3\n", *wrong).splitlines()
        nowhere = ["no such place in the recipe", "  do this: check the keys before the last one"]
        shape = ["expected KEY=VALUE", "  do this: write it like --set tune.epochs=2"]
        assert found[:10] == [
            *(line for each in wrong[:3] for line in (f"--set {each}: {nowhere[0]}", nowhere[1])),
            *(line for each in wrong[3:5] for line in (f"--set {each}: {shape[0]}", shape[1])),
        ]
        assert found[10].startswith("--set seed=[:")
        assert "not valid YAML" in found[10]
        assert found[11:] == [
            "--set seed={b: 1, b: 2}:1: b: this key is given twice",
            "  do this: keep one of the two",
        ]

    @pytest.mark.parametrize("text", ["", "- a\n", "text\n"])
    def test_there_is_nothing_to_override(self, text: str) -> None:
        assert told(text, "seed=1").startswith("--set seed=1: no such place in the recipe")

    @pytest.mark.promise10
    @given(st.lists(st.text("ab01.=-[]{}: ", max_size=12), max_size=3))
    @settings(max_examples=200, deadline=None)
    def test_any_setting_is_applied_or_a_config_error(self, overrides: list[str]) -> None:
        document = parse_yaml("a: [1, {b: 2}]\nb: {a: x}\n")
        try:
            assert apply_overrides(document, overrides) is document
        except ConfigError as error:
            assert all(problem.where.startswith("--set ") for problem in error.problems)  # noqa: PT017


class TestFiles:
    def test_a_byte_order_mark_and_windows_line_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "r.yaml"
        path.write_bytes("\ufeffname: a\r\nseed: x\r\n".encode())
        document = load_yaml(path)
        assert document.data == {"name": "a", "seed": "x"}
        assert document.where(("seed",)) == f"{path}:2: seed"

    @pytest.mark.promise10
    def test_a_missing_file_names_the_nearest(self, tmp_path: Path) -> None:
        (tmp_path / "quickstart.yaml").touch()
        (tmp_path / "own-data.yml").touch()
        with pytest.raises(ConfigError) as caught:
            load_yaml(tmp_path / "quickstrat.yaml")
        assert str(caught.value) == (
            f"{tmp_path}/quickstrat.yaml: no such file\n  do this: did you mean 'quickstart.yaml'?"
        )
        with pytest.raises(ConfigError, match=r"no such file$"):
            load_yaml(tmp_path / "nowhere" / "r.yaml")

    @pytest.mark.promise10
    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load_yaml(tmp_path)
        assert str(caught.value) == f"{tmp_path}: cannot read it: Is a directory\n  do this: name a readable file"
        path = tmp_path / "latin.yaml"
        path.write_bytes("name: caf\u00e9\n".encode("latin-1"))
        with pytest.raises(ConfigError, match=r"latin\.yaml: cannot read it: .*\n  do this: save it as UTF-8 text"):
            load_yaml(path)


def test_named_tags_of_mappings_are_read_as_plain_ones_and_no_others() -> None:
    text = "a: !Template {b: 1}\n"
    document = parse_yaml(text, "t.yaml", ("!Template",))
    assert document.data == {"a": {"b": 1}}
    assert document.where(("a", "b")) == "t.yaml:1: a.b"
    for more, mappings in ((text, ()), (text, ("!Other",)), ("a: !Template [1]\n", ("!Template",))):
        with pytest.raises(ConfigError, match=r"t\.yaml:1: not valid YAML: (could not|expected a mapping node)"):
            parse_yaml(more, "t.yaml", mappings)


@pytest.mark.parametrize("text", ["1e5", "null", "no", "2024", "1.5", "~", "2024-01-01", "a: b", ""])
def test_what_we_write_is_read_as_it_was(text: str) -> None:
    data = {"name": text, "rate": 1e-05, "on": True, "none": None, "list": [text, 3]}
    assert parse_yaml(dump_yaml(data)).data == data

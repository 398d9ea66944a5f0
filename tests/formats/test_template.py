"""Templates over annotated rows: what they write, what they refuse, and that the sandbox holds."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shinan.core.errors import ConfigError, DataError, ShinanError
from shinan.core.example import Example, Message, Part, Provenance, assistant
from shinan.formats import PromptTemplate, Where, load_templates

NLI = """
templates:
  - name: nli-question
    task: nli
    instruction: Does the first sentence imply the second?
    input: |
      First: {{ premise }}
      Second: {{ hypothesis }}
    choices: [Yes, Maybe, No]
    output: "{{ choices[label] }}"
    metadata: {language: en}
  - name: nli-short
    input: "{{ premise }} So {{ hypothesis }} {{ choices | join(' or ') }}?"
    choices: Yes ||| Maybe ||| No
    output: "{{ choices[label] }}"
"""
ROW = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}
PLACE = Where("nli.jsonl", 4, 5)


def loaded(folder: Path, text: str) -> tuple[PromptTemplate, ...]:
    path = folder / "t.yaml"
    path.write_text(text, "utf-8")
    return load_templates(path)


def template(text: str = "q", **more: Any) -> PromptTemplate:
    return PromptTemplate(**({"name": "t", "input": text, "output": "a"} | more))


def written(text: str, **row: Any) -> str:
    return template(text).apply(row, PLACE, 0).prompt_text


def error_of(made: PromptTemplate, row: dict[str, Any]) -> DataError:
    with pytest.raises(DataError) as caught:
        made.apply(row, PLACE, 0)
    assert caught.value.where == "nli.jsonl:5"
    return caught.value


def test_a_row_becomes_an_example_of_typed_parts(tmp_path: Path) -> None:
    question, short = loaded(tmp_path, NLI)
    asked = (
        Part("Does the first sentence imply the second?", "instruction"),
        Part("First: It rains.\nSecond: It is wet.", "input"),
    )
    assert question.apply(ROW, PLACE, 9, licence="CC-BY-4.0") == Example(
        (Message("user", asked), assistant("Yes")),
        targets=("Yes",),
        choices=("Yes", "Maybe", "No"),
        task="nli",
        tags={"language": "en"},
        provenance=Provenance("nli.jsonl", 9, "CC-BY-4.0", "template:nli-question"),
    )
    example = short.apply(ROW | {"label": 2}, PLACE, 0)
    assert example.messages == (
        Message("user", (Part("It rains. So It is wet. Yes or Maybe or No?", "input"),)),
        assistant("No"),
    )
    assert (example.task, example.provenance.licence) == ("", "unknown")


def test_outputs_and_choices_may_come_from_lists_in_the_row() -> None:
    made = template("{{ q }}", output="{{ answers | join(' ||| ') }}")
    assert made.apply({"q": "?", "answers": ["Paris", "paris "]}, PLACE, 0).targets == ("Paris", "paris")
    made = template("{{ q }}", output="{{ choices[1] }}", choices="{{ options | join('|||') }}")
    assert made.apply({"q": "?", "options": [" x", "y"]}, PLACE, 0).choices == ("x", "y")
    made = template("{{ q }}", output=["{{ a }}", "{{ b }}"])
    example = made.apply({"q": "?", "a": "  one\n", "b": "two"}, PLACE, 0)
    assert (example.reply, example.targets) == ("  one\n", ("  one\n", "two"))


def test_a_separator_in_the_row_never_cuts_a_text() -> None:
    made = template("{{ q }}", output="{{ a }}")
    assert error_of(made, {"q": "?", "a": "x ||| y"}).what == (
        "template 't': output cannot be split, as the row itself has '|||'"
    )
    assert made.apply({"q": "x ||| y", "a": "z"}, PLACE, 0).prompt_text == "x ||| y"


def test_values_are_never_template_code() -> None:
    assert written("{{ x }}", x="{{ 7 * 7 }}{% if %}") == "{{ 7 * 7 }}{% if %}"


def test_text_is_neither_escaped_nor_trimmed_inside() -> None:
    assert written("{{ x }} & <b>", x="a < b") == "a < b & <b>"
    assert written("{{ x | tojson }}", x={"a": "<é>"}) == '{"a": "<é>"}'
    assert written("  {{ x }}\n\n{{ x }}", x="code\n") == "  code\n\n\ncode"


def test_line_breaks_around_a_part_belong_to_the_file() -> None:
    example = template("\n  1 + 1\n", instruction="Add.\n").apply({}, PLACE, 0)
    assert example.messages[0].parts == (Part("Add.", "instruction"), Part("  1 + 1", "input"))


def test_fields_with_any_name_are_reached_by_row() -> None:
    assert written("{{ row['Question Text'] }}", **{"Question Text": "a"}) == "a"


def test_an_absent_field_may_be_asked_for_openly() -> None:
    assert written("{% if hint is defined %}{{ hint }}{% else %}none{% endif %}") == "none"
    assert written("{{ hint | default('-') }}") == "-"


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("text", "row", "what"),
    [
        ("{{ y }}", {"x": 1}, "needs the field 'y', and the row has 'x'"),
        ("{% if y %}a{% endif %}", {}, "needs the field 'y', and the row has none"),
        ("{{ x.y }}", {"x": {}}, "fails: 'dict object' has no attribute 'y'"),
        ("{{ x }}", {"x": None}, "fails: cannot print null; see Jinja's default, join, tojson and string"),
        ("{{ x }}", {"x": float("nan")}, "fails: cannot print a number; see Jinja's default, join, tojson and string"),
        ("{{ x }}", {"x": ["a"]}, "fails: cannot print a list; see Jinja's default, join, tojson and string"),
        (
            "{{ x.title }}",
            {"x": "a"},
            "fails: cannot print builtin_function_or_method; see Jinja's default, join, tojson and string",
        ),
        ("{{ x / 0 }}", {"x": 1}, "fails: division by zero"),
        ("{{ x }}", {"x": " "}, "is empty"),
        ("{{ '\\ud800' }}", {}, "holds not valid Unicode: half a surrogate pair, '\\ud800', in '\\ud800'"),
        ("{{ x }}", {"x": "a" * 100_001}, "is longer than 100000 characters"),
        ("{% for i in range(1000) %}{{ x }}{% endfor %}", {"x": "a" * 101}, "is longer than 100000 characters"),
    ],
)
def test_what_a_template_cannot_write_gets_a_sentence(text: str, row: dict[str, Any], what: str) -> None:
    assert error_of(template(text), row).what == f"template 't': input {what}"


def test_a_missing_field_gets_the_nearest_one() -> None:
    error = error_of(template("{{ premis }}", name="nli"), ROW)
    assert str(error) == (
        "nli.jsonl:5: template 'nli': input needs the field 'premis', "
        "and the row has 'premise', 'hypothesis', 'label'\n"
        "  do this: did you mean 'premise'?"
    )


def test_the_longest_text_is_allowed() -> None:
    assert len(written("{{ x }}", x="a" * 100_000)) == 100_000


@pytest.mark.parametrize(
    ("label", "what"),
    [
        (-1, "fails: there is no choice -1; they are 0 to 2"),
        (3, "fails: there is no choice 3; they are 0 to 2"),
        ("1", "fails: there is no choice '1'; they are 0 to 2"),
        (None, "fails: there is no choice None; they are 0 to 2"),
    ],
)
def test_a_label_that_is_no_choice_is_refused(tmp_path: Path, label: object, what: str) -> None:
    error = error_of(loaded(tmp_path, NLI)[0], ROW | {"label": label})
    assert error.what == f"template 'nli-question': output {what}"


def test_choices_and_outputs_must_agree() -> None:
    assert error_of(template(output="c", choices=["a", "b"]), {}).what == (
        "template 't': output is none of the choices: ['c']"
    )
    for choices in (["a"], ["a", "a "]):
        what = error_of(template(choices=choices), {}).what
        assert what == "template 't': choices must be two or more, all different"
    assert error_of(template(choices="a ||| "), {}).what == "template 't': choices is empty"
    assert error_of(template(output="{% if x is defined %}a{% endif %}"), {}).what == "template 't': output is empty"


# ---- the sandbox ----


@pytest.mark.promise10
@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ x | attr('__class__') }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ row.__init__.__globals__ }}",
        "{{ range.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ '{0.__class__}'.format_map({'0': x}) }}",
        "{{ row.update({'x': 1}) }}",
        "{{ xs.append(1) }}",
        "{{ xs.clear() }}",
        "{% for i in range(100001) %}{% endfor %}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ 'aaaaaaaaaa' * 1000000000 }}",
        "{{ 1000000000 * xs }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000d}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ 'a'.ljust(1000000000) | length }}",
        "{{ 'a'.zfill(width=1000000000) | length }}",
        "{{ 'a' | center(1000000000) | length }}",
        "{{ 'a\\nb' | indent(1000000000) | length }}",
        "{{ xs | batch(1000000000, 'a') | list | length }}",
        "{{ ('a' * 99999).replace('a', 'b' * 99999) | length }}",
        "{{ ('a' * 99999) | replace('a', 'b' * 99999) | length }}",
        "{% set n = namespace(t='a') %}{% for i in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t | length }}",
        "{% set n = namespace(t='a') %}{% for i in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}{{ n.t | length }}",
        "{% set n = namespace(t=[1]) %}{% for i in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}{{ n.t | length }}",
        "{% include 'secret' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_the_sandbox_holds(text: str) -> None:
    row = {"x": "v", "xs": [1]}
    error = error_of(template(text), row)
    assert error.what.startswith("template 't': input ")
    assert row == {"x": "v", "xs": [1]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ '%05.1f%%' % 2 }} {{ '%s: %d' | format(x, 1000000) }}", "002.0% v: 1000000"),
        ("{{ '{{}} {:>4} {x}'.format(1, x=1000000) }}", "{}    1 1000000"),
        ("{{ x.ljust(3) ~ 1 ~ '|' + x | center(5) }}", "v  1|  v  "),
        (
            "{{ (xs + [2]) | batch(2, 'a') | list | length }}{{ 1 + 2 }}{{ 7 % 4 }}{{ 'aba'.replace('b', 'cc') }}",
            "133acca",
        ),
    ],
)
def test_what_is_within_all_measure_is_written_as_ever(text: str, expected: str) -> None:
    assert written(text, x="v", xs=[1]) == expected


def test_an_escape_is_named_as_one() -> None:
    assert error_of(template("{{ ''.__class__ }}"), {}).what == (
        "template 't': input asks for what templates may not do: "
        "access to attribute '__class__' of 'str' object is unsafe."
    )


@pytest.mark.parametrize("text", ["{{ lipsum() }}", "{{ [1, 2] | random }}"])
def test_templates_have_no_source_of_chance(text: str) -> None:
    with pytest.raises((ValidationError, DataError), match=r"'lipsum'|'random'"):
        template(text).apply({}, PLACE, 0)


# ---- files ----


@pytest.mark.promise10
def test_every_problem_of_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    text = """\
templates:
  - name: one
    input: |
      {{ a }}
      {% if %}
    output: "{{ b | nothing }}"
  - name: two
    imput: a
    output: [a, "{{ DEEP1 }}"]
""".replace("DEEP", "-" * 5000)
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    path = tmp_path / "t.yaml"
    told = sorted(f"{problem.where}: {problem.what}" for problem in caught.value.problems)
    assert told.pop().startswith(f"{path}:9: templates.1.output.1: not a valid template: maximum recursion depth")
    assert told == [
        f"{path}:3: templates.0.input: not a valid template, line 2 of the text: Expected an expression, "
        "got 'end of statement block'",
        f"{path}:6: templates.0.output.0: not a valid template, line 1 of the text: No filter named 'nothing'.",
        f"{path}:7: templates.1.input: 'input' is missing",
        f"{path}:8: templates.1.imput: unknown key 'imput'",
    ]
    assert next(p.fix for p in caught.value.problems if "unknown" in p.what) == "did you mean 'input'?"


def test_names_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two templates are named 'a'"):
        loaded(tmp_path, "templates:\n" + "  - {name: a, input: q, output: b}\n" * 2)


# ---- fuzz ----

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["|||", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
FUZZED = [
    template("{{ a }}{{ b }}", output=["{{ c }}"]),
    template("{{ a.b[c] }}", output="{{ a | join('|||') }}", instruction="{{ row | tojson }}"),
    template("{% for x in a %}{{ x }}{% endfor %}", output="{{ choices[c] }}", choices="{{ b | join('|||') }}"),
    template("{{ a + b }}{{ a * c }}", output="{{ a ~ b }}"),
    template("{{ a | sort | first }}", output="{{ c | int + 1 }}"),
]


@pytest.mark.promise10
@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["a", "b", "c", "row", "choices"]), values, max_size=5))
def test_arbitrary_rows_give_an_example_or_a_sentence(row: dict[str, Any]) -> None:
    for made in FUZZED:
        with suppress(ShinanError):
            example = made.apply(row, PLACE, 3)
            assert example.provenance == Provenance("nli.jsonl", 3, "unknown", "template:t")
            assert example.reply == example.targets[0] != ""


@pytest.mark.promise10
@settings(max_examples=40)
@given(st.text("{}% |.'axyz()[]*+\\ud\n", max_size=25))
def test_arbitrary_templates_give_an_example_or_a_sentence(text: str) -> None:
    with suppress(ValidationError, ShinanError):
        template("{{" + text + "}}").apply({"a": "x", "x": [1], "y": {"z": None}}, PLACE, 0)

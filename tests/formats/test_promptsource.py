"""PromptSource's templates: the genuine files, what promptsource itself writes with them, and what is refused."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.p3_rows import entries, rendered
from shinan.core.errors import ConfigError, Problem, ShinanError
from shinan.core.example import Message, Part, Provenance, assistant
from shinan.formats import P3Template, Where, load_promptsource
from shinan.formats.filling import FillingError
from shinan.formats.promptsource import _Chance
from tests.formats.p3_golden import GOLDEN, digest, rows

PLACE = Where("rows.jsonl", 4, 5)
FILE = """\
dataset: mills
subset: old
templates:
  5f0d1c0e-0000-0000-0000-000000000001: !Template
    answer_choices: No ||| Yes
    id: 5f0d1c0e-0000-0000-0000-000000000001
    jinja: "Is {{name}} a mill? ||| {{ answer_choices[label] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: false
      languages:
      - en
      metrics:
      - Accuracy
      - Other
      original_task: true
    name: is it
    reference: a note
"""
ENTRY = """\
  {key}: !Template
    answer_choices: {choices}
    id: {key}
    jinja: {jinja}
    metadata: !TemplateMetadata {{choices_in_prompt: null, languages: [en], metrics: [], original_task: false}}
    name: {name}
    reference: ''
"""


def entry(jinja: str, choices: str | None = None, name: str = "t", key: str = "k") -> str:
    """One template, as the file has it."""
    return ENTRY.format(key=key, jinja=json.dumps(jinja), choices=json.dumps(choices), name=name)


def loaded(folder: Path, text: str, **more: Any) -> tuple[P3Template, ...]:
    path = folder / "templates.yaml"
    path.write_text(text, "utf-8")
    return load_promptsource(path, **more)


@pytest.fixture
def template(tmp_path: Path) -> Any:
    """Makes a template of a text, and of choices if there are any."""

    def make(jinja: str, choices: str | None = None, **more: Any) -> P3Template:
        return loaded(tmp_path, f"dataset: d\ntemplates:\n{entry(jinja, choices)}", **more)[0]

    return make


def refused(made: P3Template, row: dict[str, Any]) -> FillingError:
    with pytest.raises(FillingError) as caught:
        made.apply(row, PLACE)
    assert caught.value.where == "rows.jsonl:5"
    return caught.value


def test_a_row_becomes_an_example_with_everything_that_the_file_says(tmp_path: Path) -> None:
    (made,) = loaded(tmp_path, FILE)
    assert (made.id, made.reference, made.original_task) == ("5f0d1c0e-0000-0000-0000-000000000001", "a note", True)
    example = made.apply({"name": "De Gooyer", "label": 1}, PLACE, licence="CC0-1.0")
    assert example.messages == (Message("user", (Part("Is De Gooyer a mill?"),)), assistant("Yes"))
    assert (example.targets, example.choices, example.task) == (("Yes",), ("No", "Yes"), "mills/old")
    assert example.tags == {
        "dataset": "mills/old",
        "template": "is it",
        "language": "en",
        "metrics": "Accuracy, Other",
        "original_task": "true",
        "choices_in_prompt": "false",
    }
    assert example.provenance == Provenance("rows.jsonl", 4, "CC0-1.0", "template:p3/mills/old/is it")
    assert made.apply({"name": "x", "label": 0}, PLACE, source="elsewhere").row == "elsewhere#4"


# ---- the genuine files ----


@pytest.fixture(scope="module")
def p3() -> Path:
    """The folder of promptsource's templates and of what they once wrote, or a skip."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SHINAN_TEST_DATA", beside)) / "p3"
    if not folder.is_dir():
        pytest.skip("no data folder: set SHINAN_TEST_DATA")
    return folder


@pytest.fixture(scope="module")
def genuine(p3: Path) -> dict[str, P3Template]:
    files = sorted((p3 / "templates").rglob("templates.yaml"))
    return {made.path: made for path in files for made in load_promptsource(path)}


def test_genuine_files_are_read_as_pyyaml_reads_them(p3: Path, genuine: dict[str, P3Template]) -> None:
    found = {f"{dataset}/{entry['name']}": (dataset, entry) for dataset, entry in entries(p3 / "templates")}
    assert len(found) == 575
    assert genuine.keys() == found.keys()
    for path, (dataset, entry) in found.items():
        made, known = genuine[path], entry["metadata"]
        assert (made.dataset, made.name, made.id, made.reference) == (
            dataset,
            entry["name"],
            entry["id"],
            entry["reference"],
        )
        assert made.original_task is known["original_task"]
        assert (made.answer_choices is None) is (entry["answer_choices"] is None)
        assert made.tags.get("metrics", "") == ", ".join(known["metrics"])
        said = {"true": True, "false": False, None: None}[made.tags.get("choices_in_prompt")]
        assert said is known["choices_in_prompt"]


def attempt(made: P3Template, row: dict[str, Any]) -> tuple[list[str], FillingError | None]:
    """What a template writes, or why it does not."""
    try:
        example = made.apply(row, PLACE)
    except FillingError as error:
        return [], error
    return [example.prompt_text, *example.targets], None


ODD = {  # the reply is none of the template's own choices, as published
    ("imdb/Negation template for positive and negative", 0): "positive review.",
    ("imdb/Negation template for positive and negative", 1): "negative review.",
    ("commonsense_qa/question_to_answer_index", 1): "E",
    ("wiqa/which_of_the_following_is_the_supposed_perturbation", 0): "directly impacting a step of the process",
}


def test_every_genuine_template_writes_what_promptsource_writes(
    genuine: dict[str, P3Template], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On rows of every dataset, short and long (tests/formats/p3_golden.py): to the character, or refused for a reason.

    Where promptsource writes nothing, the row is refused as empty, and never else.
    """
    monkeypatch.setattr(_Chance, "draw", lambda self, items: items[0])
    golden = json.loads(GOLDEN.read_text("utf-8"))
    assert golden.keys() == genuine.keys()
    wrote = set()
    for path, made in genuine.items():
        given_rows = rows(made.dataset)
        assert len(given_rows) == len(golden[path])
        for number, (row, expected) in enumerate(zip(given_rows, golden[path], strict=True)):
            parts, error = attempt(made, row)
            odd = ODD.get((path, number % (len(given_rows) // 2)))
            if error:
                assert error.reason == ("not_a_choice" if odd else "empty")
                assert repr(odd)[:40] in error.what if odd else not expected
            else:
                assert digest(parts) == expected, (path, number)
                wrote.add(path)
    assert genuine.keys() - wrote == {"imdb/Negation template for positive and negative"}


def test_rendered_prompts_are_written_again_to_the_character(p3: Path, genuine: dict[str, P3Template]) -> None:
    """All 68 files of P3 prompts that others published: rows taken back out of them give the same prompts and replies.

    Where the template draws, some seed gives the published draw. TREC's labels were lost (every reply is empty), and
    its choices stood in another order: there the text of the prompt is compared, and its choices as a set.
    """
    count: Counter[str] = Counter()
    for number, old in enumerate(rendered(p3)):
        made = genuine[f"{old.dataset}/{old.template}"]
        if old.dataset == "trec":
            example = made.apply(old.row | {"coarse_label": 0}, Where("r", number))
            (text, choices), (again, listed) = (
                side.rsplit("Is this asking about ", 1) for side in (old.prompt, example.prompt_text)
            )
            assert text == again
            assert {*choices.rstrip("?").split(", ")} == {*listed.rstrip("?").split(", ")}
        else:
            made_of = (made.apply(old.row, Where("r", number), seed=seed) for seed in range(300))
            assert any((e.prompt_text, e.reply) == (old.prompt, old.reply) for e in made_of), old
        count[old.dataset] += 1
    assert (count.total(), count["trec"], len(count)) == (4080, 60, 37)


# ---- what differs from promptsource on purpose ----


def test_choice_draws_by_seed_template_and_row_alone(tmp_path: Path) -> None:
    text = entry("{{ xs | choice }} {{ xs | choice }} ||| {{ range(50) | choice }}", name="a", key="a")
    text += entry("{{ xs | choice }} {{ xs | choice }} ||| {{ range(50) | choice }}", name="b", key="b")
    one, other = loaded(tmp_path, f"dataset: d\ntemplates:\n{text}")

    def drawn(made: P3Template, row: int, seed: int) -> str:
        example = made.apply({"xs": list(range(1000))}, Where("s", row), seed=seed)
        return f"{example.prompt_text} {example.reply}"

    first = drawn(one, 3, 7)
    assert first == drawn(one, 3, 7)
    assert len({first, drawn(one, 3, 8), drawn(one, 4, 7), drawn(other, 3, 7)}) == 4
    assert len(set(first.split()[:2])) == 2  # one draw is not the next
    counts = Counter(drawn(one, row, 0).split()[2] for row in range(5000))
    assert len(counts) == 50
    assert max(counts.values()) < 160  # 100 expected; six standard deviations


@given(
    st.lists(st.sampled_from(["|||", "|", "||||||", " ", "a", "{{ x }}", "{% if"]), max_size=5).map("".join),
    st.lists(st.sampled_from(["|||", "b ", "||"]), max_size=5).map("".join),
)
def test_bars_in_the_data_never_split(name: str, nested: str) -> None:
    made = BARS.apply({"a": name, "b": {"c": [nested]}, "d": nested + "."}, PLACE)
    assert made.prompt_text == f"<{name}> <{nested}>"
    assert made.targets == (f"{nested}.",)
    assert made.choices == (f"{nested}.", f"{name}!".strip())


def made_of(text: str) -> P3Template:
    """A template without a folder of its own."""
    with tempfile.TemporaryDirectory() as place:
        return loaded(Path(place), text)[0]


BARS = made_of(f"dataset: d\ntemplates:\n{entry('<{{a}}> <{{b.c[0]}}> ||| {{d}}', '{{d}} ||| {{a}}!')}")


def test_templates_can_split_data_at_bars(template: Any) -> None:
    """promptsource hides `|||` of the data behind a word that its multi_news templates split at."""
    made = template("{{ x.split('3ed2dface8203c4c9dfb1a5dc58e41e0||') | join('+') }} ||| y")
    assert made.apply({"x": "a|||||b|||||"}, PLACE).prompt_text == "a+b+"


def test_long_fields_are_cut_as_by_jinjas_truncate(template: Any) -> None:
    text = "word " * 1000
    peer = jinja2.Environment(autoescape=False).from_string("{{ x | truncate(2048) }}")  # noqa: S701
    made = template("{{x}} ||| {{x}}")
    assert made.apply({"x": text}, PLACE).prompt_text == peer.render(x=text)
    for size in (2048, 2053, 2054, 5000):
        assert made.apply({"x": "a" * size}, PLACE).prompt_text == peer.render(x="a" * size)
    assert template("{{x}}{{x}} ||| y", limit=10).apply({"x": text}, PLACE).prompt_text == "word...word..."
    assert template("{{x}} ||| y", limit=None).apply({"x": text}, PLACE).prompt_text == text.strip()


def test_a_long_choice_stays_a_choice(template: Any) -> None:
    made = template("{{answer_choices | length}} ||| {{ answer_choices[1] }}", "{{ xs | join('|||') }}", limit=20)
    example = made.apply({"xs": ["a" * 50, "b c " * 20, "d"]}, PLACE)
    assert example.prompt_text == "3"
    assert example.choices == ("a" * 17 + "...", "b c b c b c b c...", "d")
    assert example.reply == example.choices[1]


def test_helpers(template: Any) -> None:
    def written(jinja: str, **row: Any) -> str:
        return str(template(jinja + " ||| y").apply(row, PLACE).prompt_text)

    assert written("{{ xs | most_frequent | join(',') }}", xs=["b", "a", "c", "a", "b"]) == "b,a"
    assert written("[{{ [] | most_frequent | join }}]") == "[]"
    assert written("{% for a, b in zip(xs, [1, 2]) %}{{a}}{{b}} {% endfor %}", xs="pq") == "p1 q2"
    assert written("{{ 'a' | highlight }}") == "<span style='color: #F08080'>a</span>"
    assert written('{{"protected {words}"}}, {{ a_b }}', **{"a-b": 3}) == "protected {words}, 3"


def test_several_replies_are_all_targets(template: Any) -> None:
    example = template("q ||| {{ a }} ||| {{ b }}").apply({"a": " x", "b": "y "}, PLACE)
    assert (example.reply, example.targets) == ("x", ("x", "y"))


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("jinja", "choices", "row", "reason", "what"),
    [
        ("{{ y }} ||| a", None, {"x": 1}, "missing_field", "jinja needs the field 'y', and the row has 'x'"),
        ("{{ x.y }} ||| a", None, {"x": {}}, "missing_field", "jinja fails: 'dict object' has no attribute 'y'"),
        ("q ||| {{ x.t[0] }}", None, {"x": {"t": []}}, "missing_field", "jinja fails: list object has no element 0"),
        ("{{ x }} ||| a", None, {"x": None}, "template_failed", "jinja fails: cannot print null; see "),
        ("{{ x }} ||| a", None, {"x": ["a"]}, "template_failed", "jinja fails: cannot print a list; see "),
        ("q ||| {{ x | choice }}", None, {"x": []}, "template_failed", "jinja fails: there is nothing to choose from"),
        ("{% if x %}q ||| a{% endif %}", None, {"x": 0}, "empty", "jinja writes nothing"),
        (" ||| a", None, {}, "empty", "jinja writes no prompt"),
        ("q ||| {{ x }}", None, {"x": " "}, "empty", "jinja writes an empty reply"),
        ("q ||| a ||| {{ x }}", None, {"x": ""}, "empty", "jinja writes an empty reply"),
        ("q ||| c", "a ||| b", {}, "not_a_choice", "jinja writes 'c', which is none of the 2 choices"),
        (
            "q ||| {{ answer_choices[x] }}",
            "a ||| b",
            {"x": -1},
            "not_a_choice",
            "jinja fails: there is no choice -1; they are 0 to 1",
        ),
        ("q ||| a", "{{ y }}", {}, "missing_field", "answer_choices needs the field 'y', and the row has none"),
        (
            "{{ answer_choices }} ||| a",
            None,
            {"answer_choices": "x"},
            "reserved_field",
            "the row has a field 'answer_choices', which is the templates' own",
        ),
        ("{{ x }} ||| a", None, {"x": "\0"}, "bad_text", "jinja holds a NUL character, in '\\x00'"),
        ("{{ x }} ||| a", None, {"x": "\ud800"}, "bad_text", "jinja holds not valid Unicode: half a surrogate pair"),
        ("{{ ''.__class__ }} ||| a", None, {}, "forbidden", "jinja asks for what templates may not do: "),
        ("{{ zip.__init__ }} ||| a", None, {}, "forbidden", "jinja asks for what templates may not do: "),
    ],
)
def test_what_cannot_be_written_gets_a_word_and_a_sentence(
    template: Any, jinja: str, choices: str | None, row: dict[str, Any], reason: str, what: str
) -> None:
    error = refused(template(jinja, choices), row)
    assert error.reason == reason
    assert error.what.startswith(f"template 'd/t': {what}")
    assert error.fix


# ---- files ----


def told(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return [f"{problem.where}: {problem.what}".removeprefix(f"{folder}/") for problem in caught.value.problems]


@pytest.mark.promise10
def test_a_broken_file_is_told_with_its_line(tmp_path: Path) -> None:
    assert told(tmp_path, FILE.replace("dataset: mills", "dataset: [mills")) == [
        "templates.yaml:2: not valid YAML: while parsing a flow sequence, did not find expected ',' or ']'"
    ]
    assert told(tmp_path, FILE.replace("name: is it", "nmae: is it")) == [
        "templates.yaml:4: templates.5f0d1c0e-0000-0000-0000-000000000001.name: 'name' is missing",
        "templates.yaml:16: templates.5f0d1c0e-0000-0000-0000-000000000001.nmae: unknown key 'nmae'",
    ]
    twice = FILE + entry("a ||| b") + entry("c ||| d", name="u")
    assert told(tmp_path, twice) == ["templates.yaml:25: templates.k: this key is given twice"]
    same = entry("a ||| b", name="is it") + entry("c ||| d", key="l").replace("id: l", "id: k")
    assert told(tmp_path, FILE + entry("a ||| b") + same.replace("  k:", "  m:")) == [
        "templates.yaml:25: templates.m: template 'is it': a template before it has the same name or id",
        "templates.yaml:32: templates.l: template 't': a template before it has the same name or id",
    ]
    assert told(tmp_path, "dataset: d\ntemplates: {}\n")[0].startswith("templates.yaml:2: templates: ")


@pytest.mark.promise10
@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!!python/name:os.system", "!Tempalte"])
def test_no_other_tag_is_read(tmp_path: Path, tag: str) -> None:
    (problem,) = told(tmp_path, FILE.replace("!TemplateMetadata", tag))
    assert problem.startswith("templates.yaml:8: not valid YAML: could not determine a constructor for the tag")


@pytest.mark.promise10
def test_a_template_that_cannot_be_used_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    text = FILE + entry("{{ x } ||| y", name="broken", key="k1") + entry("all of it", name="whole", key="k2")
    text += entry("q ||| {{ y | nothing }}", name="filter", key="k3") + entry("q ||| a", "{% for", "for", "k4")
    expected = [
        "templates.yaml:18: templates.k1: template 'broken': jinja is not a valid template, line 1 of the text: "
        "unexpected '}'",
        "templates.yaml:25: templates.k2: template 'whole': jinja has no ||| between what to ask and the reply",
        "templates.yaml:32: templates.k3: template 'filter': jinja is not a valid template, line 1 of the text: "
        "No filter named 'nothing'.",
        "templates.yaml:39: templates.k4: template 'for': answer_choices is not a valid template, line 1 of the text: ",
    ]
    found = told(tmp_path, text)
    assert [problem[: len(start)] for problem, start in zip(found, expected, strict=True)] == expected
    problems: list[Problem] = []
    (made,) = loaded(tmp_path, text, refuse=problems.append)
    assert made.name == "is it"
    assert [f"{p.where}: {p.what}".removeprefix(f"{tmp_path}/") for p in problems] == found


# ---- fuzz ----

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["|||", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
FUZZED = [
    made_of(f"dataset: d\ntemplates:\n{entry(jinja, choices)}")
    for jinja, choices in (
        ("{{ a }} {{ b }} ||| {{ c }}", None),
        ("{{ a | choice }} ||| {{ answer_choices[c] }}", "{{ b | join('|||') }}"),
        ("{{ a | most_frequent | choice }} ||| {{ zip(a, b) | list | join('|||') }}", None),
    )
]


@pytest.mark.promise10
@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["a", "b", "c", "answer_choices", "choice()"]), values, max_size=5))
def test_arbitrary_rows_give_an_example_or_a_sentence(row: dict[str, Any]) -> None:
    for made in FUZZED:
        with suppress(ShinanError):
            example = made.apply(row, PLACE)
            assert example.reply == example.targets[0] != ""
            assert not example.choices or set(example.targets) <= set(example.choices)

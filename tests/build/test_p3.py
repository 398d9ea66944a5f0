"""PromptSource's templates over rows: which row meets which template, the cap, and what is dropped for which reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shinan.build import p3 as module
from shinan.build.p3 import Source, p3
from shinan.core.dataset import Judged, read_dropped, read_rows, write_stream
from shinan.core.errors import ConfigError, DataError
from shinan.core.example import Example
from shinan.core.registry import bind
from shinan.core.verdict import Verdict
from shinan.formats import Where

TEMPLATES = {
    "ask": ("Is {{text}} good? ||| {{ answer_choices[label] }}", "no ||| yes", True),
    "judge": ("Judge: {{text}} ||| {{ answer_choices[label] }}", "bad ||| good", True),
    "turned": ("{% if label == 1 %}Say something good. ||| {{text}}{% endif %}", None, False),
}


def templates(path: Path, dataset: str = "food", chosen: Sequence[str] = tuple(TEMPLATES)) -> str:
    """Writes a templates.yaml."""
    lines = [f"dataset: {dataset}", "templates:"]
    for name in chosen:
        jinja, choices, original = TEMPLATES[name]
        lines += [
            f"  {name}-id: !Template",
            f"    name: {name}",
            f"    id: {name}-id",
            f"    jinja: {json.dumps(jinja)}",
        ]
        metadata = f"{{original_task: {str(original).lower()}, languages: [en]}}"
        lines += [f"    answer_choices: {json.dumps(choices)}", f"    metadata: !TemplateMetadata {metadata}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def rows_file(path: Path, rows: Sequence[Any]) -> str:
    """Writes rows, or lines as they are."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return str(path)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"text": f"dish {n}", "label": n % 2} for n in range(count)]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Three templates and forty rows."""
    rows = rows_file(tmp_path / "rows.jsonl", numbered(40))
    return Source(templates=templates(tmp_path / "food" / "templates.yaml"), rows=rows, licence="CC0-1.0")


def told_apart(rows: Iterator[Judged]) -> tuple[list[Example], list[tuple[Example, Verdict]]]:
    listed = list(rows)
    kept = [row for row in listed if isinstance(row, Example)]
    dropped = [row for row in listed if not isinstance(row, Example)]
    places = [row.row for row in [*kept, *(row for row, _ in dropped)]]
    assert len(set(places)) == len(places)
    return kept, dropped


@pytest.mark.promise1
def test_each_row_meets_one_template_drawn_by_seed(source: Source) -> None:
    kept, dropped = told_apart(p3(1, sources=[source]))
    assert len(kept) + len(dropped) == 40
    assert Counter(verdict.reason for _, verdict in dropped).keys() == {"empty"}
    assert {row.tags["template"] for row in kept} == TEMPLATES.keys()
    assert {row.tags["submixture"] for row in kept} == {"t0"}
    for row, verdict in dropped:
        assert (row.tags["template"], row.task, row.provenance.maker) == ("turned", "food", "template:p3/food/turned")
        assert verdict.detail == f"{source.rows}:{row.provenance.row + 1}: template 'food/turned': jinja writes nothing"
    for row in kept:
        number = row.provenance.row
        assert (row.provenance.source, row.provenance.licence) == (source.rows, "CC0-1.0")
        assert f"dish {number}" in row.prompt_text + (row.reply or "")
        assert row.provenance.maker == f"template:p3/food/{row.tags['template']}"
    again, _ = told_apart(p3(1, sources=[source]))
    other, _ = told_apart(p3(2, sources=[source]))
    assert again == kept != other


def test_the_draw_is_even(source: Source, tmp_path: Path) -> None:
    rows = rows_file(tmp_path / "many.jsonl", [{"text": str(n), "label": 1} for n in range(3000)])
    kept, _ = told_apart(p3(0, sources=[source.model_copy(update={"rows": rows})]))
    counts = Counter(row.tags["template"] for row in kept)
    assert all(850 < count < 1150 for count in counts.values())  # six standard deviations
    assert len(counts) == 3


@pytest.mark.promise1
def test_each_row_may_meet_every_template(source: Source) -> None:
    kept, dropped = told_apart(p3(1, sources=[source], templates_per_row="all"))
    assert (len(kept), len(dropped)) == (100, 20)
    assert [row.tags["template"] for row in kept[:5]] == ["ask", "judge", "ask", "judge", "turned"]
    assert kept[0].row == f"{source.rows}:food/ask#0"
    yes = kept[2]
    assert (yes.prompt_text, yes.reply, yes.choices) == ("Is dish 1 good?", "yes", ("no", "yes"))


def test_templates_for_the_original_task_alone(source: Source) -> None:
    kept, dropped = told_apart(p3(1, sources=[source], original_task=True, templates_per_row="all"))
    assert (len(kept), len(dropped)) == (80, 0)
    assert {row.tags["template"] for row in kept} == {"ask", "judge"}


def test_fields_are_renamed(source: Source, tmp_path: Path) -> None:
    rows = rows_file(tmp_path / "other.jsonl", [{"dish": "soup", "label": 0, "answer_choices": 1}])
    named = source.model_copy(update={"rows": rows, "fields": {"text": "dish", "label": "answer_choices"}})
    kept, _ = told_apart(p3(1, sources=[named], templates_per_row="all", original_task=True))
    assert [row.prompt_text for row in kept] == ["Is soup good?", "Judge: soup"]
    assert [row.reply for row in kept] == ["yes", "good"]


def test_a_folder_gives_all_the_templates_in_it(source: Source, tmp_path: Path) -> None:
    templates(tmp_path / "all" / "a" / "templates.yaml", "a", ["ask"])
    templates(tmp_path / "all" / "b" / "deep" / "templates.yaml", "b", ["ask"])
    both = source.model_copy(update={"templates": str(tmp_path / "all")})
    kept, _ = told_apart(p3(1, sources=[both], templates_per_row="all", limit=3))
    assert [row.provenance.maker for row in kept] == ["template:p3/a/ask", "template:p3/b/ask"] * 3


@pytest.mark.parametrize(
    ("cap", "one", "all_"), [(40, 40, 120), (39, 39, 39), (20, 18, 18), (3, 3, 3), (None, 40, 120)]
)
def test_a_larger_source_gives_each_template_its_share_of_the_cap(
    source: Source, cap: int | None, one: int, all_: int
) -> None:
    """T0: 500,000 / number of templates rows of each template, for datasets of more than 500,000 rows."""
    for way, expected in (("one", one), ("all", all_)):
        rows = list(p3(1, sources=[source], cap=cap, templates_per_row=way))  # type: ignore[arg-type]
        assert len(rows) == expected
        again = list(p3(1, sources=[source], cap=cap, templates_per_row=way))  # type: ignore[arg-type]
        assert again == rows


def test_every_template_counts_for_the_cap_of_those_for_the_original_task(source: Source) -> None:
    rows = list(p3(1, sources=[source], cap=20, templates_per_row="all", original_task=True))
    assert len(rows) == 2 * (20 // 3)


def test_the_cap_takes_rows_from_everywhere_in_their_order(source: Source, tmp_path: Path) -> None:
    many = source.model_copy(update={"rows": rows_file(tmp_path / "many.jsonl", numbered(3000))})
    taken: Counter[int] = Counter()
    for seed in range(20):
        rows = [row if isinstance(row, Example) else row[0] for row in p3(seed, sources=[many], cap=300)]
        numbers = [row.provenance.row for row in rows]
        assert numbers == sorted(set(numbers))
        taken.update(number // 1000 for number in numbers)
    assert taken.total() == 6000
    assert all(1800 < count < 2200 for count in taken.values())  # five standard deviations


def test_a_limit_takes_the_first_rows_and_reads_no_others(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def watched(path: str, refuse: Any) -> Iterator[Any]:
        for n in range(10**9):
            read.append(n)
            yield Where(path, n), {"text": str(n), "label": 1}

    monkeypatch.setattr(module, "read_rows", watched)
    kept, _ = told_apart(p3(1, sources=[source], limit=5))
    assert [row.provenance.row for row in kept] == read == [0, 1, 2, 3, 4]


def test_rows_stream(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "read_rows", lambda path, refuse: ((Where(path, n), numbered(2)[1]) for n in range(10**9))
    )
    rows = p3(1, sources=[source], cap=None)
    assert [isinstance(next(rows), Example) for _ in range(50)] == [True] * 50


# ---- bad input ----


@pytest.mark.promise1
@pytest.mark.promise10
def test_bad_rows_are_dropped_with_file_template_and_row_and_the_rest_is_kept(source: Source, tmp_path: Path) -> None:
    bad = [
        {"text": "soup", "label": 1},
        {"tekst": "soup", "label": 1},
        "{not json",
        {"text": "a ||| b", "label": 1},
        {"text": "soup", "label": 7},
        {"text": "soup", "label": -1},
        {"text": None, "label": 1},
        {"text": "soup", "label": 1, "answer_choices": "x"},
        [1],
        {"text": "しるこ 🍲", "label": 0},
        '{"text": "half \\ud800", "label": 1}',
    ]
    path = rows_file(tmp_path / "bad.jsonl", bad)
    changed = source.model_copy(update={"rows": path, "templates": templates(tmp_path / "t.yaml", "food", ["ask"])})
    folder = tmp_path / "out"
    folder.mkdir()
    tally = write_stream(folder, p3(0, sources=[changed]))
    assert (tally.seen, tally.kept) == (11, 3)
    assert [row.prompt_text for row in read_rows(folder)] == ["Is soup good?", "Is a ||| b good?", "Is しるこ 🍲 good?"]
    dropped = read_dropped(folder)
    assert [(row.provenance.row, verdict.reason, verdict.by) for row, verdict in dropped] == [
        (1, "missing_field", "p3"),
        (2, "unreadable", "p3"),
        (4, "not_a_choice", "p3"),
        (5, "not_a_choice", "p3"),
        (6, "template_failed", "p3"),
        (7, "reserved_field", "p3"),
        (8, "unreadable", "p3"),
        (10, "unreadable", "p3"),
    ]
    details = [verdict.detail for _, verdict in dropped]
    assert details[0] == (
        f"{path}:2: template 'food/ask': jinja needs the field 'text', and the row has 'tekst', 'label'"
    )
    assert details[1].startswith(f"{path}:3: not valid JSON at column 2")
    assert details[2] == f"{path}:5: template 'food/ask': jinja fails: there is no choice 7; they are 0 to 1"


@pytest.mark.promise10
def test_broken_template_files_among_others_are_dropped_with_their_line(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "food"
    (folder / "broken").mkdir()
    (folder / "broken" / "templates.yaml").write_text("dataset: x\ntemplates: [\n", "utf-8")
    odd = templates(folder / "odd" / "templates.yaml", "odd", ["ask", "judge"])
    Path(odd).write_text(Path(odd).read_text("utf-8").replace("Judge: {{text}}", "Judge: {{text"), "utf-8")
    both = source.model_copy(update={"templates": str(folder)})
    kept, dropped = told_apart(p3(1, sources=[both], templates_per_row="all", original_task=True))
    assert (len(kept), len(dropped)) == (120, 2)
    (file, no_yaml), (one, no_jinja) = dropped
    assert (file.row, no_yaml.reason) == (f"{folder}/broken/templates.yaml#0", "bad_templates_file")
    assert no_yaml.detail.startswith(f"{folder}/broken/templates.yaml:3: not valid YAML: ")
    assert (one.row, no_jinja.reason) == (f"{odd}#0", "bad_template")
    assert no_jinja.detail == (
        f"{odd}:9: templates.judge-id: template 'judge': jinja is not a valid template, line 1 of the text: "
        "unexpected char '|' at 14"
    )


@pytest.mark.promise10
def test_a_broken_template_file_alone_is_refused_with_its_line(source: Source) -> None:
    path = Path(source.templates)
    path.write_text("dataset: x\ntemplates: [\n", "utf-8")
    with pytest.raises(ConfigError, match=r"templates\.yaml:3: not valid YAML"):
        p3(1, sources=[source])


@pytest.mark.promise10
def test_a_rows_file_that_ends_early_keeps_what_came_before(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'text,label\nsoup,1\nbread,1\n"be"an,1\nrice,1\n')
    other = source.model_copy(update={"rows": str(path), "templates": templates(tmp_path / "t.yaml", "o", ["turned"])})
    text = Path(other.templates).read_text("utf-8").replace("label == 1", "label == '1'")
    Path(other.templates).write_text(text, "utf-8")
    kept, dropped = told_apart(p3(1, sources=[other, source], original_task=False))
    assert [row.reply for row in kept[:2]] == ["soup", "bread"]
    assert (dropped[0][0].row, dropped[0][1].reason) == (f"{path}#2", "unreadable")
    assert dropped[0][1].detail == f"{path}:4: not valid CSV: ',' expected after '\"'"
    assert {row.provenance.source for row in kept} == {str(path), source.rows}


@pytest.mark.promise10
def test_what_is_not_there_is_told_all_at_once(source: Source, tmp_path: Path) -> None:
    gone = Source(templates=str(tmp_path / "fod"), rows=str(tmp_path / "row.jsonl"))
    with pytest.raises(ConfigError) as caught:
        p3(1, sources=[source, gone, source])
    assert str(caught.value) == (
        f"build.p3 sources.1.templates: no templates.yaml at '{tmp_path}/fod'\n  do this: did you mean 'food'?\n"
        f"build.p3 sources.1.rows: no such file: '{tmp_path}/row.jsonl'\n  do this: did you mean 'rows.jsonl'?\n"
        f"build.p3 sources: 2 sources have the rows '{source.rows}'\n"
        "  do this: name a folder that holds the templates of both"
    )


@pytest.mark.promise10
def test_options_that_leave_nothing_are_told(source: Source, tmp_path: Path) -> None:
    turned = source.model_copy(update={"templates": templates(tmp_path / "t.yaml", "o", ["turned"])})
    with pytest.raises(ConfigError, match=r"original_task: no template of .* asks for the original task"):
        p3(1, sources=[turned], original_task=True)
    with pytest.raises(ConfigError, match=r"cap: .* has 3 templates, so that a cap of 2 gives each no row"):
        p3(1, sources=[source], cap=2)
    templates(tmp_path / "twice" / "a" / "templates.yaml")
    templates(tmp_path / "twice" / "b" / "templates.yaml", chosen=["ask"])
    with pytest.raises(ConfigError, match="sources: 2 templates are 'food/ask', in different files"):
        p3(1, sources=[source.model_copy(update={"templates": str(tmp_path / "twice")})])
    with pytest.raises(ValidationError, match="Extra inputs"):
        Source(templates="a", rows="b", field={})  # type: ignore[call-arg]


@pytest.mark.promise10
def test_template_files_that_are_there_are_looked_at_before_anything_runs(source: Source, tmp_path: Path) -> None:
    turned = templates(tmp_path / "turned" / "templates.yaml", "o", ["turned"])
    (tmp_path / "empty").mkdir()
    sources = [
        {"templates": str(tmp_path / "fod"), "rows": "hub:a/b"},
        {"templates": str(tmp_path / "none" / "food"), "rows": "later.jsonl"},  # not fetched yet
        {"templates": turned, "rows": "hub:c/d"},
        {"templates": source.templates, "rows": "hub:c/d"},
        {"templates": str(tmp_path / "empty"), "rows": "hub:e/f"},
    ]
    with pytest.raises(ConfigError) as caught:
        bind("build", "p3", {"sources": sources, "original_task": True, "cap": 2}, where="r.yaml:8")
    assert [f"{p.where}: {p.what} -> {p.fix}" for p in caught.value.problems] == [
        f"r.yaml:8 sources.0.templates: no templates.yaml at '{tmp_path}/fod' -> did you mean 'food'?",
        f"r.yaml:8 sources.4.templates: no templates.yaml at '{tmp_path}/empty' -> "
        "name a folder that has a templates.yaml in it",
        "r.yaml:8 sources: 2 sources have the rows 'hub:c/d' -> name a folder that holds the templates of both",
        f"r.yaml:8 original_task: no template of '{turned}' asks for the original task -> "
        "leave the source or the option out",
        f"r.yaml:8 cap: '{source.templates}' has 3 templates, so that a cap of 2 gives each no row -> raise it",
    ]
    Path(turned).write_text("dataset: x\ntemplates: [\n", "utf-8")
    with pytest.raises(ConfigError, match=r"^r\.yaml:8 sources .*templates\.yaml:3: not valid YAML"):
        bind("build", "p3", {"sources": [{"templates": turned, "rows": "hub:c/d"}]}, where="r.yaml:8")
    # one that can be used is enough: the other is told by a dropped row
    bind("build", "p3", {"sources": [{"templates": turned, "rows": "x"}, {"templates": source.templates, "rows": "y"}]})


@pytest.mark.promise10
def test_no_row_that_fits_is_told_with_the_first_reason(source: Source, tmp_path: Path) -> None:
    path = rows_file(tmp_path / "other.jsonl", [{"sentence": "soup"}] * 3)
    with pytest.raises(DataError) as caught:
        list(p3(5, sources=[source.model_copy(update={"rows": path})], original_task=True))
    assert str(caught.value).startswith(
        f"build.p3: no row fits a template (missing_field 3); the first: {path}:1: template 'food/"
    )
    assert "needs the field 'text', and the row has 'sentence'" in str(caught.value)


def test_the_key_knows_the_files(source: Source, tmp_path: Path) -> None:
    params = {"sources": [{"templates": str(tmp_path / "food"), "rows": source.rows}]}
    before = bind("build", "p3", params).identity()
    assert before == bind("build", "p3", params).identity()
    templates(tmp_path / "food" / "templates.yaml", "changed")
    middle = bind("build", "p3", params).identity()
    rows_file(Path(source.rows), numbered(3))
    assert len({json.dumps(found) for found in (before, middle, bind("build", "p3", params).identity())}) == 3


@pytest.mark.promise10
def test_a_mistyped_option_of_a_source_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        bind("build", "p3", {"sources": [{"templates": "t", "row": "r"}]}, where="recipe.yaml:7")
    assert [problem.what for problem in caught.value.problems] == ["'rows' is missing", "unknown key 'row'"]
    with pytest.raises(ConfigError, match=r"sources: .* at least 1 item"):
        bind("build", "p3", {"sources": []})


@pytest.mark.promise10
def test_mixed_encodings_cost_their_rows_alone(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    lines = ['{"text": "crème", "label": 1}'.encode(code) for code in ("utf-8", "latin-1", "utf-16-le", "utf-8")]
    path.write_bytes(b"\n".join(lines))
    kept, dropped = told_apart(p3(0, sources=[source.model_copy(update={"rows": str(path)})], original_task=True))
    assert [row.provenance.row for row in kept] == [0, 3]
    assert [(row.provenance.row, verdict.reason) for row, verdict in dropped] == [(1, "unreadable"), (2, "unreadable")]
    assert dropped[0][1].detail == f"{path}:2: not valid UTF-8: byte 0xe8 at column 13"
    path = tmp_path / "mixed.csv"
    path.write_bytes(b"text,label\n" + b"\n".join("crème,1".encode(code) for code in ("utf-8", "latin-1", "utf-8")))
    other = source.model_copy(update={"rows": str(path), "templates": templates(tmp_path / "t.yaml", "o", ["turned"])})
    text = Path(other.templates).read_text("utf-8").replace("label == 1", "label == '1'")
    Path(other.templates).write_text(text, "utf-8")
    kept, dropped = told_apart(p3(0, sources=[other]))
    assert [row.provenance.row for row in kept] == [0, 2]
    assert [v.detail for _, v in dropped] == [f"{path}:3: not valid UTF-8: byte 0xe8 at column 3"]


@pytest.mark.slow
@pytest.mark.promise10
def test_a_line_of_100_mb_costs_its_row_alone(source: Source, tmp_path: Path) -> None:
    path = rows_file(tmp_path / "huge.jsonl", [{"text": size * "a", "label": 1} for size in (1, 10**8, 2)])
    huge = source.model_copy(update={"rows": path})
    kept, dropped = told_apart(p3(0, sources=[huge], original_task=True, truncate=None))
    assert [row.provenance.row for row in kept] == [0, 2]
    ((row, verdict),) = dropped
    assert (row.provenance.row, verdict.reason) == (1, "too_long")
    assert verdict.detail.startswith(f"{path}:2: template 'food/")
    kept, dropped = told_apart(p3(0, sources=[huge], original_task=True))
    assert (len(kept), len(dropped)) == (3, 0)  # cut at 2,048 characters

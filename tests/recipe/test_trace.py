"""One row followed through a small real run; steps are held against what tuning itself logged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from shinan.core.dataset import read_manifest, read_rows
from shinan.core.errors import DataError, RunError
from shinan.core.verdict import KEEP
from shinan.evaluate.samples import read_samples
from shinan.recipe.run import run
from shinan.recipe.schema import load_recipe
from shinan.recipe.trace import Trace, trace

TOMATO = "Name the colour of a ripe tomato in one single word please."
ROWS = [
    *({"instruction": f"Write {n}.", "output": "a" * 2**n} for n in range(9)),  # lengths that tell which rows add up
    {"instruction": "Write 3.", "output": "a" * 8},  # 9: a duplicate of row 3
    {"instruction": "Write a" + " short" * 100 + " word.", "output": "a"},  # 10: too long to tune on
    {"instruction": f"{TOMATO} Think first.", "output": "red"},  # 11: holds an evaluation item
    {"instruction": "Name the colour of a ripe banana in one word.", "output": "yellow"},  # 12: only like it
]
ITEMS = [
    {"instruction": TOMATO, "output": "red"},
    {"instruction": "Say in which month the long winter of the north ends.", "output": "April"},
]
RECIPE = """\
name: traced
seed: 4
model: tiny:decoder
chat: gemma
build: [{id: mine, use: file, with: {path: ROWS, maker: human, licence: CC0-1.0}}]
curate: [{use: structure}, {use: exact_duplicates}]
tune: {method: full, epochs: 2, batch_size: 3, learning_rate: 1e-3, max_tokens: 400, validation: 0.2}
evaluate: [{id: own, use: file, with: {path: ITEMS}, max_new_tokens: 3}]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; row n of its data is `rows.jsonl#n`."""
    root = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("SHINAN_CACHE", str(root / "cache"))
        for name, rows in (("rows.jsonl", ROWS), ("items.jsonl", ITEMS)):
            Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        Path("recipe.yaml").write_text(RECIPE.replace("ROWS", "rows.jsonl").replace("ITEMS", "items.jsonl"), "utf-8")
        run(load_recipe(Path("recipe.yaml")), root / "run")
    return root / "run"


def _walk(found: Trace) -> list[tuple[str, str]]:
    return [(passage.stage, passage.verdict.reason) for passage in found.passages]


@pytest.mark.promise1
def test_a_kept_row_is_seen_at_every_stage(done: Path) -> None:
    found = trace(done, "rows.jsonl#3")
    assert _walk(found) == [("build.mine", ""), ("curate", ""), ("tune", "")]
    assert found.passages[1].passed == ("structure", "exact_duplicates", "overlap")
    made = found.passages[0].example.provenance
    assert (made.source, made.licence, made.maker) == ("rows.jsonl", "CC0-1.0", "human")
    assert found.missing == ()
    assert len(found.trained) == 1
    assert found.chat
    assert found.chat.name == "gemma"


@pytest.mark.promise1
@pytest.mark.parametrize(
    ("row", "walk", "detail", "by", "passed"),
    [
        (9, ["build.mine", "curate"], "same as rows.jsonl#3", "exact_duplicates", ("structure",)),
        (10, ["build.mine", "curate", "tune"], "> 400 tokens", "tokenise", ()),
        (11, ["build.mine", "curate"], "items.jsonl#0", "overlap", ("structure", "exact_duplicates")),
    ],
)
def test_a_dropped_row_is_followed_to_where_it_fell(
    done: Path, row: int, walk: list[str], detail: str, by: str, passed: tuple[str, ...]
) -> None:
    found = trace(done, f"rows.jsonl#{row}")
    assert [passage.stage for passage in found.passages] == walk
    *before, last = found.passages
    assert all(passage.verdict == KEEP for passage in before)
    assert not last.verdict.keep
    assert detail in last.verdict.detail
    assert (last.verdict.by, last.passed) == (by, passed)
    assert found.trained == ()
    assert found.nearest_item


@pytest.mark.promise1
def test_every_row_is_traced_to_the_steps_whose_tokens_it_was_among(done: Path) -> None:
    """metrics.jsonl logs each step's tokens and loss while it is trained: the rows traced to it must add up to them."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: (line["tokens"], line["loss"]) for line in lines if "loss" in line}
    added = dict.fromkeys(logged, 0)
    held = 0
    for example in read_rows(done / "stages" / "tune"):
        found = trace(done, example.row)
        assert found.chat
        (use,) = found.trained
        held += use.held
        assert [lesson.epoch for lesson in use.lessons] == ([] if use.held else [1, 2])
        for lesson in use.lessons:
            added[lesson.step] += len(found.chat.render(example.messages).ids)
            assert lesson.loss == logged[lesson.step][1]
    assert added == {step: tokens for step, (tokens, _) in logged.items()}
    manifest = read_manifest(done / "stages" / "tune")
    assert manifest
    assert held == manifest.facts["validation_examples"] == 2


def test_the_nearest_held_out_item_by_hand(done: Path) -> None:
    """10 and 12 words, 9 of them in common and in order: P 9/10, R 9/12, so F 9/11; no eight of them in a row."""
    near = trace(done, "rows.jsonl#12").nearest_item
    assert near
    assert near.example.row == "items.jsonl#0"
    assert near.rouge_l == pytest.approx(9 / 11)
    assert (near.share, near.n) == (0.0, 8)
    held = trace(done, "rows.jsonl#11").nearest_item
    assert held
    assert (held.example.row, held.share) == ("items.jsonl#0", 1.0)


def test_an_item_leads_to_its_answers_and_its_nearest_training_rows(done: Path) -> None:
    found = trace(done, "items.jsonl#0")
    assert _walk(found) == [("items.own", "")]
    assert found.nearest_item is None
    (answered,) = found.answers
    assert answered.task == "own"
    for sample, side in ((answered.before, "before"), (answered.after, "after")):
        assert sample in read_samples(done / "eval" / f"own.{side}.jsonl")
        assert sample
        assert sample.row == "items.jsonl#0"
    first, *others = found.nearest_rows
    assert first.example.row == "rows.jsonl#12"
    assert first.rouge_l == pytest.approx(9 / 11)
    assert first.training == trace(done, "rows.jsonl#12").trained[0]
    assert len(others) == 4
    trained = {example.row for example in read_rows(done / "stages" / "tune")}
    assert {near.example.row for near in found.nearest_rows} <= trained


def test_a_row_in_both_camps_is_followed_both_ways(done: Path, tmp_path: Path) -> None:
    """With decontamination switched off by name, a row can be trained on and asked."""
    text = (
        RECIPE.replace("ROWS", "rows.jsonl")
        .replace("ITEMS", "rows.jsonl")
        .replace("tune:", "decontaminate: false\ntune:")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(done.parent)
        patch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
        (tmp_path / "leak.yaml").write_text(text.replace("epochs: 2", "epochs: 0.2"), "utf-8")
        run(load_recipe(tmp_path / "leak.yaml"), tmp_path / "leak")
    found = trace(tmp_path / "leak", "rows.jsonl#12")
    assert [passage.stage for passage in found.passages] == ["build.mine", "items.own", "curate", "tune"]
    assert found.passages[2].passed == ("structure", "exact_duplicates")
    assert found.nearest_item
    assert (found.nearest_item.example.row, found.nearest_item.rouge_l) == ("rows.jsonl#12", 1.0)
    assert found.nearest_rows[0].example.row == "rows.jsonl#12"
    uses = [trace(tmp_path / "leak", f"rows.jsonl#{n}").trained[0] for n in range(9)]
    assert any(not use.held and not use.lessons for use in uses)  # a fifth of an epoch does not reach all


def test_an_unfinished_run_is_followed_as_far_as_it_went(done: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(done, half)
    for gone in ("stages/tune", "stages/evaluate.own.after", "stages/compare", "checkpoints"):
        shutil.rmtree(half / gone)
    found = trace(half, "rows.jsonl#3")
    assert _walk(found) == [("build.mine", ""), ("curate", "")]
    assert found.missing == ("tune", "evaluate.own.after", "compare")
    assert (found.trained, found.chat) == ((), None)
    item = trace(half, "items.jsonl#0")
    assert item.answers[0].before
    assert item.answers[0].after is None
    assert item.nearest_rows[0].example.row == "rows.jsonl#12"
    assert item.nearest_rows[0].training is None


def test_a_row_is_found_by_its_content_and_by_the_beginning_of_either_name(done: Path) -> None:
    found = trace(done, "rows.jsonl#5")
    id_ = found.passages[0].example.id
    for name in (id_, id_[:12], id_.removeprefix("b2:")[:9]):
        assert trace(done, name).passages == found.passages
    assert trace(done, "rows.jsonl#1").passages[0].example.row == "rows.jsonl#1"  # though #10 begins with it too


@pytest.mark.promise10
def test_a_name_that_fits_several_rows_or_none_is_a_sentence(done: Path) -> None:
    with pytest.raises(DataError, match=r"13 rows answer to 'rows'") as caught:
        trace(done, "rows")
    assert "name one of them: rows.jsonl#0, rows.jsonl#1, rows.jsonl#10, rows.jsonl#11, …" in str(caught.value)
    twin = trace(done, "rows.jsonl#3").passages[0].example.id
    with pytest.raises(DataError, match=r"2 rows answer to .*\n.*rows.jsonl#3, rows.jsonl#9$"):
        trace(done, twin)
    with pytest.raises(DataError, match=r"no row of this run is named 'row.jsonl#12'") as caught:
        trace(done, "row.jsonl#12")
    assert "did you mean rows.jsonl#12 or " in str(caught.value)
    with pytest.raises(DataError, match="no row of this run is named ''"):
        trace(done, "")
    with pytest.raises(RunError, match="this is no run folder"):
        trace(done / "stages", "rows.jsonl#3")

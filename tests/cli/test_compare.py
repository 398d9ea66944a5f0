from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from shinan.core.dataset import read_manifest
from shinan.recipe.measure import compare_logs
from tests.cli.conftest import Shinan


def write_log(path: Path, scores: Sequence[float | None], *, style: str = "alpaca", text: str = "") -> Path:
    """A log of one item a task, each with this score."""
    lines = [
        {
            "row": f"items#{n}",
            "id": f"id{n}{text}",
            "task": f"task{n}",
            "category": "",
            "language": "en",
            "style": style,
            "prompt": "?",
            "targets": ["!"],
            "reply": "!",
            "finish": "stop",
            "empty": False,
            "new_tokens": 2,
            "scores": {"exact_match": score},
        }
        for n, score in enumerate(scores)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    return path


def test_two_logs(place: Path, shinan: Shinan) -> None:
    """By hand: 2 of 3 differences are +1; of the 4 sign patterns 2 reach a total of 2, so p = 0.5."""
    write_log(place / "a.jsonl", [0, 0, 1, None])
    write_log(place / "b.jsonl", [1, 1, 1, 1])
    done = shinan("compare", "a.jsonl", "b.jsonl")
    assert done.code == 0
    _, row, remark = done.out.splitlines()
    assert row.split() == ["b", "exact", "match", "3", "33.3", "100.0", "+66.7", "0.0", "to", "+100.0", "0.50"]
    assert remark.startswith("b, exact match (alpaca): 2 better, 0 worse, 1 the same; 1 more could not be scored; ")


@pytest.mark.promise6
def test_each_side_is_taken_in_its_best_format(place: Path) -> None:
    before = write_log(write_log(place / "a.jsonl", [0, 0], style="gemma"), [1, 0], style="plain")
    after = write_log(write_log(place / "b.jsonl", [1, 1], style="gemma"), [1, 0], style="plain")
    [row] = compare_logs(before, after)
    assert (row["style_before"], row["style_after"], row["delta"]) == ("plain", "gemma", 0.5)


def test_two_folders_share_tasks(place: Path, shinan: Shinan) -> None:
    """A run stands for its answers after tuning, an evaluation's folder for all of its."""
    write_log(place / "run/eval/one.before.jsonl", [0, 0])
    write_log(place / "run/eval/one.after.jsonl", [1, 0])
    write_log(place / "run/eval/two.after.jsonl", [1, 1])
    write_log(place / "base/eval/one.jsonl", [0, 0])
    [row] = compare_logs(place / "base", place / "run")
    assert (row["task"], row["before"], row["after"]) == ("one", 0.0, 0.5)
    [alone] = compare_logs(place / "base", place / "run/eval/one.before.jsonl")
    assert alone["delta"] == 0
    none = shinan("compare", "base", "run/eval/two.after.jsonl")
    assert none.code == 1
    assert "the two share no evaluation task (one and two)" in none.err


@pytest.mark.promise6
def test_different_items_are_told(place: Path, shinan: Shinan) -> None:
    write_log(place / "a.jsonl", [0, 0])
    write_log(place / "more.jsonl", [0, 0, 1])
    more = shinan("compare", "a.jsonl", "more.jsonl")
    assert more.code == 1
    assert "items#2: before and after were asked different items (1 differ)" in more.err
    write_log(place / "other.jsonl", [0, 0], text="changed")
    other = shinan("compare", "a.jsonl", "other.jsonl")
    assert other.code == 1
    assert "items#0: before and after were asked different items: 2 of them have another text" in other.err


def test_what_cannot_be_compared_is_explained(place: Path, shinan: Shinan) -> None:
    write_log(place / "a.jsonl", [0])
    (place / "empty.jsonl").write_text("", "utf-8")
    assert "one of the two logs is empty" in shinan("compare", "a.jsonl", "empty.jsonl").err
    (place / "text.jsonl").write_text("no log\n", "utf-8")
    assert "text.jsonl:1: not a sample of an evaluation" in shinan("compare", "a.jsonl", "text.jsonl").err
    assert "nowhere: there are no evaluated answers here" in shinan("compare", "a.jsonl", "nowhere").err


@pytest.mark.promise6
def test_a_run_compared_by_hand_agrees_with_its_own_comparison(mine: Path) -> None:
    manifest = read_manifest(mine / "runs/mini/stages/compare")
    assert manifest
    before, after = (mine / f"runs/mini/eval/heldout.{side}.jsonl" for side in ("before", "after"))
    rows = compare_logs(before, after)
    for row, said in zip(rows, manifest.facts["evaluation"], strict=True):
        assert {name: row[name] for name in said} == said
    shutil.copytree(mine / "runs/mini", mine / "runs/again")
    assert all(row["delta"] == 0 for row in compare_logs(mine / "runs/mini", mine / "runs/again"))

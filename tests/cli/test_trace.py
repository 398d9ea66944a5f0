from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from shinan.cli.trace import _answer, _say, _use, trace
from shinan.core.dataset import read_rows
from shinan.core.errors import DataError
from shinan.evaluate.samples import Sample
from shinan.recipe.trace import Lesson, Training
from tests.cli.conftest import Made


def _lines(capsys: pytest.CaptureFixture[str], id_: str, run: Path) -> list[str]:
    capsys.readouterr()
    trace(id_, run)
    return capsys.readouterr().out.splitlines()


def _row(made: Made, number: int) -> str:
    return f"{made.recipe.with_name('rows.jsonl')}#{number}"


@pytest.mark.promise1
def test_a_row_from_its_source_to_its_steps(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    run, row = made.runs / "mini", _row(made, 7)
    lines = _lines(capsys, row, run)
    assert lines[0] == f"── {row}"
    assert {f"source  {row.removesuffix('#7')}", "licence CC0-1.0", "maker   human"} <= set(lines)
    start = lines.index("build.mine               kept")
    assert lines[start + 1] == "curate                   kept by structure, exact_duplicates, overlap"
    assert lines[start + 2] == "tune                     kept"
    assert lines[start + 3].startswith(("training                 in step ", "training                 held for valid"))
    assert "as the model sees it (gemma)" in lines
    assert "⟦7<end_of_turn>⟧⏎" in lines
    near = lines.index("the nearest held-out item") + 1
    assert lines[near].startswith("collection:starter/")
    assert "of the held-out prompt in 8-grams" in lines[near]


@pytest.mark.promise1
def test_dropped_rows_keep_their_reason(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    run = made.runs / "mini"
    lines = _lines(capsys, _row(made, 8), run)
    verdict = f"kept by structure; dropped by exact_duplicates: duplicate (same as {_row(made, 3)})"
    assert f"curate                   {verdict}" in lines
    assert not any(line.startswith(("tune ", "training ")) for line in lines)
    lines = _lines(capsys, _row(made, 9), run)
    (told,) = (line for line in lines if line.startswith("tune "))
    assert told.startswith("tune                     dropped by tokenise: too_long (")


def test_an_item_backwards(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    run = made.runs / "mini"
    item = read_rows(run / "stages" / "items.heldout")[0]
    lines = _lines(capsys, item.row, run)
    assert "items.heldout            kept" in lines
    start = next(i for i, line in enumerate(lines) if line.startswith("answers in heldout: "))
    assert [line.split()[0] for line in lines[start + 1 :] if line.startswith(("before", "after"))] == [
        "before",
        "after",
    ]
    near = lines.index("the 5 nearest training rows")
    assert sum(line.startswith(_row(made, 0)[:-1]) for line in lines[near:]) == 5
    assert "as the model sees it (gemma)" not in lines


def test_what_is_not_finished_is_named(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half"
    shutil.copytree(made.runs / "mini", half)
    shutil.rmtree(half / "stages" / "tune")
    lines = _lines(capsys, _row(made, 7), half)
    assert "not finished yet         tune" in lines
    with pytest.raises(DataError, match="did you mean "):
        trace("rows.jsonl#77", half)


def test_how_a_row_was_used() -> None:
    assert _use(Training(True, ())) == "held for validation: never trained on"
    assert _use(Training(False, ())) == "in no step: the last epoch ended before it"
    twice = Training(False, (Lesson(3, 1, 2.3456), Lesson(17, 2, None)))
    assert _use(twice) == "in step 3 (epoch 1, loss 2.346), step 17 (epoch 2)"
    often = Training(False, tuple(Lesson(n, n, None) for n in range(1, 21)))
    assert _use(often).endswith("step 12 (epoch 12) and 8 more")


def test_answers_are_told_with_their_scores() -> None:
    sample = Sample("r#0", "b2:0", "t", "c", "en", "plain", "q", ("a",), "", "length", True, 8, {"rouge_l": None})
    assert list(_answer("before", None)) == ["before  not asked yet"]
    assert list(_answer("after", sample)) == ["after   (empty)", "        ROUGE-L – (plain, cut at the length limit)"]


def test_hostile_text_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    _say(Console(), "a\x1b[2Jb [red]c[/red]")
    assert capsys.readouterr().out == "a␛[2Jb [red]c[/red]\n"

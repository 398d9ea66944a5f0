"""`make bench`: which size of each part a budget allows, and the table of what was written."""

from __future__ import annotations

import importlib
import os
import shlex
from pathlib import Path

import pytest

from bench import __main__ as whole
from bench import pairs


def test_without_a_budget_nothing_is_cut() -> None:
    forms = whole.plan(list(whole.PARTS), None)
    assert list(forms) == list(whole.PARTS)
    assert not any(form.cut for form in forms.values())


def test_all_parts_fit_into_forty_minutes_and_say_what_was_cut() -> None:
    forms = whole.plan(list(whole.PARTS), 40)
    assert sum(form.minutes for form in forms.values()) <= 40
    assert forms["race"].cut == "2 of 10 minutes, n 1, 24 of 120 items, no search"


def test_time_that_is_left_makes_parts_whole_again() -> None:
    assert not whole.plan(["novelty", "race"], 15)["novelty"].cut
    assert whole.plan(["novelty", "race"], 15)["race"].cut
    assert whole.plan(["novelty", "race"], 1)["novelty"].cut


@pytest.mark.parametrize("part", whole.PARTS.values(), ids=whole.PARTS)
def test_every_command_is_a_script_that_knows_its_options(
    part: whole.Part, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in (part.whole, part.quick):
        module, *words = shlex.split(form.command)
        monkeypatch.setattr("sys.argv", [module, *words, "--help"])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(module).main()
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words if word.startswith("--"))


def test_the_table_is_of_what_was_written_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "RESULTS", tmp_path)
    rows = [pairs.Row(name, "ms", 1.0, 2.0, "TRL", 0.5, None, 1) for name in "abc"]
    for age, row in zip((100, 30, 20), rows, strict=True):
        path = pairs.save(row.workload, [row])
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "old.json").write_text("{}", "utf-8")
    os.utime(tmp_path / "old.json", (1000, 1000))
    assert whole.rows_since(970) == rows[1:]

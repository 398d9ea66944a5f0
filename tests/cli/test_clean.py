from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Shinan


def test_looking_deletes_nothing(mine: Path, shinan: Shinan) -> None:
    before = set(mine.rglob("*"))
    table = shinan("clean")
    assert table.code == 0
    for kind in ("model", "states", "checkpoint", "in all"):
        assert kind in table.out
    assert "Select with --cache, --runs NAME or --states." in table.out
    for selection in (["--cache"], ["--states"], ["--runs", "mini"]):
        shown = shinan("clean", *selection)
        assert shown.code == 0
        assert "Nothing was deleted. Add --yes to delete this." in shown.out
    assert set(mine.rglob("*")) == before


def test_yes_needs_a_selection(shinan: Shinan) -> None:
    assert shinan("clean", "--yes").code == 2


def test_states_of_finished_runs_go_and_the_tuned_model_stays(mine: Path, shinan: Shinan) -> None:
    assert shinan("clean", "--states", "--yes").out == "deleted runs/mini/checkpoints/states\n"
    assert sorted(path.name for path in (mine / "runs/mini/checkpoints").iterdir()) == ["adapter", "best", "last"]
    assert shinan("doctor", "runs/mini").code == 0
    assert "There is nothing to delete." in shinan("clean", "--states").out


def test_states_of_an_unfinished_run_go_only_if_it_is_named(mine: Path, shinan: Shinan) -> None:
    (mine / "runs/mini/stages/tune/manifest.json").unlink()
    kept = shinan("clean", "--states", "--yes")
    assert kept.out == "left out, its tuning is not finished: runs/mini/checkpoints/states (name it with --runs)\n"
    named = shinan("clean", "--states", "--runs", "mini", "--yes")
    assert named.out == "deleted runs/mini/checkpoints/states\n"


def test_a_named_run_loses_its_checkpoints_and_keeps_its_report(mine: Path, shinan: Shinan) -> None:
    shinan("report", "runs/mini")
    assert shinan("clean", "--runs", "./runs/mini", "--yes").code == 0
    assert list((mine / "runs/mini/checkpoints").iterdir()) == []
    for name in ("report.html", "summary.json", "metrics.jsonl", "eval/heldout.after.jsonl", "stages/tune"):
        assert (mine / "runs/mini" / name).exists()
    assert (mine / "cache/models/tiny-decoder").exists()


def test_the_cache_is_emptied_and_filled_again(mine: Path, shinan: Shinan) -> None:
    assert "deleted" in shinan("clean", "--cache", "--yes").out
    assert not (mine / "cache/models/tiny-decoder").exists()
    assert (mine / "runs/mini/checkpoints/best").exists()
    assert shinan("models", "get", "tiny:decoder").code == 0


def test_an_unknown_run_is_explained(mine: Path, shinan: Shinan) -> None:
    done = shinan("clean", "--runs", "mimi", "--yes")
    assert done.code == 1
    assert "runs/mimi: this is no run folder\n  do this: did you mean 'mini'?" in done.err

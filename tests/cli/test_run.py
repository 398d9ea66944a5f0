"""`shinan build`, `curate`, `tune` and `run`: as far as asked, and nothing twice."""

from __future__ import annotations

from pathlib import Path

from shinan.core.dataset import read_manifest
from shinan.report.collect import collect
from tests.cli.conftest import Done, Made, Shinan

ROWS = ["build.mine", "items.heldout", "curate"]
TUNED = [*ROWS, "audit", "tune"]
ALL = [*TUNED, "evaluate.heldout.before", "evaluate.heldout.after", "compare"]


def stages(folder: Path) -> set[str]:
    return {path.name for path in (folder / "stages").iterdir() if read_manifest(path)}


def words(done: Done) -> list[str]:
    """What was printed, without the rule below the table's head."""
    return [word for word in done.out.split() if set(word) != {"─"}]


def test_each_command_goes_as_far_as_it_says_and_on_from_what_is_there(place: Path, made: Made, shinan: Shinan) -> None:
    folder = place / "runs" / "mini"
    done = shinan("build", made.recipe)
    assert done.code == 0, done.err
    assert done.err.startswith("[1/1] build.mine: running")
    assert words(done) == ["stage", "seen", "kept", "dropped", "build.mine", "10", "10", "run:", "runs/mini"]
    assert stages(folder) == {"build.mine"}

    done = shinan("curate", made.recipe)
    assert "[1/3] build.mine: done in this run" in done.err
    assert "curate 10 9 1 duplicate" in " ".join(words(done))
    assert stages(folder) == set(ROWS)

    done = shinan("tune", made.recipe)
    assert done.code == 0, done.err
    assert "tune 9 8 1 too_long" in " ".join(words(done))
    assert stages(folder) == set(TUNED)
    assert (folder / "checkpoints" / "last").exists()
    assert not (folder / "eval").exists()
    tuned = read_manifest(folder / "stages" / "tune")

    done = shinan("export", "runs/mini", "--to", "safetensors")
    assert done.code == 0, done.err
    card = (place / "exports" / "mini-safetensors" / "README.md").read_text("utf-8")
    assert "Nothing can be said yet" in card

    done = shinan("run", made.recipe)
    assert done.code == 0, done.err
    assert "report: " in done.out
    assert stages(folder) == set(ALL)
    assert read_manifest(folder / "stages" / "tune") == tuned


def test_what_is_left_of_earlier_settings_is_not_shown(mine: Path, shinan: Shinan) -> None:
    done = shinan("tune", "mini.yaml", "--set", "tune.learning_rate=2e-3")
    assert done.code == 0, done.err
    found = collect(mine / "runs" / "mini")
    assert found.missing == ["evaluate.heldout.after", "compare"]
    assert found.comparisons == ()
    compared = shinan("compare", "runs/mini", "runs/mini")
    assert compared.code == 1
    assert "there are no evaluated answers here" in compared.err
    done = shinan("build", "mini.yaml", "--set", "seed=1")
    assert words(done)[4:] == ["build.mine", "10", "10", "run:", "runs/mini"]

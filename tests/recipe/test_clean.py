from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.dataset import Manifest, describe_files, write_manifest
from shinan.core.errors import RunError
from shinan.recipe.clean import Holding, cached, checkpoints, free, size
from shinan.recipe.lock import locked


def put(path: Path, size: int = 1) -> Path:
    """A file of that many bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "cache"
    monkeypatch.setenv("SHINAN_CACHE", str(root))
    put(root / "downloads/a.whl", 10)
    put(root / "models/one/shinan.json")
    put(root / "models/one/model.safetensors", 100)
    put(root / "models/.two.tmp/half", 5)
    put(root / "models/.one.lock", 0)
    put(root / "store.sqlite", 3)
    return root


Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a run folder with finished tuning."""

    def new(name: str) -> Path:
        run = tmp_path / "runs" / name
        for file in ("recipe.yaml", "plan.json", "report.html", "summary.json", "metrics.jsonl", "eval/t.after.jsonl"):
            put(run / file)
        for file in (
            "best/shinan.json",
            "best/model.safetensors",
            "last/model.safetensors",
            "states/step-1/state.json",
        ):
            put(run / "checkpoints" / file, 50)
        tuned = put(run / "stages/tune/data.parquet").parent
        write_manifest(tuned, Manifest("tune", "tune.sft", "key", files=describe_files(tuned, ["data.parquet"])))
        return run

    return new


def names(root: Path) -> set[str]:
    """Every file under `root`."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_the_cache_holds_downloads_models_and_what_was_left_behind(cache: Path) -> None:
    found = cached()
    assert [(holding.kind, holding.path.name, size([holding])) for holding in found] == [
        ("download", "downloads", 10),
        ("model", ".two.tmp", 5),
        ("model", "one", 101),
    ]
    assert [holding.path for holding in free(found)] == [holding.path for holding in found]
    assert names(cache) == {"models/.one.lock", "store.sqlite"}


def test_an_empty_cache_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "none"))
    assert cached() == []
    assert not (tmp_path / "none").exists()


def test_only_what_is_chosen_goes_and_reports_logs_and_rows_stay(make: Make) -> None:
    run = make("one")
    before = names(run)
    states, best, last = checkpoints(run)
    assert (states.kind, best.path.name, last.path.name) == ("states", "best", "last")
    assert not states.needed
    list(free([states]))
    assert before - names(run) == {"checkpoints/states/step-1/state.json"}
    list(free(checkpoints(run)))
    gone = {name for name in before if name.startswith("checkpoints/")}
    assert names(run) == before - gone | {".lock"}


def test_states_of_unfinished_tuning_are_needed(make: Make) -> None:
    run = make("one")
    (run / "stages/tune/data.parquet").unlink()
    assert checkpoints(run)[0].needed
    (run / "stages/tune/manifest.json").unlink()
    assert checkpoints(run)[0].cost == "unfinished tuning begins anew"


def test_only_run_folders_are_touched(make: Make) -> None:
    run = make("quickstart")
    with pytest.raises(RunError, match=r"quickstrt: this is no run folder\n  do this: did you mean 'quickstart'\?"):
        checkpoints(run.parent / "quickstrt")
    with pytest.raises(RunError, match="this is no run folder"):
        checkpoints(run.parent)


@pytest.mark.promise10
def test_nothing_is_deleted_while_a_run_is_at_work(make: Make) -> None:
    idle, busy = make("first"), make("second")
    before = names(idle) | {".lock"}
    with locked(busy), pytest.raises(RunError, match="second: another run is at work in this folder"):
        list(free(checkpoints(idle) + checkpoints(busy)))
    assert names(idle) == before


def test_links_are_not_followed(make: Make, cache: Path, tmp_path: Path) -> None:
    """Nothing outside the cache and the run is deleted, nor counted."""
    outside = put(tmp_path / "outside/precious", 1000).parent
    run = make("one")
    (run / "checkpoints/linked").symlink_to(outside)
    (run / "checkpoints/best/inner").symlink_to(outside)
    (cache / "models/linked").symlink_to(outside)
    found = cached() + checkpoints(run)
    assert "linked" not in {holding.path.name for holding in found}
    assert size(found) < 1000
    list(free(found))
    assert names(outside) == {"precious"}
    moved = make("two")
    (moved / "checkpoints").rename(tmp_path / "elsewhere")
    (moved / "checkpoints").symlink_to(tmp_path / "elsewhere")
    assert checkpoints(moved) == []


@pytest.mark.promise3
def test_what_is_left_by_a_kill_is_no_model(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shinan.recipe.clean.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        list(free(cached()[-1:]))
    assert not (cache / "models/one/shinan.json").exists()
    assert cached()[-1].path == cache / "models/one"


@given(shared=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8), chosen=st.sets(st.integers(0, 3)))
def test_the_size_is_what_deleting_gives_back(
    tmp_path_factory: pytest.TempPathFactory, shared: list[tuple[int, int]], chosen: set[int]
) -> None:
    """Four folders that share files by hard links: a file is gone when its last link is."""
    root = tmp_path_factory.mktemp("links")
    for number in range(4):
        put(root / str(number) / "own", 1)
    for number, (one, other) in enumerate(shared):
        file = put(root / str(one) / f"shared{number}", 2**number)
        if one != other:
            os.link(file, root / str(other) / file.name)

    def held() -> int:
        facts = [path.stat() for path in root.rglob("*") if path.is_file()]
        return sum({fact.st_ino: fact.st_size for fact in facts}.values())

    holdings = [Holding("model", root / str(number), root, "") for number in sorted(chosen)]
    before, promised = held(), size(holdings)
    list(free(holdings))
    assert before - held() == promised

"""What can go wrong with a machine in the middle of a run: it ends with a sentence or not at all, and the same command
then gives, byte for byte, what an undisturbed run gives."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shinan.core.dataset import read_manifest
from shinan.recipe.doctor import verify
from tests.disk import disk
from tests.recipe.tiny_recipe import RECIPE, write_recipe
from tests.train.runs import CLOCKED

# Processes are forked from one that has everything imported: a start costs milliseconds in place of seconds, and so
# a random moment falls into the work and not into the imports.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["shinan.cli.main", "shinan.recipe.run", "shinan.report.html", "shinan.report.summary"])

SMALL = RECIPE.replace("limit: 24", "limit: 12").replace("limit: 45", "limit: 9")
# Two runs are compared: on a machine that is busy, their probes could choose different number formats.
SMALL = SMALL.replace("tune:\n", "tune:\n  precision: fp32\n")


class Place(NamedTuple):
    """Where a run lies: its recipe, the folder of run folders, its own cache, and what it says."""

    recipe: Path
    runs: Path
    cache: Path
    log: Path

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / "tiny"


def _place(root: Path) -> Place:
    root.mkdir(parents=True, exist_ok=True)
    return Place(write_recipe(root, SMALL), root / "runs", root / "cache", root / "log.txt")


def _main(place: Place) -> None:
    """`shinan run` in a forked process."""
    import torch

    from shinan.cli.main import main

    with place.log.open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ["SHINAN_CACHE"] = str(place.cache)
    torch.set_num_threads(1)
    sys.argv = ["shinan", "run", str(place.recipe), "--runs", str(place.runs)]
    main()


def _main_in_backward_time(place: Place) -> None:
    """The same by a clock that loses an hour whenever it is looked at."""
    hours, gmtime = count(2_000_000_000, -3600), time.gmtime
    time.time = lambda: float(next(hours))
    time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)
    _main(place)


def _start(place: Place, target: Callable[[Place], None] = _main) -> ForkServerProcess:
    process = FORKS.Process(target=target, args=(place,), daemon=True)
    process.start()
    return process


def _ended(process: ForkServerProcess) -> int:
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _said(place: Place) -> str:
    return place.log.read_text("utf-8")


def _finish(place: Place, target: Callable[[Place], None] = _main) -> None:
    place.log.unlink(missing_ok=True)
    assert _ended(_start(place, target)) == 0, _said(place)


def _fails(place: Place, sentence: str) -> None:
    place.log.unlink(missing_ok=True)
    assert _ended(_start(place)) == 1
    said = _said(place)
    assert sentence in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run that nothing has disturbed."""
    place = _place(tmp_path_factory.mktemp("whole"))
    _finish(place)
    return place


# In JSON files; metrics.jsonl holds seconds, so that its hash in a manifest is measured too.
_MEASURED = CLOCKED | {"wall_seconds", "tokens_per_second", "created", "free_bytes", "../../metrics.jsonl"}


def _decided(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decided(item) for key, item in value.items() if key not in _MEASURED}
    return [_decided(item) for item in value] if isinstance(value, list) else value


def _artefacts(place: Place) -> dict[str, Any]:
    """Every file of the run: its bytes, or for JSON its content without what was measured.

    Left out: the report (it shows times), the plan (it says what had been done before) and the states to resume from.
    """
    found: dict[str, Any] = {}
    for path in sorted(path for path in place.folder.rglob("*") if path.is_file()):
        name = path.relative_to(place.folder).as_posix()
        if name in ("metrics.jsonl", "summary.json") or path.name == "manifest.json":
            lines = path.read_text("utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
            found[name] = [_decided(json.loads(line)) for line in lines]
        elif name not in (".lock", "plan.json", "report.html") and "/states/" not in name:
            found[name] = path.read_bytes()
    return found


def _same(place: Place, other: Place) -> None:
    mine, others = _artefacts(place), _artefacts(other)
    assert mine.keys() == others.keys()
    assert [name for name in mine if mine[name] != others[name]] == []


def _wait_for(process: ForkServerProcess, path: Path, lines: int = 1) -> None:
    while process.is_alive() and not (path.exists() and path.read_bytes().count(b"\n") >= lines):
        time.sleep(0.002)


@pytest.mark.promise3
@pytest.mark.promise10
@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_killed_at_random_moments_of_a_whole_run(whole: Place, tmp_path: Path, kills: int) -> None:
    """Each kill falls anywhere between a run's start and its end; a run that gets through is followed by a new one."""
    start = time.monotonic()
    place = _place(tmp_path / "measured")
    _finish(place)
    length = time.monotonic() - start
    draw = random.Random(kills)
    killed = 0
    for number in count():
        place = _place(tmp_path / str(number))
        while killed < kills:
            process = _start(place)
            process.join(draw.uniform(0, length))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            killed += 1
        _finish(place)
        _same(place, whole)
        shutil.rmtree(tmp_path / str(number))
        if killed == kills:
            break


def _terminated(place: Place, file: str, lines: int) -> int:
    """Exit code of a run that got SIGTERM when `file` had so many lines."""
    process = _start(place)
    _wait_for(process, place.folder / file, lines)
    assert process.pid
    os.kill(process.pid, signal.SIGTERM)
    return _ended(process)


@pytest.mark.promise3
def test_asked_to_terminate_while_tuning_it_saves_first(whole: Place, tmp_path: Path) -> None:
    place = _place(tmp_path)
    assert _terminated(place, "metrics.jsonl", 2) == 143
    assert _said(place).endswith("interrupted; the same command goes on from here\n")
    assert list((place.folder / "checkpoints" / "states").glob("step-*/state.json"))
    _finish(place)
    _same(place, whole)


@pytest.mark.promise3
def test_asked_to_terminate_while_evaluating_it_goes_on_later(whole: Place, tmp_path: Path) -> None:
    place = _place(tmp_path)
    assert _terminated(place, "eval/heldout.before.jsonl", 1) != 0
    assert "Traceback" not in _said(place)
    _finish(place)
    _same(place, whole)


@pytest.mark.promise3
@pytest.mark.promise10
def test_a_damaged_checkpoint_is_told_and_without_it_the_run_goes_on(whole: Place, tmp_path: Path) -> None:
    place = _place(tmp_path)
    assert _terminated(place, "metrics.jsonl", 4) == 143
    newest = max((place.folder / "checkpoints" / "states").glob("step-*"), key=lambda path: int(path.name[5:]))
    content = bytearray((newest / "tensors.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "tensors.safetensors").write_bytes(content)
    _fails(place, f"{newest.name}: this checkpoint is damaged\n  do this: delete it and run again")
    shutil.rmtree(newest)
    _finish(place)
    _same(place, whole)


@pytest.mark.promise3
def test_whatever_was_cut_or_lost_is_made_again(whole: Place, tmp_path: Path) -> None:
    place = _place(tmp_path)
    shutil.copytree(whole.runs, place.runs)
    for name in ("stages/items.heldout/data.parquet", "checkpoints/best/model.safetensors", "eval/heldout.after.jsonl"):
        path = place.folder / name
        path.write_bytes(path.read_bytes()[:-1])
    (place.folder / "stages/curate/dropped.parquet").unlink()
    (place.folder / "stages/build.starter/manifest.json").write_text("{", "utf-8")
    _finish(place)
    assert _said(place).count(": running") == 5  # not the answers before tuning, nor their comparison
    _same(place, whole)


@pytest.mark.promise3
def test_a_clock_that_goes_backwards_changes_nothing(whole: Place, tmp_path: Path) -> None:
    place = _place(tmp_path)
    _finish(place, _main_in_backward_time)
    stages = [place.folder / "stages" / name for name in ("build.starter", "curate", "tune", "compare")]
    created = [manifest.created for stage in stages if (manifest := read_manifest(stage))]
    assert len(created) == 4
    assert created == sorted(created, reverse=True)
    _same(place, whole)
    for number, path in enumerate(place.folder.rglob("*")):
        os.utime(path, (number * 10_000_000, 2_000_000_000 - number * 10_000_000))
    _finish(place)
    assert ": running" not in _said(place)


@pytest.mark.promise3
@pytest.mark.promise10
@pytest.mark.parametrize(
    "kilobytes", [8, pytest.param(60, marks=pytest.mark.slow), 700, pytest.param(2600, marks=pytest.mark.slow)]
)
def test_a_full_disk_is_a_sentence_and_with_more_room_the_run_goes_on(
    whole: Place, tmp_path: Path, kilobytes: int
) -> None:
    """The sizes fill up at the plan, the rows, the first weights kept as the best, and a later checkpoint."""
    place = _place(tmp_path)
    with disk(place.runs, f"size={kilobytes}k") as change:
        _fails(place, "cannot write: No space left on device\n  do this: free some space")
        assert not list(place.folder.rglob("*.tmp"))
        assert all(finding.ok for finding in verify(place.folder) if "not finished" not in finding.found)
        change("size=100m")
        _finish(place)
        _same(place, whole)


@pytest.mark.promise10
def test_a_read_only_folder_is_a_sentence_and_stays_as_it_is(whole: Place, tmp_path: Path) -> None:
    place = _place(tmp_path)
    shutil.copytree(whole.cache, place.cache)
    with disk(place.runs, "size=100m") as change:
        change("ro")
        _fails(
            place, f"{place.folder}: cannot write: Read-only file system\n  do this: choose a folder you may write to"
        )
        change("rw")
        shutil.copytree(whole.folder, place.folder)
        (place.folder / "checkpoints/best/model.safetensors").unlink()
        change("ro")
        before = {path: path.lstat().st_mtime_ns for path in place.runs.rglob("*")}
        _fails(place, "cannot write: Read-only file system")
        assert {path: path.lstat().st_mtime_ns for path in place.runs.rglob("*")} == before

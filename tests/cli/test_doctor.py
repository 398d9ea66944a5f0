from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from shinan.core.dataset import read_manifest
from shinan.core.store import Store
from shinan.recipe import doctor
from shinan.recipe.doctor import Finding, machine, verify
from tests.cli.conftest import Shinan


def by_name(findings: Sequence[Finding]) -> dict[str, Finding]:
    """Findings by what was looked at."""
    return {finding.what: finding for finding in findings}


def flip(path: Path) -> None:
    """Change one bit in the middle, and nothing else: the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_the_machine_is_described(place: Path, shinan: Shinan, monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_name(machine())
    assert found["torch"] == Finding("torch", version("torch"))
    assert found["number format"].found.split()[0] in ("bfloat16", "float32")
    assert found["cache"] == Finding("cache", str(place / "cache"))
    assert found["downloads"].found == "forbidden by SHINAN_OFFLINE"
    monkeypatch.setenv("SHINAN_OFFLINE", "0")
    assert by_name(machine())["downloads"].found == "allowed"
    assert not (place / "cache").exists()  # looking changes nothing


@pytest.mark.promise10
def test_what_will_not_do_is_told_with_what_to_do(place: Path, shinan: Shinan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NEEDED", ("no-such-package",))
    monkeypatch.setattr(doctor, "_ROOM", float("inf"))
    monkeypatch.setattr(doctor, "_MEMORY", float("inf"))
    (place / "file").write_text("", "utf-8")
    monkeypatch.setenv("SHINAN_CACHE", str(place / "file" / "cache"))
    done = shinan("doctor")
    assert done.code == 1
    assert "no-such-package: missing\n  do this: install it: pip install no-such-package\n" in done.out
    assert "do this: free some space (`shinan clean` shows what can go)\n" in done.out
    assert "do this: use a machine with more, or a smaller model\n" in done.out
    assert "do this: set SHINAN_CACHE to a folder that you may write to\n" in done.out


def test_a_whole_run_is_found_whole(mine: Path, shinan: Shinan) -> None:
    found = verify(mine / "runs/mini")
    assert all(finding.ok for finding in found)
    assert found[0].what.startswith(("audit", "build", "items"))
    assert {finding.what for finding in found} == {path.name for path in (mine / "runs/mini/stages").iterdir()}
    assert shinan("doctor", "runs/mini").code == 0


@pytest.mark.promise10
def test_a_changed_bit_and_a_missing_file_are_told_with_their_stage(mine: Path, shinan: Shinan) -> None:
    flip(mine / "runs/mini/checkpoints/best/model.safetensors")
    (mine / "runs/mini/eval/heldout.before.jsonl").unlink()
    done = shinan("doctor", "runs/mini")
    assert done.code == 1
    assert (
        "tune: checkpoints/best/model.safetensors is not what was written\n"
        "  do this: delete runs/mini/stages/tune, then `shinan run runs/mini/recipe.yaml`\n"
    ) in done.out
    assert "evaluate.heldout.before: eval/heldout.before.jsonl is missing\n" in done.out


@pytest.mark.promise10
def test_the_advice_mends_the_run_also_where_two_runs_share_the_file(mine: Path, shinan: Shinan) -> None:
    run, twin = mine / "runs/mini/stages/curate", mine / "runs/twin/stages/curate"
    twin.mkdir(parents=True)
    for path in run.iterdir():
        os.link(path, twin / path.name)
    manifest = read_manifest(run)
    assert manifest
    Store(mine / "cache").record(manifest.key, twin)
    flip(run / "data.parquet")
    damaged = by_name(verify(mine / "runs/mini"))["curate"]
    assert not damaged.ok
    assert damaged.fix.startswith(f"delete {run} and {twin}, then `shinan run ")
    for folder in (run, twin):
        shutil.rmtree(folder)
    assert shinan("run", "mini.yaml").code == 0
    assert all(finding.ok for finding in verify(mine / "runs/mini"))


def test_an_unfinished_stage_is_no_damage(mine: Path) -> None:
    (mine / "runs/mini/stages/compare/manifest.json").unlink()
    found = verify(mine / "runs/mini")
    assert found[-1] == Finding("compare", "not finished, or its manifest is damaged: the next run does it")


def test_a_folder_that_is_no_run_is_explained(place: Path, shinan: Shinan) -> None:
    done = shinan("doctor", ".")
    assert done.code == 1
    assert "this is no run folder" in done.err

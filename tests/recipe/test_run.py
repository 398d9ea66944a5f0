"""Whole runs on the tiny model: caching by content, resuming after a kill, and sentences for what goes wrong."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import TimeoutExpired

import pytest
import torch

from shinan.core.dataset import read_manifest
from shinan.core.errors import ConfigError, DataError, RunError
from shinan.core.example import Example, user
from shinan.core.registry import _TABLE, register
from shinan.core.verdict import Verdict
from shinan.evaluate.samples import marker_of
from shinan.recipe.run import decide, preview, run, write_plan
from shinan.recipe.schema import EvalTask, load_recipe
from shinan.recipe.stages import items_of
from tests.recipe.tiny_recipe import RECIPE, start, write_recipe

STAGES = [
    "build.starter",
    "items.heldout",
    "curate",
    "audit",
    "evaluate.heldout.before",
    "tune",
    "evaluate.heldout.after",
    "compare",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own for the runs of this module."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of one finished run."""
    runs = tmp_path_factory.mktemp("runs")
    process = start(write_recipe(runs), runs, cache)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return runs / "tiny"


@contextmanager
def _cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("SHINAN_CACHE", str(folder))
        yield


def _bytes(folder: Path) -> dict[str, bytes]:
    """Every artefact whose bytes the recipe decides."""
    names = ["checkpoints/best/model.safetensors", "checkpoints/last/model.safetensors"]
    names += ["eval/heldout.before.jsonl", "eval/heldout.after.jsonl"]
    names += [f"stages/{stage}/data.parquet" for stage in ("build.starter", "items.heldout", "curate", "tune")]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.promise1
def test_every_stage_leaves_a_manifest_whose_rows_add_up(done: Path) -> None:
    for stage in STAGES:
        manifest = read_manifest(done / "stages" / stage)
        assert manifest is not None, stage
        if manifest.tally:
            assert manifest.tally["kept"] + sum(manifest.tally["dropped"].values()) == manifest.tally["seen"]


def test_the_report_and_summary_are_written(done: Path) -> None:
    summary = json.loads((done / "summary.json").read_text("utf-8"))
    assert [stage["id"] for stage in summary["stages"]] == STAGES
    assert summary["training"]["steps"] == 12
    assert {row["metric"] for row in summary["evaluation"]} == {"rouge_l", "exact_match"}
    assert (done / "report.html").stat().st_size > 1000


@pytest.mark.promise3
def test_a_second_run_finds_every_stage_cached(done: Path, cache: Path) -> None:
    before = _bytes(done)
    start_time = time.monotonic()
    process = start(done.parent / "recipe.yaml", done.parent, cache)
    _, log = process.communicate()
    assert process.returncode == 0
    assert log.count("done in this run") == len(STAGES)
    assert "running" not in log
    assert time.monotonic() - start_time < 60
    assert _bytes(done) == before


def test_another_run_links_what_is_already_done(
    done: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _cache(monkeypatch, cache):
        recipe = load_recipe(done.parent / "recipe.yaml", ["name=other"])
        run(recipe, tmp_path / "other")
    assert _bytes(tmp_path / "other") == _bytes(done)
    linked = tmp_path / "other" / "checkpoints" / "best" / "model.safetensors"
    assert linked.stat().st_ino == (done / "checkpoints" / "best" / "model.safetensors").stat().st_ino


def test_what_is_linked_replaces_the_checkpoints_of_another_method(
    done: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _cache(monkeypatch, cache):
        recipe = load_recipe(done.parent / "recipe.yaml", ["name=other"])
        folder = run(recipe, tmp_path / "other")
        shutil.rmtree(folder / "stages" / "tune")
        for name in ("adapter", "best"):
            (folder / "checkpoints" / name).mkdir(exist_ok=True)
            (folder / "checkpoints" / name / "adapter_model.safetensors").write_text("of another method", "utf-8")
        run(recipe, folder)
    assert _bytes(folder) == _bytes(done)
    assert not list(folder.rglob("adapter_model.safetensors"))


@pytest.mark.promise2
@pytest.mark.promise3
def test_linked_answers_are_not_taken_for_those_of_earlier_settings(
    done: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their log says for which key it was written, beside it; a log that is linked in must not inherit that."""
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    shutil.copytree(cache, tmp_path / "cache")
    one, two = (load_recipe(done.parent / "recipe.yaml", [f"tune.learning_rate={rate}"]) for rate in (2e-3, 5e-3))
    run(one, tmp_path / "b")
    run(two, tmp_path / "a")
    log = run(two, tmp_path / "b") / "eval" / "heldout.after.jsonl"  # linked
    assert log.read_bytes() == (tmp_path / "a" / "eval" / log.name).read_bytes()
    assert not marker_of(log).exists()
    assert not (tmp_path / "b" / "checkpoints" / "states").exists()


def test_a_change_makes_only_what_depends_on_it_stale(done: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _cache(monkeypatch, cache):
        recipe = load_recipe(done.parent / "recipe.yaml", ["tune.learning_rate=2e-3", "tune.save_every=9"])
        found = {stage.id: state for stage, state in preview(recipe, done)}
    assert [stage for stage in STAGES if found[stage].status == "cached"] == STAGES[:5]
    assert found["tune"].why == "changed: settings.learning_rate"
    assert found["evaluate.heldout.after"].status == "blocked"
    assert found["compare"].why == "waits for evaluate.heldout.after"


@pytest.mark.promise3
def test_a_truncated_artefact_is_made_again(
    done: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _cache(monkeypatch, tmp_path / "empty"):
        recipe = load_recipe(done.parent / "recipe.yaml")
        path = done / "eval" / "heldout.after.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        found = {stage.id: state for stage, state in preview(recipe, done)}
        assert found["evaluate.heldout.after"].why == "its files are missing or cut"
        run(recipe, done)
        assert path.read_bytes() == whole


@pytest.mark.promise3
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(done: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    draw = random.Random(5)
    kills = 0
    while kills < 6:
        process = start(recipe, tmp_path, tmp_path / "cache")
        try:
            process.communicate(timeout=draw.uniform(2.5, 9.0))
            break  # it finished: whatever was killed before has been gone on with
        except TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    process = start(recipe, tmp_path, tmp_path / "cache")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert kills, "the run was never killed"
    assert _bytes(tmp_path / "tiny") == _bytes(done)
    assert not list((tmp_path / "tiny").rglob("*.tmp"))


@pytest.mark.promise3
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_ends_with_a_sentence_and_its_code(tmp_path: Path, cache: Path, number: int, code: int) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("epochs: 2", "epochs: 200"))
    process = start(recipe, tmp_path, cache)
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    while process.poll() is None and not metrics.exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == code
    assert list((tmp_path / "tiny" / "checkpoints" / "states").glob("step-*/state.json"))
    assert "the same command goes on" in log
    assert "Traceback" not in log


@pytest.mark.promise10
def test_two_runs_in_one_folder_are_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("epochs: 2", "epochs: 200"))
    first = start(recipe, tmp_path, cache)
    try:
        while first.poll() is None and not (tmp_path / "tiny" / "plan.json").exists():
            time.sleep(0.05)
        with _cache(monkeypatch, cache), pytest.raises(RunError, match="another run is at work"):
            run(load_recipe(recipe), tmp_path / "tiny")
    finally:
        first.kill()
        first.communicate()


@pytest.mark.promise10
def test_nothing_left_after_curation_is_a_sentence(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = RECIPE.replace("- use: structure", "- {use: structure, with: {max_words: 1}}")
    with _cache(monkeypatch, cache), pytest.raises(DataError, match="no row is left after curation: 24 seen"):
        run(load_recipe(write_recipe(tmp_path, text)), tmp_path / "tiny")
    assert not (tmp_path / "tiny" / "stages" / "curate").exists()


@pytest.mark.promise10
def test_all_mistakes_in_a_recipe_are_told_at_once(tmp_path: Path) -> None:
    text = RECIPE.replace("seed: 3", "sead: 3").replace("epochs: 2", "epochs: many")
    with pytest.raises(ConfigError) as caught:
        load_recipe(write_recipe(tmp_path, text))
    told = str(caught.value)
    assert "recipe.yaml:2" in told
    assert "did you mean 'seed'?" in told
    assert "recipe.yaml:14" in told


@pytest.mark.promise10
def test_mistakes_in_overrides_and_ids_are_told_with_the_others(tmp_path: Path) -> None:
    text = RECIPE.replace("epochs: 2", "epochs: many").replace("id: starter", "id: The Starter")
    task = "{id: heldout, use: collection}"
    with pytest.raises(ConfigError) as caught:
        load_recipe(
            write_recipe(tmp_path, text), ["build.7.use=file", f"evaluate=[{task}, {task}]", "chat=[", "name=../up"]
        )
    told = [f"{problem.where}: {problem.what}" for problem in caught.value.problems]
    assert len(told) == 6
    assert told[0] == "--set build.7.use=file: no such place in the recipe"
    assert told[1].startswith("--set chat=[:")
    assert "not valid YAML" in told[1]
    assert "--set name=../up: name: '../up' names no folder: use lower-case letters, digits, - and _" in told
    assert any("recipe.yaml:6: build.0.id: 'The Starter' names no folder" in line for line in told)
    assert any("tune.epochs" in line for line in told)
    assert any("evaluate: two entries have the id 'heldout'" in line for line in told)


@pytest.mark.promise10
def test_an_evaluation_without_items_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    task = EvalTask.model_validate({"id": "none", "use": "nothing_left"})
    row = Example((user("a"),))
    monkeypatch.setattr("shinan.core.registry._TABLE", dict(_TABLE))
    register("build", "nothing_left")(lambda seed: [(row, Verdict.drop("too_long"))])
    with pytest.raises(DataError, match=r"evaluate none: no item is left of 1 rows \(too_long 1\)"):
        items_of(task, 0)


@pytest.mark.promise10
def test_unknown_components_and_parameters_are_told_with_the_nearest(tmp_path: Path) -> None:
    text = RECIPE.replace("use: structure", "use: structur").replace("limit: 24", "limitt: 24")
    with pytest.raises(ConfigError) as caught:
        load_recipe(write_recipe(tmp_path, text))
    told = str(caught.value)
    assert "did you mean 'structure'?" in told
    assert "did you mean 'limit'?" in told


@pytest.mark.promise10
def test_an_unwritable_folder_is_a_sentence(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").write_text("in the way", "utf-8")
    with _cache(monkeypatch, cache), pytest.raises(RunError, match="cannot write"):
        run(load_recipe(write_recipe(tmp_path)), tmp_path / "tiny")


@pytest.mark.promise8
def test_evaluation_items_never_train_unless_that_is_switched_off(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaky = RECIPE.replace("split: train", "split: heldout").replace("limit: 24", "limit: 6")
    with _cache(monkeypatch, cache):
        with pytest.raises(DataError, match="no row is left after curation: 6 seen, dropped for overlap 6"):
            run(load_recipe(write_recipe(tmp_path, leaky)), tmp_path / "tiny")
        run(load_recipe(write_recipe(tmp_path, leaky), ["decontaminate=false"]), tmp_path / "tiny")
    manifest = read_manifest(tmp_path / "tiny" / "stages" / "curate")
    assert manifest is not None
    assert manifest.tally["kept"] == 6


@pytest.mark.promise3
def test_a_dtype_that_was_asked_for_is_not_kept_as_the_probes(
    tmp_path: Path, tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shinan.recipe.run.probe_dtype", lambda device: torch.bfloat16)
    path, folder = write_recipe(tmp_path), tmp_path / "run"
    folder.mkdir()
    for overrides, expected in (
        (["tune.precision=fp32"], "float32"),
        ([], "bfloat16"),
        (["tune.precision=fp32"], "float32"),
    ):
        recipe = load_recipe(path, overrides)
        setting = decide(recipe, tiny_decoder, folder)
        assert setting.dtype == expected
        write_plan(folder, recipe, setting, [], {})
    monkeypatch.setattr("shinan.recipe.run.probe_dtype", lambda device: torch.float32)
    write_plan(folder, load_recipe(path), replace(setting, dtype="bfloat16"), [], {})
    assert decide(load_recipe(path), tiny_decoder, folder).dtype == "bfloat16"  # begun in bf16: goes on in it

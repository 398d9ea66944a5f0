"""Reading a run folder: finished, unfinished, damaged, and none at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shinan.core.dataset import Manifest, write_manifest
from shinan.core.errors import DataError, RunError
from shinan.report.collect import Report, collect, finished_in
from tests.report.fake_run import ALL, STAGES, key, make_run


def test_a_finished_run(report: Report) -> None:
    assert (report.name, report.model, report.seed) == ("quickstart", "starter:gemma-3-270m", 20)
    assert [stage.id for stage in report.stages] == list(ALL)
    assert report.missing == []
    assert report.stages[2].tally["seen"] == 308
    assert [(c.task, c.metric) for c in report.headlines] == [("heldout", "rouge_l")]
    assert {c.category for c in report.categories} >= {"paraphrase", "dialogue_acts"}
    assert report.seconds == pytest.approx(3 * 1.5 + 312.4 + 48.2 + 31.0 + 1.5)
    assert report.problems == ()


def test_a_stage_of_an_earlier_recipe_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    plan["stages"][-1]["key"] = "of the recipe as it is now"
    (run / "plan.json").write_text(json.dumps(plan), "utf-8")
    found = collect(run)
    assert found.missing == ["compare"]
    assert found.comparisons == ()
    assert finished_in(run) == set(STAGES)


def test_before_is_read_in_the_chosen_style_only(report: Report) -> None:
    (answers,) = report.answers
    assert len(answers.before) == len(answers.after) == 96
    assert {sample.style for sample in answers.before} == {"plain"}
    assert set(answers.styles) == {"plain", "gemma"}


def test_pairs_need_a_score_on_both_sides(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run / "eval" / "heldout.after.jsonl"
    first, second, *rest = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    first["scores"]["rouge_l"] = None
    lines = [first, second | {"row": "another"}, *rest]
    path.write_text(
        "\n".join(map(json.dumps, lines)), "utf-8"
    )  # the last line has no newline: it is whole all the same
    (answers,) = collect(run).answers
    assert len(answers.pairs("rouge_l")) == 94
    before, after, difference = answers.pairs("rouge_l")[0]
    assert before.row == after.row
    assert difference == pytest.approx(1.0)


def test_curves_stand_on_the_tokens_trained_so_far(report: Report) -> None:
    assert [(p.step, p.tokens) for p in report.losses[:2]] == [(1, 2561), (2, 2561 + 2562)]
    assert report.losses[-1].tokens == report.training["tokens"]
    at_step_33 = sum(2560 + step for step in range(1, 34))
    assert [(p.step, p.tokens) for p in report.validations][:1] == [(33, at_step_33)]


def test_what_was_trained_on_is_counted_by_property(report: Report) -> None:
    assert set(report.composition) == {"language", "category", "maker", "licence"}
    assert {sum(counts.values()) for counts in report.composition.values()} == {273}
    assert report.composition["maker"] == {"project": 273}


@pytest.mark.promise1
def test_drops_have_their_counts_and_first_rows(report: Report) -> None:
    counts = {(drop.stage, drop.reason): drop.n for drop in report.drops}
    assert counts == {
        ("build.file", "empty_reply"): 2,
        ("curate", "near_duplicate"): 21,
        ("curate", "overlaps_evaluation"): 8,
        ("curate", "too_short"): 4,
        ("tune", "too_long"): 2,
    }
    assert [row.row for row in report.drops[1].examples] == ["team.jsonl#250", "team.jsonl#251"]


def test_the_models_notice_is_read(report: Report) -> None:
    (model,) = report.models
    assert (model.card.licence, model.card.parents[0].name) == ("gemma", "gemma-3-270m")
    assert model.notices["NOTICE"].startswith("Gemma is provided under")


@pytest.mark.parametrize("number", [0, 2, 4, 6])
def test_an_unfinished_run_names_what_is_missing(tmp_path: Path, number: int) -> None:
    report = collect(make_run(tmp_path / "run", done=ALL[:number]))
    assert report.missing == list(ALL[number:])
    assert report.comparisons == ()


def test_rows_come_from_the_last_stage_that_made_any(tmp_path: Path) -> None:
    curated = collect(make_run(tmp_path / "curated", done=ALL[:3]))
    built = collect(make_run(tmp_path / "built", done=ALL[:2]))
    assert sum(curated.composition["language"].values()) == 308 - 33
    assert sum(built.composition["language"].values()) == 240 + 68


def test_a_run_without_a_plan_has_no_stages(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", done=())
    (run / "plan.json").unlink()
    report = collect(run)
    assert (report.stages, report.name) == ((), "quickstart")


def test_a_half_written_last_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", done=ALL[:3])
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 3.5, "tokens": 10}\n{"step": 2, "lo', "utf-8")
    assert [(p.step, p.tokens, p.loss) for p in collect(run).losses] == [(1, 10, 3.5)]


def test_a_statistic_that_is_not_a_number_is_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", done=STAGES)
    nan = float("nan")
    line = {"task": "t", "metric": "m", "n": 1, "before": 0.0, "after": 1.0, "delta": 1.0, "ci95": [nan, nan], "p": nan}
    facts = {"evaluation": [line | {"mde80": nan}, line | {"ci95": None, "p": None}]}
    (run / "stages" / "compare").mkdir()
    write_manifest(run / "stages" / "compare", Manifest("compare", "compare", key("compare"), facts=facts))
    assert [(c.ci95, c.p, c.mde80) for c in collect(run).comparisons] == [(None, None, None)] * 2


@pytest.mark.promise10
def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"this is no run folder: it has no recipe\.yaml\n  do this: name a folder that"):
        collect(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        collect(tmp_path / "absent")


@pytest.mark.promise10
def test_a_plan_that_is_not_json(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", done=())
    (run / "plan.json").write_text("{", "utf-8")
    with pytest.raises(RunError, match=r"plan\.json: cannot read the plan: .*\n  do this: run the recipe again"):
        collect(run)


@pytest.mark.promise10
def test_a_damaged_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run / "eval" / "heldout.before.jsonl"
    path.write_text("{broken\n" + path.read_text("utf-8"), "utf-8")
    where = re.escape(f"{path}:1: not a sample of an evaluation")
    with pytest.raises(DataError, match=rf"{where}: .*\n  do this: .*delete it and run again"):
        collect(run)


@pytest.mark.promise10
def test_a_missing_file_of_a_finished_stage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "eval" / "heldout.after.jsonl").unlink()
    with pytest.raises(DataError, match=r"heldout\.after\.jsonl: cannot read the evaluation log"):
        collect(run)


def test_a_model_whose_weights_are_gone_is_a_problem_not_a_stop(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "stages" / "tune" / "model" / "model.safetensors").unlink()
    report = collect(run)
    assert report.models == ()
    assert "model.safetensors is missing" in report.problems[0]

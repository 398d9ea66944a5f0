from __future__ import annotations

import json
from pathlib import Path

import pytest

from shinan.core.errors import DataError
from shinan.evaluate.samples import read_samples
from shinan.recipe.measure import HELDOUT
from shinan.recipe.schema import EvalTask, load_recipe
from shinan.recipe.stages import items_of
from tests.cli.conftest import Shinan

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.mark.promise4
def test_a_tuned_model_answers_as_it_did_in_its_run(mine: Path, shinan: Shinan) -> None:
    """Same items, prompts, model and decoding: the same samples, to the last byte."""
    done = shinan("eval", "runs/mini", "--recipe", "mini.yaml")
    assert done.code == 0
    own = mine / "runs" / "eval-mini-best-on-mini" / "eval" / "heldout.jsonl"
    assert done.out.endswith(f"answers: {own.parent.relative_to(mine)}\n")
    assert own.read_bytes() == (mine / "runs/mini/eval/heldout.after.jsonl").read_bytes()
    [line] = [line.split() for line in done.out.splitlines() if "ROUGE-L" in line]
    scores = [sample.scores["rouge_l"] for sample in read_samples(own)]
    assert line[:4] == ["heldout", "gemma", "ROUGE-L", f"{100 * sum(map(float, filter(None, scores))) / 4:.1f}"]
    assert line[4] == "4"


def test_a_base_model_is_asked_in_two_formats_and_an_interrupted_evaluation_goes_on(mine: Path, shinan: Shinan) -> None:
    ask = ("eval", "tiny:decoder", "--recipe", "mini.yaml", "--name", "base")
    assert shinan(*ask).code == 0
    log = mine / "runs/base/eval/heldout.jsonl"
    whole = log.read_bytes()
    assert [sample.style for sample in read_samples(log)] == ["gemma"] * 4 + ["plain"] * 4
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:6]))  # killed in the second batch
    assert shinan(*ask).code == 0
    assert log.read_bytes() == whole
    assert json.loads((mine / "runs/base/eval.json").read_text("utf-8"))["asked"]["styles"] == ["gemma", "plain"]


@pytest.mark.promise10
def test_another_evaluation_is_not_written_over(mine: Path, shinan: Shinan) -> None:
    assert shinan("eval", "tiny:decoder", "--recipe", "mini.yaml", "--name", "base", "--chat", "alpaca").code == 0
    log = mine / "runs/base/eval/heldout.jsonl"
    whole = log.read_bytes()
    other = shinan("eval", "tiny:decoder", "--recipe", "mini.yaml", "--name", "base")
    assert other.code == 1
    assert "runs/base: this folder holds another evaluation (another styles)" in other.err
    run = shinan("eval", "tiny:decoder", "--recipe", "mini.yaml", "--name", "mini")
    assert run.code == 1
    assert "runs/mini: this folder holds something else\n  do this: choose another --name" in run.err
    assert log.read_bytes() == whole


def test_a_run_without_a_tuned_model_is_explained(mine: Path, shinan: Shinan) -> None:
    (mine / "runs/mini/checkpoints/best/shinan.json").unlink()
    done = shinan("eval", "runs/mini", "--recipe", "mini.yaml")
    assert done.code == 1
    assert "runs/mini: this run has no tuned model\n  do this: finish it with `shinan run" in done.err


def test_the_advice_leads_to_the_run_wherever_it_lies(mine: Path, place: Path, shinan: Shinan) -> None:
    (mine / "runs").rename(mine / "elsewhere")
    (mine / "elsewhere/mini/checkpoints/best/shinan.json").unlink()
    done = shinan("eval", "elsewhere/mini", "--recipe", "mini.yaml")
    assert f"`shinan run elsewhere/mini/recipe.yaml --runs {mine / 'elsewhere'}`" in done.err


def test_a_file_is_no_folder_for_answers(mine: Path, shinan: Shinan) -> None:
    (mine / "runs/odd").write_text("", "utf-8")
    done = shinan("eval", "tiny:decoder", "--recipe", "mini.yaml", "--name", "odd")
    assert done.code == 1
    assert "runs/odd: this folder holds something else" in done.err


def test_the_default_task_is_the_quickstarts() -> None:
    [task] = load_recipe(QUICKSTART).evaluate
    assert task == HELDOUT


def test_rows_of_a_file_are_items_whose_reply_is_the_answer(place: Path) -> None:
    rows = [{"prompt": "2 + 2?", "completion": "4"}, {"prompt": "3 + 3?", "completion": "6"}]
    (place / "own.json").write_text(json.dumps(rows), "utf-8")
    task = EvalTask.model_validate({"id": "own", "use": "file", "with": {"path": "own.json"}})
    assert [item.targets for item in items_of(task, 0)] == [("4",), ("6",)]
    (place / "own.json").write_text(json.dumps([{"messages": [{"role": "user", "content": "2 + 2?"}]}]), "utf-8")
    with pytest.raises(DataError, match=r"^own.json#0: an evaluation item without an accepted answer"):
        items_of(task, 0)

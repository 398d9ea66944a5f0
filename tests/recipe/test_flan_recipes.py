"""The recipes over annotated datasets, cut small: every stage is built, and a tiny model is tuned on what comes out."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from shinan.core.dataset import read_dropped, read_manifest, read_rows
from shinan.formats.flan import STYLES
from shinan.recipe.plan import Setting, plan
from shinan.recipe.run import run
from shinan.recipe.schema import Recipe, load_recipe
from shinan.recipe.stages import WORK, Room
from tests.build.flan_data import hub_rows, published, write

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = [
    *(
        "model=tiny:decoder",
        "chat=gemma",
        "tune.method=full",
        "tune.batch_size=8",
        "tune.max_tokens=600",
        "tune.validation=0",
    ),
    *("evaluate.0.with.limit=4", "evaluate.0.max_new_tokens=2", "decontaminate=false"),
]
FILES = {
    "jnli": "jglue/jnli-valid-v1.3.json.gz",
    "jcommonsenseqa": "jglue/jcommonsenseqa-valid-v1.3.json.gz",
    "jsquad": "jglue/jsquad-valid-v1.3.json.gz",
    "xquad-es": "xquad/xquad.es.json.gz",
    "xquad-zh": "xquad/xquad.zh.json.gz",
    "xquad-en": "xquad/xquad.en.json.gz",
}


def small(name: str, folder: Path, rows: dict[str, str], limit: int) -> Recipe:
    """The recipe with rows of our own, on the tiny model."""
    path = RECIPES / f"{name}.yaml"
    stages = [stage.id for stage in load_recipe(path).build]
    assert stages == list(rows)
    sets = [f"build.{n}.with.rows={rows[stage]}" for n, stage in enumerate(stages)]
    sets += [f"build.{n}.with.limit={limit}" for n in range(len(stages))]
    # The tiny model's tokens are bytes: demonstrations of more than 480 of them would only take time.
    sets += [f"build.{n}.with.max_tokens=120" for n in range(len(stages))]
    return load_recipe(path, [*SMALL, *sets])


def shortened(path: str, folder: Path) -> str:
    """Articles with the beginnings of their passages, and the questions that these still answer."""
    with gzip.open(path, "rb") as stream:
        articles = json.load(stream)["data"][:3]
    for article in articles:
        for paragraph in article["paragraphs"]:
            paragraph["context"] = paragraph["context"][:120]
            paragraph["qas"] = [qa for qa in paragraph["qas"] if qa["answers"][0]["text"] in paragraph["context"]]
    short = folder / Path(path).name.removesuffix(".gz")
    short.write_text(json.dumps({"data": articles}), "utf-8")
    return str(short)


def ran(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHINAN_CACHE", str(folder / "cache"))
    return run(recipe, folder / recipe.name)


def tuned(folder: Path) -> int:
    """The rows that the model was tuned on."""
    manifest = read_manifest(folder / "stages" / "tune")
    assert manifest is not None
    return int(manifest.tally["kept"])


@pytest.mark.parametrize("name", ["flan", "multilingual"])
def test_a_recipe_loads_without_its_data(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert {stage.use for stage in recipe.build} == {"flan"}
    assert all(stage.params["rows"] for stage in recipe.build)


@pytest.mark.promise1
def test_flan_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [stage.id for stage in load_recipe(RECIPES / "flan.yaml").build]
    files = {stage: write(tmp_path / f"{stage}.jsonl", hub_rows(stage, 5)) for stage in stages}
    folder = ran(small("flan", tmp_path, files, 3), tmp_path, monkeypatch)
    shapes = set()
    for stage in stages:
        manifest = read_manifest(folder / "stages" / f"build.{stage}")
        assert manifest is not None
        dropped = Counter(verdict.reason for _, verdict in read_dropped(folder / "stages" / f"build.{stage}"))
        assert manifest.tally == {"seen": 3, "kept": 3 - dropped.total(), "dropped": dict(dropped)}
        wrong = {"snli": {"unknown_label": 1}, "arc": {"unknown_label": 1}}  # label -1; choices counted from 1
        assert dropped == wrong.get(stage, {})
        rows = read_rows(folder / "stages" / f"build.{stage}")
        shapes |= {row.tags["category"] for row in rows}
        assert {row.task for row in rows} == {stage}  # the file's name
        assert {row.tags["submixture"] for row in rows} == {"cot" if stage == "gsm8k" else "flan2021"}
    assert len(shapes) == 13
    assert tuned(folder) > 20


@pytest.mark.promise1
def test_the_multilingual_recipe_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {stage: published(path) for stage, path in FILES.items()}
    files |= {stage: shortened(path, tmp_path) for stage, path in files.items() if "quad" in stage}
    folder = ran(small("multilingual", tmp_path, files, 4), tmp_path, monkeypatch)
    languages = Counter(
        (row.tags["language"], row.tags["prompt_language"])
        for stage in FILES
        for row in read_rows(folder / "stages" / f"build.{stage}")
    )
    assert set(languages) == {("ja", "ja"), ("es", "en"), ("zh", "en"), ("en", "en")}
    assert languages["ja", "ja"] >= 4
    # What is lost has no room for a demonstration in so small a budget.
    reasons = {v.reason for stage in FILES for _, v in read_dropped(folder / "stages" / f"build.{stage}")}
    assert reasons <= {"no_exemplar_fits"}
    squad = read_rows(folder / "stages" / "build.jsquad")
    assert not any("[SEP]" in row.prompt_text for row in squad)
    assert tuned(folder) > 10


def test_one_word_turns_the_multilingual_recipe_into_its_english_arm() -> None:
    arm = load_recipe(RECIPES / "multilingual.yaml", [f"build.{n}.with.prompts=en" for n in range(3)])
    assert {stage.params["prompts"] for stage in arm.build[:3]} == {"en"}
    assert {stage.params["language"] for stage in arm.build[:3]} == {"ja"}


def test_flan_is_mixed_as_its_first_lines_say(tmp_path: Path) -> None:
    (said,) = re.findall(r"--set '(mix=[^']+)'", (RECIPES / "flan.yaml").read_text("utf-8"))
    stages = [stage.id for stage in load_recipe(RECIPES / "flan.yaml").build]
    sets = [
        f"build.{n}.with.rows={write(tmp_path / f'{stage}.jsonl', hub_rows(stage, 60))}"
        for n, stage in enumerate(stages)
    ]
    recipe, setting = load_recipe(RECIPES / "flan.yaml", [*SMALL, *sets, said]), Setting("", "gemma", "float32", "cpu")
    room = Room(recipe, setting, tmp_path / "run", tmp_path)
    for stage in plan(recipe, setting):
        if stage.kind in ("build", "items", "curate", "mix"):
            room.stage(stage.id).mkdir(parents=True)
            outcome = WORK[stage.kind](room, stage, room.stage(stage.id))
    taken = {"/".join(source["path"]): source["taken"] for source in outcome.facts["sources"]}
    written = outcome.facts["written"]
    assert written == taken["flan2021"] + taken["cot"] > 200
    assert abs(taken["cot"] - written * 0.05 / 0.45) < 1
    styles = [taken[f"flan2021/{style}"] for style in STYLES]
    assert max(styles) - min(styles) <= 1
    assert abs(taken["flan2021/zero_shot/true"] - taken["flan2021/zero_shot"] * 0.3 / 1.3) < 1

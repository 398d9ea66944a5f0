"""Mixtures and licences in whole recipes: what is planned, what a run writes, and what its trace and report say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shinan.core.dataset import Manifest, read_dropped, read_manifest, read_rows
from shinan.core.errors import ConfigError, DataError
from shinan.recipe.check import check
from shinan.recipe.doctor import verify
from shinan.recipe.plan import Setting, Stage, plan
from shinan.recipe.run import preview, run
from shinan.recipe.schema import Recipe, load_recipe
from shinan.recipe.stages import WORK, Room
from shinan.recipe.trace import trace
from shinan.report.collect import collect
from shinan.report.html import write_report
from tests.build.test_p3 import rows_file, templates
from tests.formats.task_files import instance, version_2, write

RECIPE = """\
name: mixed
seed: 4
model: tiny:decoder
chat: gemma
build:
  - {id: many, use: file, with: {path: many.jsonl, maker: human, licence: CC-BY-4.0}}
  - {id: few, use: file, with: {path: few.jsonl, maker: human, licence: CC-BY-SA-3.0}}
  - {id: closed, use: file, with: {path: closed.jsonl, maker: human, licence: CC-BY-NC-4.0}}
curate: [{use: exact_duplicates}]
licences: {forbid: ["*-NC-*"]}
mix: {weights: {many: 0.5, few: 0.5, closed: 0}, total: 12}
tune: {method: full, epochs: 1, batch_size: 4, max_tokens: 300, validation: 0.2}
evaluate: [{id: own, use: file, with: {path: items.jsonl}, max_new_tokens: 3}]
"""
SETTING = Setting("fingerprint", "gemma", "float32", "cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ten rows, four rows and a copy, and two that are not to be used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHINAN_CACHE", str(tmp_path / "cache"))
    _write(tmp_path)
    return tmp_path


def _write(folder: Path) -> None:
    rows = {
        "many": [(f"Write the number {n}.", str(n)) for n in range(10)],
        "few": [*((f"Name the letter {letter}.", letter) for letter in "abcd"), ("Name the letter a.", "a")],
        "closed": [("Say no.", "no"), ("Say yes.", "yes")],
        "items": [("Which of the planets is the largest one of all?", "Jupiter")],
    }
    for name, pairs in rows.items():
        lines = [json.dumps({"instruction": asked, "output": said}) + "\n" for asked, said in pairs]
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, "utf-8")


def _recipe(*overrides: str) -> Recipe:
    return load_recipe(Path("recipe.yaml"), list(overrides))


def _made(recipe: Recipe, run_folder: Path) -> dict[str, Manifest]:
    """Do the stages of the data alone, as a run would."""
    room, found = Room(recipe, SETTING, run_folder, run_folder), {}
    for stage in plan(recipe, SETTING):
        if stage.kind in ("build", "items", "curate", "mix"):
            folder = room.stage(stage.id)
            folder.mkdir(parents=True)
            outcome = WORK[stage.kind](room, stage, folder)
            found[stage.id] = Manifest(stage.id, stage.use, stage.key, tally=outcome.tally, facts=outcome.facts)
    return found


def _stages(recipe: Recipe) -> dict[str, Stage]:
    return {stage.id: stage for stage in plan(recipe, SETTING)}


class TestPlan:
    def test_it_stands_between_curation_and_the_audit(self, place: Path) -> None:
        stages = _stages(_recipe())
        assert list(stages)[4:7] == ["curate", "mix", "audit"]
        assert stages["mix"].needs == ("curate",)
        assert stages["audit"].needs == ("mix",)
        assert stages["tune"].needs == ("mix", "audit")

    def test_a_recipe_without_it_has_the_stages_it_had(self, place: Path) -> None:
        stages = _stages(_recipe("mix=null", "licences={}"))
        assert "mix" not in stages
        assert stages["audit"].needs == ("curate",)
        assert stages["tune"].needs == ("curate", "audit")
        assert set(stages["curate"].identity) == {"kind", "version", "seed", "parents", "checks", "decontaminate"}

    def test_what_it_says_is_part_of_its_key_and_of_nothing_before(self, place: Path) -> None:
        one, other = _stages(_recipe()), _stages(_recipe("mix.total=11"))
        changed = [name for name in one if one[name].key != other[name].key]
        assert changed == ["mix", "audit", "tune", "evaluate.own.after", "compare"]

    def test_the_resolved_recipe_can_be_read_again(self, place: Path) -> None:
        recipe = _recipe("mix={preset: flan2022, by: build, weights: {many: 1, few: 1, closed: 0}}")
        assert Recipe.model_validate(recipe.model_dump(mode="json", by_alias=True)) == recipe

    def test_a_preview_shows_it(self, place: Path) -> None:
        found = {stage.id: state for stage, state in preview(_recipe(), place / "run")}
        assert found["mix"].why == "waits for curate"


class TestStages:
    @pytest.mark.promise1
    def test_rows_are_accounted_for(self, place: Path) -> None:
        """4 rows fill a place of 6: two of them stand twice. Of 10 rows 6 are taken, and those left out say why."""
        made = _made(_recipe(), place / "run")
        assert made["curate"].tally == {"seen": 17, "kept": 14, "dropped": {"licence_forbidden": 2, "duplicate": 1}}
        assert made["mix"].tally == {"seen": 14, "kept": 10, "dropped": {"not_sampled": 4}}
        facts = made["mix"].facts
        assert (facts["written"], facts["distinct"]) == (12, 10)
        sources = {source["path"][0]: source for source in facts["sources"]}
        assert sources["few"] == {
            "path": ["few"], "available": 4, "share": 0.5, "taken": 6, "distinct": 4, "copies": 2, "epochs": 1.5,
        }  # fmt: skip
        rows = read_rows(place / "run" / "stages" / "mix")
        assert Counter(row.tags["build"] for row in rows) == {"many": 6, "few": 6}
        assert sorted(Counter(row.row for row in rows).values()) == [1] * 8 + [2] * 2
        dropped = read_dropped(place / "run" / "stages" / "mix")
        assert {verdict.detail for _, verdict in dropped} == {"many: 6 of 10 rows are taken"}
        assert not {row.row for row in rows} & {row.row for row, _ in dropped}

    @pytest.mark.promise1
    def test_the_licences_that_are_left_are_told(self, place: Path) -> None:
        made = _made(_recipe(), place / "run")
        assert made["curate"].facts["licences"] == {
            "rows": {"CC-BY-4.0": 10, "CC-BY-SA-3.0": 4},
            "terms": {"share_alike": 4, "attribution": 14},
        }
        assert made["mix"].facts["licences"]["rows"] == {"CC-BY-4.0": 6, "CC-BY-SA-3.0": 6}
        dropped = read_dropped(place / "run" / "stages" / "curate")
        assert {verdict.by for row, verdict in dropped if row.provenance.licence == "CC-BY-NC-4.0"} == {"licences"}

    def test_each_row_knows_its_build_stage(self, place: Path) -> None:
        _made(_recipe(), place / "run")
        for name in ("many", "few"):
            assert {row.tags["build"] for row in read_rows(place / "run" / "stages" / f"build.{name}")} == {name}

    @pytest.mark.promise3
    def test_the_same_recipe_gives_the_same_bytes(self, place: Path) -> None:
        for name in ("one", "two"):
            _made(_recipe(), place / name)
        one, two = (place / name / "stages" / "mix" / "data.parquet" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()

    def test_another_source_takes_no_row_from_the_others(self, place: Path) -> None:
        """The count of `many` is the same with `closed` in the mixture: so are its rows."""
        taken = []
        for name, said in (
            ("one", "mix={weights: {many: 5, few: 5, closed: 0}, total: 10}"),
            ("two", "mix={weights: {many: 5, few: 4, closed: 1}, total: 10}"),
        ):
            _made(_recipe("licences={}", said), place / name)
            rows = read_rows(place / name / "stages" / "mix")
            taken.append([row.row for row in rows if row.tags["build"] == "many"])
        assert taken[0] == taken[1]
        assert len(taken[0]) == 5

    def test_what_the_three_importers_make_is_mixed_as_flan_2022(self, place: Path) -> None:
        """Each has its part of the 0.92 that the published weights leave where there is no `cot` and no `dialog`."""
        pairs = [{"premise": f"Dog {n} runs.", "hypothesis": f"Cat {n} sits.", "label": n % 3} for n in range(400)]
        food = rows_file(place / "food.jsonl", [{"text": f"dish {n}", "label": n % 2} for n in range(100)])
        sources = [{"templates": templates(place / "food" / "templates.yaml"), "rows": food}]
        (place / "tasks").mkdir()
        write(place / "tasks" / "riddles.json", version_2(Instances=[instance(n) for n in range(80)]))
        use = {
            "p3": {"sources": sources, "original_task": True},
            "natural_instructions": {"path": "tasks", "split": "all"},
            "flan": {
                "shape": "nli",
                "rows": rows_file(place / "nli.jsonl", pairs),
                "fields": {name: name for name in pairs[0]},
                "submixture": "flan2021",
            },
        }
        build = [{"id": name, "use": name, "with": params} for name, params in use.items()]
        weights = {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20}
        recipe = _recipe(f"build={json.dumps(build)}", f"mix={json.dumps({'preset': 'flan2022', 'weights': weights})}")
        made = _made(recipe, place / "run")
        written = made["mix"].facts["written"]
        shares = {s["path"][0]: s["taken"] / written for s in made["mix"].facts["sources"] if len(s["path"]) == 1}
        assert shares == {name: pytest.approx(weight / 0.92, abs=1 / written) for name, weight in weights.items()}
        assert written > 200


@pytest.mark.promise10
class TestFaults:
    def test_mistyped_and_missing_build_stages_are_told_at_once(self, place: Path) -> None:
        Path("recipe.yaml").write_text(RECIPE.replace("few: 0.5, closed: 0", "fwe: 0.5"), "utf-8")
        with pytest.raises(ConfigError) as caught:
            _recipe()
        assert str(caught.value) == (
            "recipe.yaml:11: mix.weights.fwe: no build stage has the id 'fwe'\n  do this: did you mean 'few'?\n"
            "recipe.yaml:11: mix.weights: the build stage 'closed' has no weight\n"
            "  do this: give it one, or 0 to leave it out\n"
            "recipe.yaml:11: mix.weights: the build stage 'few' has no weight\n"
            "  do this: give it one, or 0 to leave it out"
        )

    @pytest.mark.parametrize(
        ("said", "sentence"),
        [
            ("mix={wieghts: {}}", r"mix\.wieghts: unknown key 'wieghts'\n  do this: did you mean 'weights'"),
            ("mix={weights: {many: 0, few: 0, closed: 0}}", "the weights add up to 0"),
            ("mix={epochs: {many: 1, few: 1}}", "mix.epochs: the build stage 'closed' has no weight"),
            ("mix={preset: flan2023}", r"mix\.preset: .*'flan2021' or 'flan2022'"),
            ("licences={forbidden: [MIT]}", "did you mean 'forbid'"),
            ("licences={forbid: [MIT, noncommercial]}", "'noncommercial' is no licence and no term: did you mean"),
        ],
    )  # fmt: skip
    def test_rules_that_cannot_be(self, place: Path, said: str, sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            _recipe(said)

    @pytest.mark.parametrize(
        ("overrides", "kind", "sentence"),
        [
            (["licences.forbid=['*']"], DataError, "no row is left after curation: 17 seen, dropped for lic"),
            (["mix.weights.closed=1"], ConfigError, r"mix\.weights\.closed: no row of 'closed' is left"),
            (["mix.max_epochs=1"], DataError, "a total of 12 needs 1.5 epochs of few"),
            (["mix={by: lang}"], ConfigError, "no row has the tag 'lang'"),
        ],
    )  # fmt: skip
    def test_what_only_the_rows_can_tell(
        self, place: Path, overrides: list[str], kind: type[Exception], sentence: str
    ) -> None:
        with pytest.raises(kind, match=sentence):
            _made(_recipe(*overrides), place / "run")


def test_a_check_looks_at_the_mixture(place: Path) -> None:
    found = check(_recipe(), place / "run")
    assert found.counts["rows"] == 12
    assert found.findings == []  # a copy that the mixture asks for is no fault
    assert {example.tags["build"] for example in found.data.kept} == {"many", "few"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    root = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("SHINAN_CACHE", str(root / "cache"))
        _write(root)
        return run(_recipe(), root / "run")


class TestRun:
    @pytest.mark.promise1
    def test_copies_are_trained_on_and_traced(self, done: Path) -> None:
        counts = Counter(row.row for row in read_rows(done / "stages" / "tune"))
        assert sum(counts.values()) == 12
        twice = next(row for row, n in sorted(counts.items()) if n == 2)
        found = trace(done, twice)
        assert [passage.stage for passage in found.passages] == ["build.few", "curate", "mix", "tune"]
        assert len(found.trained) == 2
        assert len({use.held for use in found.trained}) == 1
        tune = read_manifest(done / "stages" / "tune")
        assert tune is not None
        assert tune.facts["examples"] + tune.facts["validation_examples"] == 12

    @pytest.mark.promise1
    def test_a_row_left_out_says_why(self, done: Path) -> None:
        left, _ = read_dropped(done / "stages" / "mix")[0]
        found = trace(done, left.row)
        assert [(p.stage, p.verdict.reason) for p in found.passages][-1] == ("mix", "not_sampled")
        assert found.passages[1].passed == ("licences", "exact_duplicates", "overlap")
        assert found.trained == ()

    def test_the_nearest_rows_of_an_item_are_different_rows(self, done: Path) -> None:
        near = [near.example.row for near in trace(done, "items.jsonl#0").nearest_rows]
        assert len(near) == len(set(near)) == 5

    def test_its_files_are_looked_after(self, done: Path) -> None:
        assert all(finding.ok for finding in verify(done))

    def test_the_report_tells_of_it(self, done: Path) -> None:
        page = write_report(done).read_text("utf-8")
        assert "<h2>The mixture</h2>" in page
        assert "12 rows were written to train on, 10 of them different" in page
        assert "share alike" in page
        summary: dict[str, Any] = json.loads((done / "summary.json").read_text("utf-8"))
        assert summary["mixture"]["written"] == 12
        assert [source["path"] for source in summary["mixture"]["sources"]] == [["few"], ["many"]]
        assert summary["licences"]["terms"] == {"share_alike": 6, "attribution": 12}
        assert sum(collect(done).composition["licence"].values()) == 12

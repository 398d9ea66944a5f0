"""Reading tasks: the examples they give, the fingerprint, and what a mistake in a file is told."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from shinan.core.errors import ConfigError
from shinan.core.example import Part
from shinan.starter import Demonstration, Instance, Kind, Task, categories, collection, examples, fingerprint, tasks


class RootMaker(Protocol):
    def __call__(self, replaced: dict[str, str], name: str = ...) -> Path: ...


def a_task(**changes: object) -> Task:
    fields: dict[str, object] = {
        "name": "opposite_word",
        "category": "word_forms",
        "language": "en",
        "definition": "Give the opposite of the word.",
        "avoid": "One word only.",
        "positive": (
            Demonstration(input="hot", output="cold", explanation="Ends of one scale."),
            Demonstration(input="up", output="down", explanation="Directions."),
        ),
        "negative": (Demonstration(input="wet", output="damp", explanation="Damp is nearly wet."),),
        "instances": tuple(Instance(input=f"word {n}", outputs=(f"answer {n}", f"other {n}")) for n in range(8)),
    }
    return Task.model_validate(fields | changes)


def test_an_example_has_typed_parts_targets_tags_and_a_source() -> None:
    first, second = examples(a_task())[:2]
    assert first.messages[0].parts == (
        Part("Give the opposite of the word. One word only.", "instruction"),
        Part("word 0", "input"),
    )
    assert first.messages[0].text == "Give the opposite of the word. One word only.\n\nword 0"
    assert first.reply == "answer 0"
    assert first.targets == ("answer 0", "other 0")
    assert first.task == "opposite_word"
    assert first.tags == {
        "kind": "tasks",
        "category": "word_forms",
        "language": "en",
        "output_language": "en",
        "split": "train",
    }
    assert second.row == "collection:starter/opposite_word#1"
    assert (second.provenance.licence, second.provenance.maker) == ("CC0-1.0", "project")


def test_demonstrations_stand_between_definition_and_input() -> None:
    example = examples(a_task(), demonstrations=1, negative=True, explanations=True, avoid=False)[0]
    assert example.messages[0].parts == (
        Part("Give the opposite of the word.", "instruction"),
        Part("Example\nInput: hot\nOutput: cold\nWhy: Ends of one scale.", "demonstration"),
        Part("Example of a wrong answer\nInput: wet\nOutput: damp\nWhy: Damp is nearly wet.", "demonstration"),
        Part("word 0", "input"),
    )


def test_more_demonstrations_than_the_task_has_gives_all_of_them() -> None:
    parts = examples(a_task(), demonstrations=9)[0].messages[0].parts
    assert [part.kind for part in parts] == ["instruction", "demonstration", "demonstration", "input"]


def test_japanese_is_joined_without_a_blank_and_shown_in_japanese() -> None:
    task = a_task(name="ja_word", language="ja", definition="反対語を書く。", avoid="一語だけ。", output_language="en")
    example = examples(task, demonstrations=1)[0]
    assert example.messages[0].parts[:2] == (
        Part("反対語を書く。一語だけ。", "instruction"),
        Part("例\n入力：hot\n出力：cold", "demonstration"),
    )
    assert (example.tags["language"], example.tags["output_language"]) == ("ja", "en")


@pytest.mark.promise8
def test_the_split_parts_the_collection() -> None:
    names = [{task.name for task in tasks(split=split)} for split in ("train", "heldout", None)]
    assert not names[0] & names[1]
    assert names[0] | names[1] == names[2]
    assert {categories()[task.category].split for task in tasks(split="heldout")} == {"heldout"}


def test_tasks_can_be_chosen_by_language_and_are_ordered() -> None:
    found = tasks(languages=["ja", "en"])
    assert {task.language for task in found} == {"en", "ja"}
    assert found == sorted(found, key=lambda task: (task.language, task.name))


def test_no_two_rows_of_the_collection_share_an_id_or_a_place() -> None:
    rows = [row for task in tasks() for row in examples(task, demonstrations=2)]
    assert len({row.id for row in rows}) == len({row.row for row in rows}) == len(rows)


def test_the_fingerprint_is_that_of_the_kinds_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tasks/en/a.yaml", "safety/a.jsonl", "constraints/a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1", "utf-8")
    (tmp_path / "categories.yaml").write_text("1", "utf-8")
    monkeypatch.setattr(collection, "ROOT", tmp_path)
    choices: list[tuple[Kind, ...]] = [("tasks",), ("safety",), ("tasks", "safety"), ("constraints",)]
    before = {kinds: fingerprint(kinds) for kinds in choices}
    assert fingerprint(("safety", "tasks", "safety")) == before["tasks", "safety"]
    (tmp_path / "safety" / "a.jsonl").write_text("2", "utf-8")
    assert [kinds for kinds, old in before.items() if fingerprint(kinds) != old] == [("safety",), ("tasks", "safety")]
    (tmp_path / "categories.yaml").write_text("2", "utf-8")
    assert [kinds for kinds, old in before.items() if fingerprint(kinds) == old] == [("constraints",)]


# --- mistakes


@pytest.fixture
def starter_root(tmp_path: Path) -> Iterator[RootMaker]:
    """A function that makes a collection of one good task, with text replaced in it, and has it read from there."""
    source = collection.ROOT / "tasks" / "en" / "email_subject_line.yaml"

    def make(replaced: dict[str, str], name: str = source.name) -> Path:
        text = source.read_text("utf-8")
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new, 1)
        folder = tmp_path / "tasks" / "en"
        folder.mkdir(parents=True)
        (folder / name).write_text(text, "utf-8")
        shutil.copy(collection.ROOT / "categories.yaml", tmp_path)
        patch.setattr(collection, "ROOT", tmp_path)
        forget()
        return tmp_path

    def forget() -> None:
        collection._all_tasks.cache_clear()
        collection.categories.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        yield make
    forget()


def test_a_mistyped_key_is_named_with_its_line_and_the_right_key(starter_root: RootMaker) -> None:
    path = starter_root({"avoid: >-": "avoids: >-"}) / "tasks" / "en" / "email_subject_line.yaml"
    with pytest.raises(ConfigError) as caught:
        tasks()
    assert f"{path}:8: avoids: unknown key 'avoids'\n  do this: did you mean 'avoid'?" in str(caught.value)
    assert "'avoid' is missing" in str(caught.value)


def test_an_unknown_category_is_told_with_the_nearest(starter_root: RootMaker) -> None:
    path = starter_root({"title_generation": "title_generator"}) / "tasks" / "en" / "email_subject_line.yaml"
    expected = (
        f"{path}:2: category: no category is named 'title_generator'\n  do this: did you mean 'title_generation'?"
    )
    with pytest.raises(ConfigError) as caught:
        tasks()
    assert str(caught.value) == expected


@pytest.mark.promise10
def test_the_problems_of_all_files_are_told_together(starter_root: RootMaker) -> None:
    folder = starter_root({"language: en": "language: eo"}) / "tasks" / "en"
    (folder / "broken.yaml").write_text("name: [", "utf-8")
    with pytest.raises(ConfigError) as caught:
        tasks()
    assert [Path(problem.where.split(":")[0]).name for problem in caught.value.problems] == [
        "broken.yaml",
        "email_subject_line.yaml",
    ]


def test_a_file_must_be_named_like_its_task(starter_root: RootMaker) -> None:
    starter_root({}, name="mail_title.yaml")
    with pytest.raises(ConfigError, match=r"mail_title\.yaml: holds en/email_subject_line"):
        tasks()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": ("cold", "warm")}, "the definition does not name the label 'cold'"),
        ({"labels": ("opposite", "word")}, "the output 'down' is not one of the labels"),
        ({"language": "ja"}, "the name must begin with 'ja_'"),
        ({"instances": (Instance(input="hot", outputs=("cold",)),) * 8}, "the input 'hot' is given twice"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        a_task(**changes)

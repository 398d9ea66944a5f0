"""Choosing rows of the starter collection."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan.build.collection import collection
from shinan.core.errors import ConfigError, DataError
from shinan.core.registry import bind
from shinan.starter import KINDS, Kind, examples, row_examples, tasks


def test_by_default_all_training_rows_in_the_collections_order() -> None:
    expected = [row for task in tasks(split="train") for row in examples(task)]
    assert collection(0) == collection(1) == expected


def test_all_is_train_and_heldout() -> None:
    rows = {split: {row.id for row in collection(0, split=split)} for split in ("train", "heldout", "all")}
    assert rows["all"] == rows["train"] | rows["heldout"]
    assert not rows["train"] & rows["heldout"]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**40), k=st.integers(1, 12))
def test_instances_per_task_takes_that_many_of_each(seed: int, k: int) -> None:
    counts = Counter(row.task for row in collection(seed, split="heldout", instances_per_task=k))
    assert counts == {task.name: min(k, len(task.instances)) for task in tasks(split="heldout")}


@settings(max_examples=25)
@given(seed=st.integers(0, 2**40), limit=st.integers(1, 400))
def test_a_limit_is_spread_over_the_tasks(seed: int, limit: int) -> None:
    rows = collection(seed, split="heldout", limit=limit)
    sizes = {task.name: len(task.instances) for task in tasks(split="heldout")}
    counts = Counter(row.task for row in rows)
    assert len(rows) == min(limit, sum(sizes.values()))
    most = max(counts.values())
    assert all(counts[name] >= min(size, most - 1) for name, size in sizes.items())
    assert rows == sorted(rows, key=lambda row: (row.tags["language"], row.task, row.provenance.row))


def test_the_seed_decides_what_is_drawn_and_nothing_else_does() -> None:
    first = collection(3, limit=200)
    assert collection(3, limit=200) == first
    assert collection(4, limit=200) != first
    # A larger limit only adds rows, and a choice of tasks does not change what is drawn from them.
    assert {row.id for row in first} < {row.id for row in collection(3, limit=300)}
    name = first[0].task
    alone = collection(3, tasks=[name], instances_per_task=4)
    assert alone == [row for row in collection(3, instances_per_task=4) if row.task == name]


def test_instances_are_drawn_for_each_task_on_its_own() -> None:
    drawn: dict[str, set[int]] = {}
    for row in collection(5, instances_per_task=4):
        drawn.setdefault(row.task, set()).add(row.provenance.row)
    assert len(set(map(frozenset, drawn.values()))) > len(drawn) / 3  # of 70 to 210 ways to draw four
    assert {0, 1, 2, 3} not in list(drawn.values())[:5]


def test_languages_tasks_demonstrations_and_avoid() -> None:
    assert {row.tags["language"] for row in collection(0, languages=["ja"])} == {"ja"}
    (row,) = collection(0, split="all", tasks=["email_subject_line"], limit=1, demonstrations=2, avoid=False)
    kinds = [part.kind for part in row.messages[0].parts]
    assert kinds == ["instruction", "demonstration", "demonstration", "input"]
    assert "No greetings" not in row.messages[0].text


@pytest.mark.promise10
def test_every_mistyped_name_is_told_with_the_nearest() -> None:
    params = {"name": "startr", "languages": ["jp"], "tasks": ["email_subject_lines"]}
    with pytest.raises(ConfigError) as caught:
        bind("build", "collection", params, where="r.yaml:3: build.0")
    assert str(caught.value) == (
        "r.yaml:3: build.0 name: no collection is named 'startr'\n  do this: did you mean 'starter'?\n"
        f"r.yaml:3: build.0 languages: no row is in 'jp'\n  do this: {LANGUAGES}\n"
        "r.yaml:3: build.0 tasks: no task is named 'email_subject_lines'\n  do this: did you mean 'email_subject_line'?"
    )


def test_a_language_without_rows_on_that_side_is_refused() -> None:
    with pytest.raises(DataError, match="no row fits the choice of kinds, split, languages and tasks"):
        collection(0, kinds=["open_ended"], languages=["zh"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_gives_its_rows_on_the_chosen_side(kind: Kind) -> None:
    every = {row.row: row for row in row_examples(kind)}
    found = collection(0, kinds=[kind], split="all")
    assert {row.row: row for row in found} == every
    assert found == sorted(found, key=lambda row: (row.tags["language"], row.task))
    for split in ("train", "heldout"):
        expected = {row.row for row in every.values() if row.tags["split"] == split}
        if expected:
            assert {row.row for row in collection(0, kinds=[kind], split=split)} == expected


@pytest.mark.promise8
def test_what_measures_is_never_among_the_rows_for_training() -> None:
    rows = collection(0, kinds=["tasks", *KINDS])
    assert {row.tags["kind"] for row in rows} == {"tasks", "open_ended", "conversations", "safety"}
    assert "misconception" not in {row.tags["category"] for row in rows}
    heldout = collection(0, kinds=["tasks", *KINDS], split="heldout")
    assert {row.tags["category"] for row in heldout if row.tags["kind"] != "tasks"} == {"constraints", "misconception"}
    assert not {row.id for row in rows} & {row.id for row in heldout}


def test_kinds_are_mixed_under_a_limit_and_ordered() -> None:
    rows = collection(0, kinds=["safety", "tasks", "open_ended"], limit=200)
    kinds = [row.tags["kind"] for row in rows]
    assert kinds == sorted(kinds, key=["tasks", "open_ended", "safety"].index)
    # Of the first round's candidates: tasks for training, open-ended rows, and safety rows for training.
    sizes = {
        "tasks": len(tasks(split="train")),
        "open_ended": len(row_examples("open_ended")),
        "safety": sum(row.tags["split"] == "train" for row in row_examples("safety")),
    }
    expected = {kind: 200 * n / sum(sizes.values()) for kind, n in sizes.items()}
    assert all(abs(kinds.count(kind) - n) < 4 * n**0.5 for kind, n in expected.items())
    assert max(Counter(row.task for row in rows).values()) == 1


def test_names_of_tasks_need_tasks() -> None:
    expected = (
        "tasks: names of tasks, but `kinds` has no tasks\n  do this: add `tasks` to `kinds`, or leave the names out"
    )
    with pytest.raises(ConfigError) as caught:
        bind("build", "collection", {"kinds": ["safety"], "split": "all", "tasks": ["email_subject_line"]})
    assert str(caught.value) == expected


def test_the_key_knows_the_kinds_and_their_files() -> None:
    alone, same, other = (
        bind("build", "collection", params).identity() for params in ({}, {"kinds": ["tasks"]}, {"kinds": ["safety"]})
    )
    assert alone == same
    assert alone["content"] != other["content"]


def test_a_mistyped_kind_is_told() -> None:
    with pytest.raises(ConfigError, match=r"kinds.0: Input should be 'tasks', 'open_ended', .* \(got 'task'\)"):
        bind("build", "collection", {"kinds": ["task"]})
    with pytest.raises(ConfigError, match=r"kinds: .* at least 1 item"):
        bind("build", "collection", {"kinds": []})


LANGUAGES = "use one of: " + ", ".join(sorted({task.language for task in tasks()}))


@pytest.mark.promise8
def test_a_named_task_on_the_other_side_of_the_split_is_refused() -> None:
    expected = (
        "tasks: the task 'email_subject_line' is on the side 'heldout' of the split, not 'train'\n"
        "  do this: change `split` or leave the task out"
    )
    with pytest.raises(ConfigError) as caught:
        bind("build", "collection", {"tasks": ["email_subject_line"]})
    assert str(caught.value) == expected


def test_nothing_left_to_take_is_refused() -> None:
    with pytest.raises(DataError, match="no row fits the choice of kinds, split, languages and tasks"):
        collection(0, languages=["ja"], split="heldout", tasks=["email_subject_line"])


@pytest.mark.parametrize("option", ["limit", "instances_per_task"])
def test_a_recipe_cannot_ask_for_no_rows(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: Input should be greater than 0"):
        bind("build", "collection", {option: 0}, where="recipe.yaml:3")
    assert len(bind("build", "collection", {option: 1})(7)) > 0

"""The quality of the tasks, over every one there is. A failure lists every offender with its file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest

from shinan.core.text import normalise, words
from shinan.curate import curate
from shinan.curate.overlap import overlap
from shinan.starter import Task, categories, examples, tasks
from tests.starter.faults import alike, fail_with, foreign, personal, repeated, size

TASKS = tasks()

FEWEST_TASKS = {"en": 95, "ja": 55, "es": 10, "fr": 10, "de": 10, "zh": 10}

# Tasks in which some right answers repeat the input, and why.
MAY_REPEAT: Mapping[str, str] = {
    "ja_fix_ranuki_retasu_saire": "a sentence without a mistake is to be copied",
}

# In these categories the inputs of one task may be alike: several questions are asked of one table.
MAY_BE_ALIKE = ("table_reading",)


def place(task: Task, row: int | None = None) -> str:
    return f"{task.language}/{task.name}.yaml" + ("" if row is None else f" instance {row}")


def inputs() -> Iterator[tuple[str, Task, str]]:
    """(place, task, input) of every instance."""
    for task in TASKS:
        for row, instance in enumerate(task.instances):
            yield place(task, row), task, instance.input


# --- counts and sizes


def test_every_language_and_category_has_tasks() -> None:
    by_language = Counter[str](task.language for task in TASKS)
    by_category = Counter(task.category for task in TASKS)
    offenders = [f"{code}: {by_language[code]} tasks" for code, n in FEWEST_TASKS.items() if by_language[code] < n]
    fail_with(offenders + [f"{name}: no task" for name in categories() if not by_category[name]])


def test_names_are_unique() -> None:
    counts = Counter(task.name for task in TASKS)
    fail_with([place(task) for task in TASKS if counts[task.name] > 1])


def test_definitions_and_outputs_have_the_right_size() -> None:
    offenders = []
    for task in TASKS:
        least, most = (40, 200) if task.language in ("ja", "zh") else (20, 80)
        length = size(task.definition, task.language)
        if not least <= length <= most:
            offenders.append(f"{place(task)}: the definition's length is {length}")
        language = task.output_language or task.language
        limit = 110 if language in ("ja", "zh") else 50
        for row, instance in enumerate(task.instances):
            offenders += [
                f"{place(task, row)}: an output's length is {size(output, language)}"
                for output in instance.outputs
                if size(output, language) > limit
            ]
    fail_with(offenders)


# --- variety


def test_definitions_begin_in_different_ways() -> None:
    starts = defaultdict(list)
    for task in TASKS:
        # Japanese and Chinese have a word a character here: ten of them say about as much as five words.
        first = words(task.definition)[: 10 if task.language in ("ja", "zh") else 5]
        starts[tuple(first)].append(place(task))
    fail_with([f"{' '.join(start)}: {', '.join(found)}" for start, found in starts.items() if len(found) > 6])


def test_no_input_occurs_twice() -> None:
    fail_with(repeated({where: text for where, _, text in inputs()}))


def test_no_two_inputs_are_nearly_the_same() -> None:
    owner = {where: task for where, task, _ in inputs()}

    def excused(a: str, b: str) -> bool:
        return owner[a] is owner[b] and owner[a].category in MAY_BE_ALIKE

    fail_with(alike({where: text for where, _, text in inputs()}, excused))


@pytest.mark.promise8
def test_nothing_crosses_the_split() -> None:
    train = [row for task in tasks(split="train") for row in examples(task, demonstrations=3, negative=True)]
    heldout = [row for task in tasks(split="heldout") for row in examples(task)]
    strict = overlap(heldout, n=8, share=0.3)  # stricter than the check's default, which users run
    fail_with([f"{row.row}: {verdict.detail}" for row, verdict in curate(train, [("overlap", strict)]).dropped])


# --- truth


def test_labels_are_balanced_and_in_no_pattern() -> None:
    offenders = []
    for task in (task for task in TASKS if task.labels):
        labels = task.labels or ()
        given = [instance.outputs[0] for instance in task.instances]
        counts = Counter(dict.fromkeys(labels, 0))
        counts.update(given)
        if min(counts.values()) == 0 or max(counts.values()) > 2 * min(counts.values()):
            offenders.append(f"{place(task)}: {dict(counts)}")
        if all(given[i] == given[i - len(labels)] for i in range(len(labels), len(given))):
            offenders.append(f"{place(task)}: the labels come in turn: {given}")
    fail_with(offenders)


def test_no_output_repeats_its_input() -> None:
    offenders = []
    for task in TASKS:
        rows = [(place(task, row), x.input, x.outputs) for row, x in enumerate(task.instances)]
        rows += [(f"{place(task)} positive {n}", x.input, (x.output,)) for n, x in enumerate(task.positive)]
        echoes = [where for where, text, outputs in rows if normalise(text) in map(normalise, outputs)]
        if task.name not in MAY_REPEAT:
            offenders += echoes
        elif not echoes:
            offenders.append(f"{place(task)}: listed in MAY_REPEAT, but nothing repeats")
    offenders += [
        f"{name}: listed in MAY_REPEAT, but no such task" for name in set(MAY_REPEAT) - {t.name for t in TASKS}
    ]
    fail_with(offenders)


def recomputers() -> list[tuple[str, str, Callable[[str, str], bool]]]:
    """(file, task, function) of every entry in the RECOMPUTE tables beside this file."""
    found = []
    for path in sorted(Path(__file__).parent.glob("recompute_*.py")):
        table = import_module(f"tests.starter.{path.stem}").RECOMPUTE
        found += [(path.name, name, function) for name, function in table.items()]
    return found


def test_recompute_tables_name_each_task_once() -> None:
    names = Counter(name for _, name, _ in recomputers())
    known = {task.name for task in TASKS}
    fail_with([f"{file}: {name}" for file, name, _ in recomputers() if name not in known or names[name] > 1])


def test_recomputed_answers_agree() -> None:
    by_name = {task.name: task for task in TASKS}
    offenders = []
    for file, name, right in recomputers():
        task = by_name[name]
        rows = [(place(task, n), x.input, output) for n, x in enumerate(task.instances) for output in x.outputs]
        rows += [(f"{place(task)} positive {n}", x.input, x.output) for n, x in enumerate(task.positive)]
        offenders += [
            f"{where} ({file}): {text!r} -> {output!r}" for where, text, output in rows if not right(text, output)
        ]
    fail_with(offenders)


def test_recomputing_refuses_wrong_answers() -> None:
    """The negative examples; or, where these are wrong in sense alone, most of the answers to other inputs."""
    by_name = {task.name: task for task in TASKS}
    offenders = []
    for file, name, right in recomputers():
        rows = by_name[name].instances
        others = [(a.input, b.outputs[0]) for a in rows for b in rows if b.outputs[0] not in a.outputs]
        accepted = sum(right(text, output) for text, output in others)
        if 2 * accepted > len(others) and any(right(x.input, x.output) for x in by_name[name].negative):
            offenders.append(
                f"{file}: {name} accepts a negative example, and {accepted} of {len(others)} other answers"
            )
    fail_with(offenders)


# --- language


def test_every_text_is_in_its_language() -> None:
    offenders = []
    for task in TASKS:
        texts = {
            "definition": task.definition + " " + task.avoid,
            "explanations": "\n".join(row.explanation for row in (*task.positive, *task.negative)),
        }
        if task.category not in ("translation", "code"):  # one side of them is in another language
            rows = [line for row in task.instances for line in (row.input, *row.outputs)]
            texts["instances"] = "\n".join(rows)
        for what, text in texts.items():
            if fault := foreign(text, task.language):
                offenders.append(f"{place(task)} {what}: {fault}")
    fail_with(offenders)


def test_there_is_no_personal_data() -> None:
    texts = [(row.row, f"{row.prompt_text}\n{target}") for t in TASKS for row in examples(t) for target in row.targets]
    fail_with(personal(texts))

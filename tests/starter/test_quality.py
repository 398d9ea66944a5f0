"""The collection's own quality, over every task there is. A failure lists every offender with its file."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import combinations
from pathlib import Path

import pytest

from shinan.core.text import normalise, words
from shinan.curate import curate
from shinan.curate.overlap import overlap
from shinan.starter import Task, categories, examples, tasks

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


def fail_with(offenders: list[str]) -> None:
    if offenders:
        pytest.fail(f"{len(offenders)} offenders:\n" + "\n".join(offenders), pytrace=False)


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


def size(text: str, language: str) -> int:
    return len(text) if language in ("ja", "zh") else len(text.split())


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
    found = defaultdict(list)
    for where, _, text in inputs():
        found[normalise(text)].append(where)
    fail_with([", ".join(places) for places in found.values() if len(places) > 1])


def test_no_two_inputs_are_nearly_the_same() -> None:
    grams = {where: set(windows(words(text), 5)) for where, _, text in inputs()}
    owner = {where: task for where, task, _ in inputs()}
    having = defaultdict(list)
    for where, mine in grams.items():
        for gram in mine:
            having[gram].append(where)
    shared = Counter(pair for places in having.values() for pair in combinations(places, 2))
    offenders = []
    for (a, b), common in shared.items():
        jaccard = common / (len(grams[a]) + len(grams[b]) - common)
        excused = owner[a] is owner[b] and owner[a].category in MAY_BE_ALIKE
        if jaccard > 0.6 and not excused:
            offenders.append(f"{jaccard:.2f} {a} and {b}")
    fail_with(sorted(offenders, reverse=True))


def windows(items: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(items[i : i + n]) for i in range(len(items) - n + 1))


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

KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
HAN = re.compile("[\u4e00-\u9fff]")
LETTER = re.compile(r"[^\W\d_]")
STOP_WORDS = {
    "en": "the of and is to with for that it was in a an are be this from not by on you what how they has at",
    "es": "el la de que y en los las un una con por para del se es no su al lo como más está qué hay son",
    "fr": "le la les de des et une un du est dans pour qui sur au en il elle ne pas avec vous ce que son sont",
    "de": "der die das und ist nicht ein eine mit den dem zu auf im von für sich es er sie wird am bei auch",
}


def language_fault(text: str, language: str) -> str:
    """Why a text is not in this language; empty if it may be."""
    letters, kana, han = (len(pattern.findall(text)) for pattern in (LETTER, KANA, HAN))
    if language == "ja":
        return "" if kana > 0.25 * letters else f"{kana} kana among {letters} letters"
    if language == "zh":
        return (
            "" if not kana and han > 0.5 * letters else f"{kana} kana and {han} Chinese characters, {letters} letters"
        )
    if kana or han:
        return "Japanese or Chinese characters"
    votes = {code: sum(word in stop.split() for word in text.lower().split()) for code, stop in STOP_WORDS.items()}
    return "" if votes[language] == max(votes.values()) else f"stop words: {votes}"


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
            if fault := language_fault(text, task.language):
                offenders.append(f"{place(task)} {what}: {fault}")
    fail_with(offenders)

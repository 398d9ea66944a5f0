"""Reads the tasks of the starter collection, and makes examples of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from shinan.core.config import load_yaml, validate
from shinan.core.errors import ConfigError, Problem, nearest
from shinan.core.example import Example, Message, Part, Provenance, assistant
from shinan.core.hashing import content_hash, file_sha256
from shinan.starter.schema import Categories, Category, Demonstration, Instance, Kind, Split, Task

ROOT = Path(__file__).parent
LICENCE = "CC0-1.0"


class Wording(NamedTuple):
    """How worked examples are shown in one language."""

    right: str
    wrong: str
    input: str
    output: str
    why: str


_WORDING: Mapping[str, Wording] = {
    "en": Wording("Example", "Example of a wrong answer", "Input: ", "Output: ", "Why: "),
    "ja": Wording("例", "誤った答えの例", "入力：", "出力：", "理由："),
    "es": Wording("Ejemplo", "Ejemplo de respuesta incorrecta", "Entrada: ", "Salida: ", "Motivo: "),
    "fr": Wording("Exemple", "Exemple de mauvaise réponse", "Entrée : ", "Sortie : ", "Raison : "),
    "de": Wording("Beispiel", "Beispiel einer falschen Antwort", "Eingabe: ", "Ausgabe: ", "Grund: "),
    "zh": Wording("示例", "错误答案示例", "输入：", "输出：", "理由："),
}


@cache
def categories() -> Mapping[str, Category]:
    """Every category by name, in the order of `categories.yaml`."""
    return validate(Categories, load_yaml(ROOT / "categories.yaml")).categories


@cache
def _all_tasks() -> tuple[Task, ...]:
    """Every task, ordered by language and name. Raises ConfigError with every problem of every file."""
    found: list[Task] = []
    problems: list[Problem] = []
    for path in sorted((ROOT / "tasks").glob("*/*.yaml")):
        try:
            document = load_yaml(path)
            task = validate(Task, document)
        except ConfigError as error:
            problems += error.problems
            continue
        if (task.language, task.name) != (path.parent.name, path.stem):
            problems.append(Problem(f"holds {task.language}/{task.name}", str(path), "rename the file or the task"))
        if task.category not in categories():
            fix = nearest(task.category, categories())
            problems.append(Problem(f"no category is named {task.category!r}", document.where(["category"]), fix))
        found.append(task)
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def fingerprint(kinds: Collection[Kind]) -> str:
    """Hash of every file that decides what the rows of these kinds are."""
    paths = [ROOT / "categories.yaml", *(ROOT / "tasks").glob("*/*.yaml")] if "tasks" in kinds else []
    paths += [path for kind in kinds for path in (ROOT / kind).glob("*.jsonl")]
    return content_hash([file_sha256(path) for path in sorted({*paths})])


def tasks(languages: Collection[str] | None = None, split: Split | None = None) -> list[Task]:
    """The tasks in these languages and on this side of the split (None: all), ordered by language and name."""
    return [
        task
        for task in _all_tasks()
        if (languages is None or task.language in languages) and split in (None, split_of(task))
    ]


def split_of(task: Task) -> Split:
    """The side of the split that the task's category is on."""
    return categories()[task.category].split


def examples(
    task: Task,
    *,
    demonstrations: int = 0,
    negative: bool = False,
    explanations: bool = False,
    avoid: bool = True,
) -> list[Example]:
    """One example an instance: the task's definition, worked examples, the instance's input, and its first output.

    Args:
        task: the task.
        demonstrations: how many right examples to show (as many as the task has, two or three, if that is fewer).
        negative: show one wrong example too.
        explanations: say why each shown example is right or wrong.
        avoid: add the sentence on what to avoid to the definition.
    """
    shown = [_show(task, row, right=True, explained=explanations) for row in task.positive[:demonstrations]]
    if negative:
        shown.append(_show(task, task.negative[0], right=False, explained=explanations))
    joint = "" if task.language in ("ja", "zh") else " "
    instruction = task.definition + (joint + task.avoid if avoid else "")
    shared = (Part(instruction, "instruction"), *(Part(text, "demonstration") for text in shown))
    return [_example(task, shared, instance, row) for row, instance in enumerate(task.instances)]


def _show(task: Task, row: Demonstration, *, right: bool, explained: bool) -> str:
    wording = _WORDING[task.language]
    lines = [
        wording.right if right else wording.wrong,
        wording.input + row.input,
        wording.output + row.output,
    ]
    return "\n".join([*lines, wording.why + row.explanation] if explained else lines)


def _example(task: Task, shared: tuple[Part, ...], instance: Instance, row: int) -> Example:
    return Example(
        messages=(Message("user", (*shared, Part(instance.input, "input"))), assistant(instance.outputs[0])),
        targets=instance.outputs,
        task=task.name,
        tags={
            "kind": "tasks",
            "category": task.category,
            "language": task.language,
            "output_language": task.output_language or task.language,
            "split": split_of(task),
        },
        provenance=Provenance(f"collection:starter/{task.name}", row, LICENCE, "project"),
    )

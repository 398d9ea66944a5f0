"""Unnatural Instructions (Honovich et al. 2022, arXiv 2212.09689): three tasks are shown, and a fourth is elicited."""

from __future__ import annotations

import random
import re
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from pydantic import NonNegativeInt, PositiveInt

from shinan.build.author import Ask, Author, Reply
from shinan.build.faults import foreign, unusable
from shinan.build.instructions import as_messages, unmarked
from shinan.build.prompts import Prompt
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.errors import DataError
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.core.registry import register
from shinan.core.text import normalise, words
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling
from shinan.scorers.language import Language

EXAMPLE = Prompt("unnatural.example")
OUTPUT = Prompt("unnatural.output")
PARAPHRASE = Prompt("unnatural.paraphrase")

SHOWN, SETS = 3, 5  # tasks in a prompt; fixed sets of them, fifteen tasks in all (section 2.1)
NONE = "None."
PATIENCE = 10  # rounds in a row that bring nothing new

_ELICITING = Sampling(max_new_tokens=512, temperature=1.0, top_p=0.99)  # section 2.2: nucleus sampling
_ANSWERING = Sampling(max_new_tokens=512)  # section 2.2: greedy
_REWORDING = Sampling(max_new_tokens=128, temperature=1.0, top_p=0.99)
_FIELDS = re.compile(r"(?:Instruction:)?\s*(.+?)\s*\nInput:\s*(.+?)\s*\nConstraints:\s*(.+?)\s*", re.DOTALL)


class Task(NamedTuple):
    """A task without its output; `id` is that of the row it comes from, if it comes from one."""

    instruction: str
    input: str
    constraints: str
    id: str = ""

    @property
    def shown(self) -> str:
        """The task as prompts list it."""
        return f"Instruction: {self.instruction}\nInput: {self.input}\nConstraints: {self.constraints}"

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two tasks the same: the words of instruction and input (section 2.2)."""
        return (*words(self.instruction), "", *words(self.input))


class Elicited(NamedTuple):
    """An accepted task: its number among all, and the reply that it stands in."""

    number: int
    task: Task
    reply: Reply


@register("build", "unnatural", content=content((EXAMPLE, OUTPUT, PARAPHRASE), "teacher"))
def unnatural(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    language: Language = "en",
    tasks: PositiveInt = 100,
    requests: PositiveInt = 20,
    paraphrases: NonNegativeInt = 2,
) -> Iterator[Judged]:
    """Tasks that a model makes after three others, its own answers to them, and each task in other words.

    Deviations: after 10 rounds without a new task the search ends; a paraphrase is asked for without examples.

    Args:
        seed: every draw derives from it.
        rows: rows with an instruction and an input, such as Natural Instructions'; the options of a row with choices
            are its constraints.
        teacher: the model that is asked.
        budget: no round begins once so many calls were made; more keeps what fewer have brought.
        guard: drop refusals, loops and other languages too, which the paper does not.
        language: of the tasks.
        tasks: rounds go on until so many were accepted (the paper: 68,478).
        requests: prompts of a round.
        paraphrases: other wordings of each task, with the same input and output (the paper: 2).

    Raises:
        DataError: fewer than three rows have an instruction and an input.
        ModelError, RunError: the teacher cannot be opened.
    """
    author = Author.of("unnatural", teacher, seed, budget=budget)
    sets = _sets(rows, seed)
    seen = {task.key for shown in sets for task in shown}
    number, round_, idle = 0, 0, 0
    while number < tasks and idle < PATIENCE and not author.spent:
        asks = [_elicit(author, sets[(round_ * requests + i) % len(sets)], round_, i) for i in range(requests)]
        accepted: list[Elicited] = []
        for reply in author.answers(asks):
            task, verdict = _read(author, reply, seen, guard=guard, language=language)
            if verdict:
                yield author.drop(author.row(reply, as_messages(task.instruction, task.input)), verdict)
            else:
                accepted.append(Elicited(number, task, reply))
                number += 1
        answered = yield from _answered(author, accepted, guard=guard)
        yield from _reworded(author, answered, paraphrases, guard=guard)
        round_, idle = round_ + 1, 0 if accepted else idle + 1


def _sets(rows: Sequence[Example], seed: int) -> list[list[Task]]:
    """The fixed sets of tasks to show, drawn from the rows: no task stands in two."""
    found = {task.key: task for row in rows if (task := _task(row))}
    if len(found) < SHOWN:
        fix = "name build stages under `from` whose rows have `instruction` and `input` parts"
        what = f"{len(found)} of {len(rows)} rows have an instruction and an input; {SHOWN} are needed"
        raise DataError(what, where="rows", fix=fix)
    drawn = list(found.values())
    random.Random(derive_seed(seed, "build.unnatural/sets")).shuffle(drawn)
    return [drawn[at : at + SHOWN] for at in range(0, min(SETS, len(drawn) // SHOWN) * SHOWN, SHOWN)]


def _task(row: Example) -> Task | None:
    asked = next((message for message in row.messages if message.role == "user"), None)
    parts = asked.parts if asked else ()
    instruction, given = (
        "\n\n".join(part.text for part in parts if part.kind == kind).strip() for kind in ("instruction", "input")
    )
    constraints = f"The output is one of: {', '.join(row.choices)}." if row.choices else NONE
    return Task(instruction, given, constraints, row.id) if instruction and given else None


def _elicit(author: Author, shown: Sequence[Task], round_: int, number: int) -> Ask:
    examples = "\n\n".join(f"Example {place}\n{task.shown}" for place, task in enumerate(shown, 1))
    fields = {"examples": examples + "\n", "next": str(len(shown) + 1)}
    parents = [task.id for task in shown]
    return author.ask(EXAMPLE, fields, round_, number, sampling=_ELICITING, stop=("\nExample",), parents=parents)


def _read(
    author: Author, reply: Reply, seen: set[tuple[str, ...]], *, guard: bool, language: Language
) -> tuple[Task, Verdict | None]:
    """The task of a reply, or what is wrong with it (section 2.2); an accepted one joins those that are seen."""
    text = reply.text if author.raw else unmarked(reply.text)
    found = _FIELDS.fullmatch(text.strip().removeprefix(f"Example {SHOWN + 1}").strip())
    task = Task(*found.groups()) if found else Task(text.strip(), "", NONE)
    verdict = unusable(reply, guard=guard, copies=True)  # a copied task is a repeated one
    if not verdict and not found:
        verdict = Verdict.drop("unparsable", "no instruction, input and constraints")
    if not verdict and task.key in seen:
        verdict = Verdict.drop("repeated", "a task that is there already")
    if guard and not verdict:
        verdict = foreign(task.instruction, language)
    if not verdict:
        seen.add(task.key)
    return task, verdict


def _answered(
    author: Author, accepted: Sequence[Elicited], *, guard: bool
) -> Generator[Judged, None, list[tuple[Elicited, Example]]]:
    """Have the tasks answered; returns those that are, with their rows."""
    found = []
    asks = [
        author.ask(
            OUTPUT,
            {"instruction": each.task.instruction, "input": each.task.input, "constraints": each.task.constraints},
            each.number,
            sampling=_ANSWERING,
            parents=each.reply.ask.parents,
        )
        for each in accepted
    ]
    for each, reply in zip(accepted, author.answers(asks), strict=True):
        row = _row(author, each, reply, each.task.instruction, reply.text.strip())
        if verdict := unusable(reply, guard=guard):
            yield author.drop(row, verdict)
        else:
            found.append((each, row))
            yield row
    return found


def _reworded(
    author: Author, answered: Sequence[tuple[Elicited, Example]], paraphrases: int, *, guard: bool
) -> Iterator[Judged]:
    """Other wordings of the tasks, with the same inputs and outputs (section 2.3)."""
    plans = [(each, row, sample) for each, row in answered for sample in range(paraphrases)]
    asks = [
        author.ask(
            PARAPHRASE,
            {"instruction": each.task.instruction},
            each.number,
            sampling=_REWORDING,
            parents=[row.id],
            sample=sample,
        )
        for each, row, sample in plans
    ]
    known = {(each.number, normalise(each.task.instruction)) for each, _ in answered}
    for (each, original, _), reply in zip(plans, author.answers(asks), strict=True):
        wording = reply.text.strip() if author.raw else unmarked(reply.text)
        row = _row(author, each, reply, wording, original.reply or "")
        verdict = unusable(reply, guard=guard)
        key = (each.number, normalise(wording))
        if not verdict and key in known:
            verdict = Verdict.drop("repeated", "the same wording")
        known.add(key)
        yield author.drop(row, verdict) if verdict else row


def _row(author: Author, each: Elicited, reply: Reply, instruction: str, output: str) -> Example:
    constraints = "" if each.task.constraints.rstrip(".").lower() == "none" else each.task.constraints
    messages = as_messages("\n".join(filter(None, (instruction, constraints))), each.task.input, output)
    return author.row(reply, messages, task=f"{author.source}/{each.number}")

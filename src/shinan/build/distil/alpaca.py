"""Alpaca (github.com/tatsu-lab/stanford_alpaca): Self-Instruct in one call for instruction, input and output."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import PositiveInt

from shinan.build.author import Ask, Author, Reply
from shinan.build.faults import foreign, truncated, unusable
from shinan.build.instructions import UNFIT_ALPACA, Seed, as_messages, one_line, seeds_of, unmarked, unsuitable
from shinan.build.prompts import Prompt
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.core.registry import register
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling
from shinan.scorers.language import Language
from shinan.scorers.novelty import Novelty

TASKS = Prompt("alpaca.tasks")

SHOWN, LISTED = 3, 20  # seeds in a prompt; tasks that it asks for, those among them
SAMPLING = Sampling(max_new_tokens=3072, temperature=1.0)
STOP = (f"\n{LISTED}", f"{LISTED}.")
PATIENCE = 10  # rounds in a row that bring nothing new
NAMES: dict[Language, str] = {
    "en": "English",
    "ja": "Japanese",
    "es": "Spanish",
    "fr": "French",
    "de": "German",
    "zh": "Chinese",
}


class Piece(NamedTuple):
    """One entry of a list: a task, or why there is none; `text` is what the model wrote."""

    text: str
    task: tuple[str, str, str] | None
    verdict: Verdict | None = None


@register("build", "alpaca", content=content((TASKS,), "teacher"))
def alpaca(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    language: Language = "en",
    instructions: PositiveInt = 100,
    requests: PositiveInt = 5,
) -> Iterator[Judged]:
    """Tasks with input and output, twenty to a call, that a model writes after the pattern of three rows.

    Deviations: the end-of-text token is not forbidden, so that a list may end early; after 10 rounds without a new
    instruction the search ends. Of a chat model's reply blank lines and Markdown are no part.

    Args:
        seed: every draw derives from it.
        rows: the seeds; those without a reply are left out.
        teacher: the model that is asked (see `Teacher`).
        budget: no round begins once so many calls were made; more keeps what fewer have brought.
        guard: drop refusals, loops, copies of the prompt and other languages too, which Alpaca does not.
        language: of the instructions; the filter on a first character beyond ASCII is for English alone.
        instructions: rounds go on until so many were kept (the published set: 52,002).
        requests: prompts of a round.

    Raises:
        DataError: no row is fit for a seed.
        ModelError, RunError: the teacher cannot be opened.
    """
    seeds = seeds_of(rows, answered=True)
    author = Author.of("alpaca", teacher, seed, budget=budget)
    novelty = Novelty(each.instruction for each in seeds)
    kept, round_, idle = 0, 0, 0
    while kept < instructions and idle < PATIENCE and not author.spent:
        asks = [_ask(author, seeds, language, round_, number) for number in range(requests)]
        before = kept
        for reply in author.answers(asks):
            for row in _sift(author, novelty, reply, guard=guard, language=language):
                kept += isinstance(row, Example)
                yield row
        round_, idle = round_ + 1, 0 if kept > before else idle + 1


def _ask(author: Author, seeds: Sequence[Seed], language: Language, round_: int, number: int) -> Ask:
    draw = random.Random(derive_seed(author.seed, "build.alpaca/shown", round_, number))
    shown = draw.sample(seeds, min(SHOWN, len(seeds)))
    tasks = "".join(
        f"###\n{place}. Instruction: {one_line(each.instruction)}\n"
        f"{place}. Input:\n{each.input or '<noinput>'}\n{place}. Output:\n{each.output}\n"
        for place, each in enumerate(shown, 1)
    )
    fields = {
        "number": str(LISTED),
        "language": NAMES[language],
        "tasks": f"{tasks}###",
        "next": str(len(shown) + 1),
    }
    return author.ask(TASKS, fields, round_, number, sampling=SAMPLING, stop=STOP, parents=[each.id for each in shown])


def pieces(text: str, first: int) -> list[Piece]:
    """The entries of a reply that goes on after `{first}. Instruction:`, in order.

    An entry that the right number and the three names do not cut into seven fields is unparsable.
    """
    found = []
    for number, entry in enumerate(f"{first}. Instruction:{text}".split("###"), first):
        fields = re.split(rf"{number}\.\s+(Instruction|Input|Output):", entry)
        if len(fields) != 7:
            found.append(Piece(entry.strip(), None, Verdict.drop("unparsable", f"{len(fields)} fields")))
            continue
        instruction, given, output = (fields[place].strip() for place in (2, 4, 6))
        found.append(Piece(entry.strip(), (instruction, "" if given.lower() == "<noinput>" else given, output)))
    return found


def _sift(author: Author, novelty: Novelty, reply: Reply, *, guard: bool, language: Language) -> Iterator[Judged]:
    if verdict := unusable(reply, guard=guard, whole=False):
        yield author.drop(author.row(reply), verdict)
        return
    first = len(reply.ask.parents) + 1
    text = reply.text if author.raw else unmarked(reply.text).removeprefix(f"{first}. Instruction:")
    found = pieces(text, first)
    if cut := truncated(reply):
        found[-1] = Piece(found[-1].text, None, cut)
    for piece in filter(lambda piece: piece.text, found):  # the last mark is followed by nothing
        verdict = piece.verdict or _fault(piece, guard=guard, language=language)
        if piece.task and not verdict and (rival := novelty.admit(piece.task[0])):
            verdict = Verdict.drop("not_novel", f"{rival.f:.2f} like: {rival.text}")
        row = author.row(reply, as_messages(*(piece.task or (piece.text, "", ""))))
        yield author.drop(row, verdict) if verdict else row


def _fault(piece: Piece, *, guard: bool, language: Language) -> Verdict | None:
    instruction, _, output = piece.task or ("", "", "")
    found = unsuitable(instruction, UNFIT_ALPACA, language)
    if guard and not found:
        found = foreign(instruction, language) or (None if output else Verdict.drop("no_output"))
    return found

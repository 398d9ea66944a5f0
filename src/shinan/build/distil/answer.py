"""Prompts that are there already, answered by a stronger model: re-answering, and Orca's explanations."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from shinan.build.author import Ask, Author
from shinan.build.batches import asked, prompts_of
from shinan.build.faults import foreign, unusable
from shinan.build.prompts import PLAIN, Prompt
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.example import Example, Message, assistant, system
from shinan.core.hashing import derive_seed
from shinan.core.registry import register
from shinan.models.generator import Sampling
from shinan.scorers.language import Language

SYSTEMS = Prompt("explain.systems")

Systems = Annotated[list[str], Field(min_length=1)]


@register("build", "reanswer", version=2, content=content((PLAIN,), "teacher"))
def reanswer(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    language: Language | None = None,
    temperature: NonNegativeFloat = 1.0,
    max_new_tokens: PositiveInt = 512,
) -> Iterator[Judged]:
    """The prompts of rows with a model's answers in the place of their own (GPT-4-LLM, Peng et al. 2023).

    Sampling is that of arXiv 2304.03277, algorithm 1. Deviation: a prompt is asked as it stands, without Alpaca's
    preamble around it; the teacher's chat format writes it.

    Args:
        seed: every draw derives from it.
        rows: rows with a prompt; their own replies are not shown to the teacher.
        teacher: the model that answers.
        budget: no batch begins once so many calls were made; more keeps what fewer have brought.
        guard: drop refusals, loops and copies of the prompt.
        language: drop answers that are in another one.
        temperature: 0 is greedy.
        max_new_tokens: the longest answer; one that is cut is dropped.

    Raises:
        DataError: no row has a prompt.
        ModelError, RunError: the teacher cannot be opened.
    """
    author = Author.of("reanswer", teacher, seed, budget=budget)
    sampling = Sampling(max_new_tokens, temperature)

    def plan(row: Example) -> list[Ask]:
        return [author.put(row.prompt, row.row, sampling=sampling, parents=[row.id])]

    for batch in asked(author, prompts_of(rows), plan):
        for row, (reply,) in batch:
            made = author.row(reply, (*row.prompt, assistant(reply.text.strip())), task=row.task, tags=row.tags)
            made = made.under(row.provenance.licence)
            verdict = unusable(reply, guard=guard)
            if language and not verdict:
                verdict = foreign(reply.text, language)
            yield author.drop(made, verdict) if verdict else made


@register("build", "explain", version=2, content=content((PLAIN, SYSTEMS), "teacher"))
def explain(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    systems: Systems | None = None,
    erase: str | None = None,
    temperature: NonNegativeFloat = 1.0,
    max_new_tokens: PositiveInt = 1024,
) -> Iterator[Judged]:
    """Answers that a model explains, as system turns ask it to (Orca, Mukherjee et al. 2023, arXiv 2306.02707).

    Orca's order of teachers is one such build stage for each, the weaker teacher's first. The paper names no sampling;
    the temperature is that of its API.

    Args:
        seed: draws each row's system turn.
        rows: rows with a prompt, such as FLAN's; their own system turns and replies are not shown to the teacher.
        teacher: the model that explains.
        budget: no batch begins once so many calls were made; more keeps what fewer have brought.
        guard: drop refusals, loops and copies of the prompt.
        systems: system turns to draw from (default: sixteen, as many as the paper's table 2 has).
        erase: the system turn to train with in the place of the drawn one, nothing if empty: Orca 2's prompt erasure
            (Mitra et al. 2023, arXiv 2311.11045, section 3). Without it the drawn one stays.
        temperature: 0 is greedy.
        max_new_tokens: the longest answer; one that is cut is dropped.

    Raises:
        DataError: no row has a prompt.
        ModelError, RunError: the teacher cannot be opened.
    """
    author = Author.of("explain", teacher, seed, budget=budget)
    drawn_from = systems or SYSTEMS.text.splitlines()
    sampling = Sampling(max_new_tokens, temperature)

    def drawn(row: Example) -> str:
        return random.Random(derive_seed(seed, "build.explain/system", row.row)).choice(drawn_from)

    def plan(row: Example) -> list[Ask]:
        turns = (system(drawn(row)), *_unopened(row))
        return [author.put(turns, row.row, sampling=sampling, parents=[row.id])]

    for batch in asked(author, prompts_of(rows), plan):
        for row, (reply,) in batch:
            opening = drawn(row) if erase is None else erase
            messages = (*((system(opening),) if opening else ()), *_unopened(row), assistant(reply.text.strip()))
            made = author.row(reply, messages, task=row.task, tags={**row.tags, "asked_with": drawn(row)})
            made = made.under(row.provenance.licence)
            verdict = unusable(reply, guard=guard)
            yield author.drop(made, verdict) if verdict else made


def _unopened(row: Example) -> tuple[Message, ...]:
    return tuple(message for message in row.prompt if message.role != "system")

"""Magpie (Xu et al. 2024, arXiv 2406.08464): a tuned model is given the markers of a question, and writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import NonNegativeFloat, PositiveInt

from shinan.build.author import Author, Reply
from shinan.build.batches import TOGETHER
from shinan.build.faults import foreign, unusable
from shinan.build.instructions import as_messages
from shinan.build.prompts import PLAIN
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.example import Message, system, user
from shinan.core.registry import register
from shinan.core.text import normalise
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling
from shinan.scorers.language import Language

STOP = ("\n",)  # the authors' early stopping: an instruction is one line


@register("build", "magpie", content=content((PLAIN,), "teacher"))
def magpie(
    seed: int,
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    language: Language | None = None,
    draws: PositiveInt = 200,
    opening: str = "",
    temperature: NonNegativeFloat = 1.0,
    max_instruction_tokens: PositiveInt = 2048,
    max_new_tokens: PositiveInt = 4096,
) -> Iterator[Judged]:
    """Instructions that a tuned model writes out of nothing but its chat format, and its own answers to them.

    Most of the cost is in the answers, so what is wrong with an instruction is told before it is answered. The paper's
    filters by quality, difficulty and reward are checks of their own.

    Args:
        seed: every draw derives from it.
        teacher: a tuned local model; an endpoint's markers cannot be written.
        budget: no batch begins once so many calls were made; more keeps what fewer have brought.
        guard: drop refusals, loops and copies.
        language: drop instructions and answers that are in another one.
        draws: instructions to draw; more keeps the fewer.
        opening: a system turn that steers field or language; the paper warns that it may lower the quality.
        temperature: of instructions; answers are greedy.
        max_instruction_tokens: the longest instruction; one that is cut is dropped.
        max_new_tokens: the longest answer; one that is cut is dropped.

    Raises:
        ModelError, RunError: the teacher cannot be opened, or is an endpoint.
    """
    author = Author.of("magpie", teacher, seed, budget=budget)
    before = [system(opening)] if opening else []
    drawing = Sampling(max_instruction_tokens, temperature)
    seen: set[str] = set()
    for start in range(0, draws, TOGETHER):
        if author.spent:
            return
        numbers = range(start, min(draws, start + TOGETHER))
        found: list[tuple[int, Reply]] = []
        asks = [author.put(before, number, sampling=drawing, stop=STOP, as_user=True) for number in numbers]
        for number, reply in zip(numbers, author.answers(asks), strict=True):
            if verdict := _no_instruction(reply, seen, guard=guard, language=language):
                yield author.drop(author.row(reply, [user(reply.text.strip())]), verdict)
            else:
                found.append((number, reply))
        yield from _answered(author, found, before, Sampling(max_new_tokens), guard=guard, language=language)


def _no_instruction(reply: Reply, seen: set[str], *, guard: bool, language: Language | None) -> Verdict | None:
    verdict = unusable(reply, guard=guard)
    if not verdict and reply.text.strip().endswith(":"):
        verdict = Verdict.drop("ends_with_colon")  # the authors' notebook: what follows it is missing
    if language and not verdict:
        verdict = foreign(reply.text, language)
    text = normalise(reply.text)
    if not verdict and text in seen:
        verdict = Verdict.drop("repeated")
    seen.add(text)
    return verdict


def _answered(
    author: Author,
    found: Sequence[tuple[int, Reply]],
    before: Sequence[Message],
    sampling: Sampling,
    *,
    guard: bool,
    language: Language | None,
) -> Iterator[Judged]:
    asks = [
        author.put([*before, user(reply.text.strip())], "answer", number, sampling=sampling) for number, reply in found
    ]
    for (_, asking), reply in zip(found, author.answers(asks), strict=True):
        row = author.row(reply, as_messages(asking.text.strip(), output=reply.text.strip()))
        verdict = unusable(reply, guard=guard)
        if language and not verdict:
            verdict = foreign(reply.text, language)
        yield author.drop(row, verdict) if verdict else row

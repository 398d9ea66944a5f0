"""Instruction back-translation (Humpback, Li et al. 2023, arXiv 2308.06259): texts find the instructions they answer.

The steps are build stages of ordinary recipes, tuned by the engine like any other:

    reversed_rows   the seed rows turned round: tune the backward model on them
    backtranslate   the backward model gives each unlabelled text an instruction (self-augmentation)
    self_curate     the forward model scores each pair from 1 to 5, and the good ones stay (self-curation)
    marked          the two kinds of rows get the system turns that tell them apart in tuning

The next iteration curates all pairs again with the model that the first one has tuned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field, PositiveInt

from shinan.build.author import Ask, Author
from shinan.build.batches import asked, text_of, texts_of
from shinan.build.faults import unusable
from shinan.build.instructions import as_messages
from shinan.build.prompts import PLAIN
from shinan.build.rating import RUBRIC, rate, score_of
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.example import Example, assistant, system, user
from shinan.core.registry import register
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling

SEED_MARK = "Answer in the style of an AI Assistant."  # section 2.4

Points = Annotated[int, Field(ge=1, le=5)]


@register("build", "reversed_rows", version=2)
def reversed_rows(seed: int, rows: Sequence[Example]) -> Iterator[Judged]:
    """Rows turned round: the reply asks, the instruction answers. What a backward model is tuned on.

    Rows of more than one question are dropped, as are those without a reply.
    """
    source = f"reversed_rows/{seed:016x}"  # two stages of a recipe make two rows of a number
    for number, row in enumerate(rows):
        turns = [message for message in row.messages if message.role != "system"]
        origin = replace(row.provenance, source=source, row=number, parents=(row.id,))
        if [turn.role for turn in turns] != ["user", "assistant"]:
            yield replace(row, provenance=origin), Verdict.drop("not_one_question", by="reversed_rows")
        else:
            asks, answers = (turn.text for turn in turns)
            yield Example((user(answers), assistant(asks)), task=row.task, tags=row.tags, provenance=origin)


@register("build", "backtranslate", content=content((PLAIN,), "teacher"))
def backtranslate(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    guard: bool = True,
    max_new_tokens: PositiveInt = 256,
) -> Iterator[Judged]:
    """Texts as answers to instructions that a backward model writes for them (self-augmentation).

    Args:
        seed: every draw derives from it.
        rows: the texts: a row's reply, or all that it says where it has none.
        teacher: the backward model, tuned on `reversed_rows`: a folder such as runs/NAME/checkpoints/best.
        budget: no batch begins once so many calls were made; more keeps what fewer have brought.
        guard: drop refusals, loops and instructions that copy the text.
        max_new_tokens: the longest instruction; one that is cut is dropped.

    Raises:
        DataError: there is no text.
        ModelError, RunError: the model cannot be opened.
    """
    sampling = Sampling(max_new_tokens, temperature=0.7, top_p=0.9)  # section 3.1
    author = Author.of("backtranslate", teacher, seed, budget=budget)

    def plan(row: Example) -> list[Ask]:
        return [author.put([user(text_of(row))], row.row, sampling=sampling, parents=[row.id])]

    for batch in asked(author, texts_of(rows), plan):
        for row, (reply,) in batch:
            messages = as_messages(reply.text.strip(), output=text_of(row))
            made = author.row(reply, messages, task=row.task, tags=row.tags).under(row.provenance.licence)
            verdict = unusable(reply, guard=guard)
            yield author.drop(made, verdict) if verdict else made


@register("build", "self_curate", version=2, content=content((RUBRIC,), "teacher"))
def self_curate(
    seed: int,
    rows: Sequence[Example],
    *,
    teacher: Model,
    budget: PositiveInt | None = None,
    at_least: Points = 5,
    max_new_tokens: PositiveInt = 512,
) -> Iterator[Judged]:
    """The rows that a model itself gives enough points (self-curation, Humpback's table 1).

    Args:
        seed: every draw derives from it.
        rows: rows with a prompt and a reply.
        teacher: the model that judges: the forward model of the iteration before.
        budget: no batch begins once so many calls were made, and the rows that are left are dropped; more keeps what
            fewer have kept.
        at_least: points from 1 to 5 (the paper's best set: 5).
        max_new_tokens: the longest judgement; of one that is cut no score is read.

    Raises:
        ModelError, RunError: the model cannot be opened.
    """
    author = Author.of("self_curate", teacher, seed, budget=budget)

    def plan(row: Example) -> list[Ask]:
        return [rate(author, row.prompt, row.reply or "", row.row, parents=[row.id], most=max_new_tokens)]

    for row in rows:
        if row.reply is None or not row.prompt:
            yield author.drop(row, Verdict.drop("no_pair", "it lacks a prompt or a reply"))
    pairs = [row for row in rows if row.reply is not None and row.prompt]
    done = 0
    for batch in asked(author, pairs, plan):
        done += len(batch)
        for row, (reply,) in batch:
            points = score_of(reply)
            if isinstance(points, Verdict):
                yield author.drop(row, points)
                continue
            judged = replace(row, scores={**row.scores, "points": float(points)})
            short = Verdict.drop("too_few_points", f"{points} of 5")
            yield judged if points >= at_least else author.drop(judged, short)
    for row in pairs[done:]:
        yield author.drop(row, Verdict.drop("over_budget", f"{author.calls} calls were made"))


@register("build", "marked")
def marked(seed: int, rows: Sequence[Example], *, mark: str = SEED_MARK) -> Iterator[Judged]:
    """Rows with a system turn that says of which kind they are, at the end of the one they have.

    Args:
        seed: not used.
        rows: any rows.
        mark: the text; Humpback's are `Answer in the style of an AI Assistant.` for seed rows and `Answer with
            knowledge from web search.` for texts with their instructions.
    """
    for row in rows:
        opening = " ".join([*(message.text for message in row.messages if message.role == "system"), mark])
        turns = (message for message in row.messages if message.role != "system")
        yield replace(row, messages=(system(opening), *turns))

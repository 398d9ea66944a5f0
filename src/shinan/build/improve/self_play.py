"""SPIN's data step (Chen et al. 2024, arXiv 2401.01335, algorithm 1): a model's own answers lose against the rows'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pydantic import NonNegativeFloat, PositiveInt

from shinan.build.author import Ask, Author
from shinan.build.batches import asked, prompts_of
from shinan.build.faults import unanswered
from shinan.build.prompts import PLAIN
from shinan.build.teachers import Model, content
from shinan.core.dataset import Judged
from shinan.core.example import Example, assistant
from shinan.core.registry import register
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling


@register("build", "self_play", version=3, content=content((PLAIN,), "player"))
def self_play(
    seed: int,
    rows: Sequence[Example],
    *,
    player: Model,
    budget: PositiveInt | None = None,
    temperature: NonNegativeFloat = 1.0,
    max_new_tokens: PositiveInt = 256,
) -> Iterator[Judged]:
    """Preference pairs of a row's own reply, chosen, and what the model to be tuned answers, rejected.

    The pairs are tuned on by `objective: dpo`, whose loss is SPIN's; the player is the model of the iteration before,
    and from the second iteration on the pairs of the one before are added (two stages). An answer that is cut is
    rejected as it is, as in the authors' code.

    Args:
        seed: every draw derives from it.
        rows: supervised rows.
        player: the model as it is before this iteration.
        budget: no batch begins once so many answers were asked for; more keeps what fewer have brought.
        temperature: 0 is greedy; the paper samples from the model as it is.
        max_new_tokens: the longest answer (the authors' code: 256).

    Raises:
        DataError: no row has a prompt.
        ModelError, RunError: the player cannot be opened.
    """
    author = Author.of("self_play", player, seed, budget=budget)
    sampling = Sampling(max_new_tokens, temperature)

    def plan(row: Example) -> list[Ask]:
        return [author.put(row.prompt, row.row, sampling=sampling, parents=[row.id])]

    for batch in asked(author, prompts_of(rows), plan):
        for row, (reply,) in batch:
            own = reply.text.strip()
            tags = {**row.tags, "player": author.generator.name}
            pair = author.row(reply, row.messages, task=row.task, tags=tags).under(row.provenance.licence)
            pair = replace(pair, provenance=replace(pair.provenance, maker=row.provenance.maker))
            verdict = unanswered(reply)
            if row.reply is None:
                verdict = Verdict.drop("no_reply", "the row has none to be chosen")
            elif row.reply.strip() == own:
                verdict = Verdict.drop("same", "the model answers as the row does")
            if verdict:
                yield author.drop(pair, verdict)
            else:
                yield replace(pair, rejected=(assistant(own),))

"""A model's judgement of an answer on Humpback's scale of five points, read strictly."""

from __future__ import annotations

import re
from collections.abc import Sequence

from shinan.build.author import Ask, Author, Reply
from shinan.build.faults import unanswered
from shinan.build.instructions import unmarked
from shinan.build.prompts import Prompt
from shinan.core.example import Message
from shinan.core.verdict import Verdict
from shinan.models.generator import Sampling

RUBRIC = Prompt("rating.rubric")  # after table 1 of arXiv 2308.06259, in words of our own

_SCORE = re.compile(r"score\s*:\s*([1-5])(\s*/\s*5)?\s*\.?", re.IGNORECASE)


def rate(
    author: Author,
    prompt: Sequence[Message],
    answer: str,
    *key: int | str,
    parents: Sequence[str] = (),
    most: int = 512,
) -> Ask:
    """The call that asks for a score of an answer, in a judgement of at most `most` tokens."""
    instruction = "\n\n".join(message.text for message in prompt)
    fields = {"instruction": instruction, "answer": answer}
    return author.ask(RUBRIC, fields, *key, sampling=Sampling(most), parents=parents)


def score_of(reply: Reply) -> int | Verdict:
    """The score from 1 to 5 that the last line gives, and nothing else does; a verdict where there is none.

    A loose search for `Score:` is known to leave a third to two thirds of a large set unscored or to score it wrongly.
    """
    if verdict := unanswered(reply):
        return verdict
    last = unmarked(reply.text).splitlines()[-1].strip()
    found = _SCORE.fullmatch(last)
    return int(found[1]) if found else Verdict.drop("unparsable", f"no score on the last line: {last[:60]!r}")

"""The check for rows that say nearly the same as another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, PositiveInt

from shinan.core.example import Example, Message, join_parts
from shinan.core.registry import register
from shinan.core.verdict import KEEP, Verdict
from shinan.curate.checks import Check
from shinan.scorers.nearness import near_duplicates as nearest


@register("check", "near_duplicates", version=1)
def near_duplicates(*, threshold: Annotated[float, Field(gt=0, le=1)] = 0.8, n: PositiveInt = 3) -> Check:
    """Drops every row that nearly repeats an earlier row that is kept, and names that row.

    Compared is text by text: the instruction with the instruction, the input with the input, each turn with the same
    turn, each answer with the same answer. Two rows are as similar as the least similar two of these. So rows that
    share a long instruction, a system prompt or demonstrations stay if their inputs differ, the same prompt stays with
    another reply, and the same input under another template. But a template that was written into plain text, without
    parts of kinds, counts as the text that it has become: its rows stay if their replies differ.

    A row is held against kept rows only, never against dropped ones, so that no chain of small steps drops what differs
    from all that is left. Similarity is exact, nothing is missed (see `scorers.nearness`). One word changed in the
    middle of 29 is just near at 0.8 and three words. Letter case and signs do not count, so that rows which teach signs
    want no such check; but a text of fewer than n words is near only to one that has the same signs.
    Reasons: near_duplicate; the detail has the similarity and the kept row.

    Args:
        threshold: from which share of common n-grams on (of all that either has) two texts are near, above 0 to 1.
        n: words in an n-gram (characters in scripts written without spaces).
    """

    def check(examples: Sequence[Example]) -> list[Verdict]:
        found = nearest([dict(_texts(example)) for example in examples], threshold=threshold, n=n)
        return [
            Verdict.drop(
                "near_duplicate",
                f"{near.similarity:.2f} of the words' {n}-grams shared with {examples[near.place].row}",
            )
            if near
            else KEEP
            for near in found
        ]

    return check


def _texts(example: Example) -> Iterator[tuple[str, str]]:
    """All content in texts that are compared each by itself: (what it is, text)."""
    for what, turns in (("turn", example.messages), ("rejected", example.rejected)):
        for place, turn in enumerate(turns):
            for kind, text in _by_kind(turn):
                yield f"{what} {place} {turn.role} {kind}", text
    for what, texts in (("target", example.targets), ("choice", example.choices), ("ranked", example.ranked)):
        for place, text in enumerate(texts):
            yield f"{what} {place}", text
    yield "thumb", str(example.thumb)


def _by_kind(message: Message) -> Iterator[tuple[str, str]]:
    """The message's text of each kind; what only holds parts apart is left out."""
    kinds = dict.fromkeys(part.kind for part in message.parts if part.text.strip())
    for kind in kinds or ["text"]:
        yield kind, join_parts(part for part in message.parts if part.kind == kind)

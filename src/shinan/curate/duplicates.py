"""The check for rows that say the same thing twice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from shinan.core.example import Example, Message
from shinan.core.registry import register
from shinan.core.text import normalise as normal_form
from shinan.core.verdict import KEEP, Verdict
from shinan.curate.checks import Check


@register("check", "exact_duplicates", version=1)
def exact_duplicates(*, normalise: bool = True) -> Check:
    """Drops every row whose content an earlier row already has, and names that row.

    Reasons: duplicate (the same content, so the same id), duplicate_text (the same but for letter case, width and
    white space).

    Args:
        normalise: also compare texts after normalising. Switch it off where case or white space is what a row teaches.
    """

    def check(examples: Sequence[Example]) -> list[Verdict]:
        by_id: dict[str, Example] = {}
        by_text: dict[Hashable, Example] = {}
        verdicts = []
        for example in examples:
            if first := by_id.get(example.id):
                verdicts.append(Verdict.drop("duplicate", f"same as {first.row}"))
            elif normalise and (first := by_text.get(_text_key(example))):
                verdicts.append(Verdict.drop("duplicate_text", f"same as {first.row} but for form"))
            else:
                by_id[example.id] = example
                by_text[_text_key(example)] = example
                verdicts.append(KEEP)
        return verdicts

    return check


def _text_key(example: Example) -> Hashable:
    """All content, normalised; how a message is cut into parts does not matter."""
    lists = (example.targets, example.choices, example.ranked)
    return (
        _turns(example.messages),
        _turns(example.rejected),
        tuple(tuple(normal_form(text) for text in texts) for texts in lists),
        example.thumb,
    )


def _turns(messages: Sequence[Message]) -> Hashable:
    return tuple((message.role, normal_form(message.text)) for message in messages)

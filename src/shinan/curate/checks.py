"""What a check is, and the check of a row's structure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from pydantic import PositiveInt

from shinan.core.example import Example, Message
from shinan.core.registry import register
from shinan.core.text import normalise, words
from shinan.core.verdict import KEEP, Verdict

Check = Callable[[Sequence[Example]], list[Verdict]]
"""Judges a whole list at once and gives one verdict a row, in order."""

# Unicode's control characters but tab, line feed and carriage return; and lone surrogates, which cannot be stored.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_REPLACEMENT = "\ufffd"  # what a decoder writes where it lost a character


@register("check", "structure", version=1)
def structure(*, max_words: PositiveInt = 2048) -> Check:
    """Drops rows that cannot teach: no reply, wrong turn order, empty turns, an echo, damaged text, too long.

    Reasons: no_messages, control_character, replacement_character, empty_turn, role_order, no_reply, reply_is_prompt,
    too_long.

    Args:
        max_words: the longest row kept, in words over all turns (a character of an unspaced script counts as a word).
    """

    def check(examples: Sequence[Example]) -> list[Verdict]:
        return [next(_faults(example, max_words), KEEP) for example in examples]

    return check


def _faults(example: Example, max_words: int) -> Iterator[Verdict]:
    """Everything wrong with a row, the most basic first."""
    if not example.messages:
        yield Verdict.drop("no_messages")
        return
    for place, message in enumerate((*example.messages, *example.rejected), start=1):
        yield from _damage(message, f"turn {place} ({message.role})")
    yield from _disorder(example.messages)
    if example.reply is None:
        yield Verdict.drop("no_reply", f"the last turn is {example.messages[-1].role}")
    elif example.prompt and normalise(example.reply) == normalise(example.prompt[-1].text):
        yield Verdict.drop("reply_is_prompt")
    length = sum(len(words(message.text)) for message in example.messages)
    if length > max_words:
        yield Verdict.drop("too_long", f"{length} words, more than {max_words}")


def _damage(message: Message, where: str) -> Iterator[Verdict]:
    text = message.text
    if found := _CONTROL.search(text):
        yield Verdict.drop("control_character", f"{where}: U+{ord(found[0]):04X} at character {found.start()}")
    if (place := text.find(_REPLACEMENT)) >= 0:
        yield Verdict.drop("replacement_character", f"{where}: U+FFFD at character {place}")
    if not text.strip():
        yield Verdict.drop("empty_turn", where)


def _disorder(messages: Sequence[Message]) -> Iterator[Verdict]:
    """Turns must be: at most one system turn at the start, then user and assistant by turns, the user first."""
    first = 1 if messages[0].role == "system" else 0
    for place, message in enumerate(messages[first:]):
        expected = "assistant" if place % 2 else "user"
        if message.role != expected:
            detail = f"turn {first + place + 1} is {message.role}, expected {expected}"
            yield Verdict.drop("role_order", detail)
            return

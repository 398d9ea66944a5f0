"""Guesses at what a text will say next, to be checked and never trusted: what followed when it last said the same.

A forward pass of a few tokens costs little more than that of one, so that the loop feeds a row's newest token with a
guess of the next ones behind it, and keeps those that it would have drawn anyway (speculative decoding, arXiv
2211.17192, with the text itself as the draft model: prompt lookup). Replies that quote their prompt, follow its
examples or go round in circles come out several tokens at a time; what is drawn does not change.
"""

from __future__ import annotations

from collections.abc import Iterable

_GRAMS = (3, 2)  # the last tokens that are looked up, the longer first
_FIRST, _MOST = 2, 8  # tokens in a row's first guess, and at most


class Lookup:
    """One text, prompt and reply so far. Guesses grow while they are right, and rest after they were wrong."""

    def __init__(self, ids: Iterable[int]) -> None:
        """Take the tokens of the prompt."""
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where it last went on after these tokens
        self._width = _FIRST
        self._misses = self._rest = 0
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        """The text goes on."""
        for token in ids:
            for size in _GRAMS:
                if len(self._ids) >= size:
                    self._after[tuple(self._ids[-size:])] = len(self._ids)
            self._ids.append(token)

    def guess(self, most: int) -> list[int]:
        """At most `most` tokens that may come next; none where the text gives no hint, or hints were wrong lately."""
        if self._rest:
            self._rest -= 1
            return []
        start = next((self._after[key] for size in _GRAMS if (key := tuple(self._ids[-size:])) in self._after), None)
        if start is None:
            return []
        made: list[int] = []
        for place in range(start, start + min(self._width, most)):  # which may run on into what it makes: a circle
            made.append(self._ids[place] if place < len(self._ids) else made[place - len(self._ids)])
        return made

    def judge(self, guessed: int, right: int) -> None:
        """`right` of `guessed` tokens, counted from the first, were drawn indeed."""
        if not guessed:
            return
        self._width = min(2 * self._width, _MOST) if right == guessed else max(right, 1)
        self._misses = 0 if right else self._misses + 1
        self._rest = self._misses

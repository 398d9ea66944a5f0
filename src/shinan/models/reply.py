"""The text of a reply while it is written: only what no later token can change.

Three things keep text back for a while: a character whose bytes lie in several tokens, a stop string of which only the
beginning is there, and what the chat format itself writes before a reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from shinan.models.tokenizer import Tokenizer

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet


class ReplyText:
    """Grows token by token; `text` is always a beginning of the final text.

    Attributes:
        text: what may be shown so far, without terminator and stop strings.
        tokens: how many tokens have been read to the end of their last character.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, stop_ids: Sequence[int] = (), stops: Sequence[str] = (), lead: str = ""
    ) -> None:
        """`stop_ids` and `stops` end the reply and are no part of it; `lead` is cut off its front if it is there."""
        self.text = ""
        self.tokens = 0
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._stops = tuple(stops)
        self._lead = lead
        self._pending: list[int] = []  # tokens since the last whole character
        self._decoded = 0  # characters of them that are in `_kept` or `text` already
        self._kept = ""  # whole characters that may still turn out to be a lead or a stop string
        self._ended = False

    def take(self, ids: Sequence[int]) -> bool:
        """Read the newest of `ids`. True if it ends the reply: a stop token, or the end of a stop string."""
        if ids[-1] in self._stop_ids:
            self.close()
            return True
        self._pending.append(ids[-1])
        text = self._tokenizer.decode(self._pending, place="inside")
        whole = text.rstrip(_BROKEN)
        self._grow(whole[self._decoded :])
        if whole == text:
            self.tokens += len(self._pending)
            self._pending, self._decoded = [], 0
        else:
            self._decoded = max(self._decoded, len(whole))
        return self._ended

    def close(self) -> None:
        """Nothing follows: what was kept back is text after all."""
        if not self._ended:
            self._grow(self._tokenizer.decode(self._pending, place="inside")[self._decoded :])
        if not self._ended:
            self.text += self._kept
            self._ended = True

    def _grow(self, new: str) -> None:
        self._kept += new
        if self._lead:
            if len(self._kept) < len(self._lead) and self._lead.startswith(self._kept):
                return
            self._kept, self._lead = self._kept.removeprefix(self._lead), ""
        ends = [at for stop in self._stops if (at := self._kept.find(stop)) >= 0]
        self._ended = bool(ends)
        settled = min(ends) if ends else len(self._kept) - self._doubtful()
        self.text += self._kept[:settled]
        self._kept = self._kept[settled:]

    def _doubtful(self) -> int:
        """Length of the longest end of the kept text with which a stop string begins."""
        longest = min(len(self._kept), max((len(stop) for stop in self._stops), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if self._ends_in_part(n)), 0)

    def _ends_in_part(self, n: int) -> bool:
        return any(stop.startswith(self._kept[-n:]) for stop in self._stops)

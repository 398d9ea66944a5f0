"""The base of every chat format: messages -> ids and mask, made together, stretch by stretch.

A format lays a conversation out as `Piece`s; here they become ids, mask and spans in one pass, so that these cannot
disagree. The text before a reply and the reply are always separate pieces, in training as in serving: the prompt's ids
are therefore a prefix of the full rendering's ids, whatever the texts are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shinan.core.errors import DataError
from shinan.core.example import Message, Part, Role
from shinan.models.tokenizer import Place, Tokenizer

_PROBE = "\uf8ff"  # stands for a text that is not written yet: a private-use character, which no template knows


class Piece(NamedTuple):
    """A stretch that is encoded by itself: plain text, or the id of a special token.

    `message` is the index of the message whose span it belongs to, if any; `trained` says whether the loss covers it;
    `begins`, whether it is encoded as the beginning of a text, wherever it stands.
    """

    value: str | int
    message: int | None = None
    trained: bool = False
    begins: bool = False


class Span(NamedTuple):
    """The tokens of message number `message`: ids[start:end].

    For assistant turns and trained ones: content and terminator, exactly what a model writes. For other turns: the
    whole turn with its markers. A system text that a format puts inside the first user turn is part of that span.
    """

    message: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model sees it.

    Attributes:
        ids: token ids, with exactly one bos if the model's texts begin with one.
        mask: for each id whether the loss covers it: the content and the terminator of trained turns, nothing else.
        spans: where each message lies, in order.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, eq=False)
class ChatFormat(ABC):
    """How a conversation is written for one tokenizer. Training, evaluation, serving and export share one instance.

    Attributes:
        name: the format's name in recipes.
        tokenizer: what it writes with.
        stop_ids: ids that end a reply: the terminator of an assistant turn first, then eos.
        stop_strings: texts that end a reply of a model that was not taught the terminator.
        trainable: roles whose turns end with a terminator and can therefore be trained.
        jinja: a Jinja chat template that writes the same, for other servers, or None. Such a template sees a turn as
            one text; only formats that set a turn's `input` part apart write more than it can.
    """

    name: str
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]
    stop_strings: tuple[str, ...]
    trainable: frozenset[Role]
    jinja: str | None

    def render(self, messages: Sequence[Message]) -> Rendered:
        """A conversation with its mask.

        Raises DataError for roles out of order, an empty user turn, an empty trained turn, a trained turn that the
        format cannot train, or a trained reply that holds one of `stop_strings` (serving would cut it there).
        """
        self._check(messages)
        for index, message in enumerate(messages):
            if message.trained:
                self._check_trained(message, _place_of(index, message))
        return _assemble(self.tokenizer, self._pieces(messages, opens=False))

    def render_prompt(self, messages: Sequence[Message], prefill: str = "") -> tuple[int, ...]:
        """The ids after which the model writes its reply to the last user turn.

        Equal, id for id, to the start of `render(messages + (reply,))` up to the reply's first token. `prefill` is the
        beginning of the reply, encoded after it.

        Raises DataError for roles out of order, an empty user turn, or a last turn that is not the user's.
        """
        self._check(messages)
        if messages[-1].role != "user":
            raise DataError(
                "a prompt must end with a user turn",
                where=_place_of(len(messages) - 1, messages[-1]),
                fix="drop the reply, or give its beginning as prefill",
            )
        pieces = self._pieces(messages, opens=True)
        if prefill:
            pieces += self._opening(messages, prefill)
        return _assemble(self.tokenizer, pieces).ids

    def render_question(self, messages: Sequence[Message] = ()) -> tuple[int, ...]:
        """The ids after which the model writes the user's next turn itself: its markers, and nothing of its text.

        What Magpie asks with (Xu et al. 2024, arXiv 2406.08464, section 2.1). Raises DataError for roles out of order.
        """
        asked = [*messages, Message("user", (Part(_PROBE),))]
        self._check(asked)
        pieces: list[Piece] = []
        for piece in self._pieces(asked, opens=False):
            if isinstance(piece.value, str) and _PROBE in piece.value:
                pieces.append(Piece(piece.value.partition(_PROBE)[0]))
                break
            pieces.append(piece)
        return _assemble(self.tokenizer, pieces).ids

    def render_text(self, text: str, prefill: str = "") -> tuple[int, ...]:
        """The ids of a raw text to go on with, and of `prefill`, with which the continuation begins.

        To a model without an encoder they are one text, after a bos where its texts begin with one.
        """
        return _assemble(self.tokenizer, self._text(text, prefill)).ids

    def split(self, messages: Sequence[Message]) -> list[Sequence[Message]]:
        """The conversation as those that `render` trains one by one: itself, unless an encoder reads the prompt."""
        return [messages]

    def source(self, ids: Sequence[int]) -> int:
        """How many of these ids, from the first on, an encoder reads; 0 for a model without one."""
        return 0

    def lead(self, messages: Sequence[Message]) -> str:
        """What stands before the content of the reply to `messages` and is written by the model, as the blank in
        `Output: yes`. To be cut off from the front of a reply that was decoded; a prefill comes after it.
        """
        return ""

    @abstractmethod
    def _pieces(self, messages: Sequence[Message], *, opens: bool) -> list[Piece]:
        """Lay out a checked conversation; with `opens`, up to where the next reply begins."""

    def _text(self, text: str, prefill: str) -> list[Piece]:
        bos = [Piece(self.tokenizer.bos_id)] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
        return [*bos, Piece(text + prefill, begins=True)]

    def _opening(self, messages: Sequence[Message], prefill: str) -> list[Piece]:
        return [Piece(self.lead(messages) + prefill)]

    def _check(self, messages: Sequence[Message]) -> None:
        """System first only, then user and assistant in turn; no empty system or user turn."""
        due = "user"
        for index, message in enumerate(messages):
            place = _place_of(index, message)
            if message.role != "assistant" and not message.text.strip():
                raise DataError(f"an empty {message.role} turn", where=place, fix="drop the turn or the row")
            if index == 0 and message.role == "system":
                continue
            if message.role != due:
                raise DataError(
                    f"a turn of the {due} is due here",
                    where=place,
                    fix="begin with at most one system turn, then let user and assistant take turns",
                )
            due = "assistant" if due == "user" else "user"
        if all(message.role == "system" for message in messages):
            raise DataError("no user turn" if messages else "no messages", fix="give at least one user turn")

    def _check_trained(self, message: Message, place: str) -> None:
        if message.role not in self.trainable:
            raise DataError(
                f"format {self.name!r} cannot train a {message.role} turn: nothing marks its end",
                where=place,
                fix="set train: false on it",
            )
        if not message.text.strip():
            raise DataError("an empty trained turn", where=place, fix="drop the row, or set train: false on the turn")
        for stop in self.stop_strings:
            if stop in message.text:
                raise DataError(
                    f"the reply holds {stop!r}, at which format {self.name!r} stops: it would be cut when served",
                    where=place,
                    fix="use another chat format, or drop the row",
                )


def _place_of(index: int, message: Message) -> str:
    return f"message {index + 1} ({message.role})"


def _assemble(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> Rendered:
    """Encode the pieces in order; ids, mask and spans grow together."""
    ids: list[int] = []
    mask: list[bool] = []
    spans: list[Span] = []
    place: Place = "start"
    for value, message, trained, begins in pieces:
        if value == "":
            continue
        here = "start" if begins else place
        new = [value] if isinstance(value, int) else tokenizer.encode(value, place=here)
        place = "after_special" if isinstance(value, int) else "inside"
        if message is not None:
            start = len(ids)
            if spans and spans[-1].message == message:
                start = spans.pop().start
            spans.append(Span(message, start, len(ids) + len(new)))
        ids += new
        mask += [trained] * len(new)
    return Rendered(tuple(ids), tuple(mask), tuple(spans))


def stops(terminator: int, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end a reply: the format's terminator, and eos if that is another token."""
    return tuple(dict.fromkeys(id_ for id_ in (terminator, tokenizer.eos_id) if id_ is not None))

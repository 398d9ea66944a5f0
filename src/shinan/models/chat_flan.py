"""The chat format `flan`, for encoder-decoders: the encoder reads the prompt, the decoder writes the reply.

As FLAN-T5 was tuned (Chung et al. 2022, arXiv 2210.11416): the prompt is plain text, instruction and input without any
marker, ended by eos; the reply is text ended by eos. What the decoder begins with is the model's own: T5's padding
token, BART's eos and bos. FLAN has no turns; here a system text is a first paragraph, and where turns came before, all
of them are paragraphs that begin with `User: ` or `Assistant: `.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from shinan.core.errors import DataError
from shinan.core.example import Message
from shinan.models.rendering import ChatFormat, Piece, Rendered, stops
from shinan.models.tokenizer import Tokenizer

_NAMES = {"user": "User: ", "assistant": "Assistant: "}


@dataclass(frozen=True, eq=False)
class FlanFormat(ChatFormat):
    """Prompt and reply as two texts. Each is encoded as a whole, as the model's own tokenizer would."""

    eos: int
    start: int

    def split(self, messages: Sequence[Message]) -> list[Sequence[Message]]:
        """One conversation for each trained reply, which stands last; what came before it is not trained there."""
        ends = [index for index, message in enumerate(messages) if message.trained]
        before = [replace(message, train=False) for message in messages]
        return [[*before[:end], messages[end]] for end in ends] or [messages]

    def render(self, messages: Sequence[Message]) -> Rendered:
        """See `ChatFormat.render`. Raises DataError also for a trained turn that is not the last one: see `split`."""
        for index, message in enumerate(messages[:-1]):
            if message.trained and message.role == "assistant":
                raise DataError(
                    "an encoder-decoder writes one reply, the last one: earlier turns cannot be trained with it",
                    where=f"message {index + 1} ({message.role})",
                    fix="set train: false on it, or make each reply a row",
                )
        return super().render(messages)

    def render_question(self, messages: Sequence[Message] = ()) -> tuple[int, ...]:
        """Raises DataError: there is nothing after which an encoder-decoder would write the user's turn."""
        raise DataError("an encoder-decoder writes replies only, not the user's turns", fix="use a decoder-only model")

    def source(self, ids: Sequence[int]) -> int:
        """See `ChatFormat.source`: up to the first eos, which text never becomes."""
        return ids.index(self.eos) + 1

    def lead(self, messages: Sequence[Message]) -> str:
        """The blank with which some tokenizers begin a text."""
        return " " if self.tokenizer.decode(self.tokenizer.encode("a"), place="inside").startswith(" ") else ""

    def _pieces(self, messages: Sequence[Message], *, opens: bool) -> list[Piece]:
        replies = not opens and messages[-1].role == "assistant"
        prompt, reply = (messages[:-1], messages[-1]) if replies else (messages, None)
        last = max(index for index, message in enumerate(prompt) if message.role == "user")
        pieces = self._text(_text(prompt), "", last)
        if reply:
            index = len(messages) - 1
            pieces += [Piece(reply.text, index, reply.trained, True), Piece(self.eos, index, reply.trained)]
        return pieces

    def _text(self, text: str, prefill: str, message: int | None = None) -> list[Piece]:
        bos = super()._text("", "")
        encoder = [*bos, Piece(text, message, False, True), Piece(self.eos, message)]
        return [*encoder, Piece(self.start), *bos, *self._opening([], prefill)]

    def _opening(self, messages: Sequence[Message], prefill: str) -> list[Piece]:
        return [Piece(prefill, begins=True)]


def _text(prompt: Sequence[Message]) -> str:
    """What the encoder reads of a conversation."""
    labelled = sum(message.role != "system" for message in prompt) > 1
    return "\n\n".join((_NAMES.get(message.role, "") if labelled else "") + message.text for message in prompt)


def flan_format(tokenizer: Tokenizer) -> FlanFormat:
    """The format of a tokenizer with eos whose model has an encoder."""
    eos, start = cast(tuple[int, int], (tokenizer.eos_id, tokenizer.decoder_start))
    return FlanFormat(
        name="flan",
        tokenizer=tokenizer,
        stop_ids=stops(eos, tokenizer),
        stop_strings=(),
        trainable=frozenset({"assistant"}),
        jinja=None,  # a template writes one text
        eos=eos,
        start=start,
    )

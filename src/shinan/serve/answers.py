"""From tickets to what OpenAI's clients expect: a whole answer, or the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from shinan.serve.engine import Ticket
from shinan.serve.protocol import ChatBody, CompletionBody
from shinan.serve.served import Served

Json = dict[str, Any]

_PART = "\ufffd"  # a token in the middle of a character; clients tell tokens of a stretch by offset and length
_LEAST = -9999.0  # OpenAI's stand-in for minus infinity, which JSON lacks


class Token(NamedTuple):
    """A token as it is told.

    Attributes:
        text: its part of the choice's text; a character of several tokens stands at the last of them.
        logprob: natural-log probability, None for the first of all.
        top: the likeliest tokens in its place, the likeliest first.
    """

    text: str
    logprob: float | None
    top: list[tuple[str, float]]


@dataclass(slots=True)
class _Sent:
    """What has been told of a choice: characters, tokens, the characters of those tokens."""

    chars: int = 0
    tokens: int = 0
    offset: int = 0
    ended: bool = False


class Answers(ABC):
    """The answer to one request in the shape of its route: either `whole`, or a stream of `news`."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    id_prefix: ClassVar[str]

    def __init__(self, served: Served, tickets: Sequence[Ticket], *, logprobs: bool) -> None:
        """`logprobs`: whether tokens are told beside the text."""
        self.tickets = tickets
        self._served = served
        self._tokenizer = served.chat.tokenizer
        self._logprobs = logprobs
        self._sent = [_Sent() for _ in tickets]
        self._id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self) -> Json:
        """Every choice, once all tickets have ended, and the numbers of tokens."""
        choices = [self._choice(index, *self._new(index)) for index in range(len(self.tickets))]
        return self._head(self.kind) | {"choices": choices, "usage": self._usage()}

    def opening(self) -> Iterator[Json]:
        """What a stream begins with, before anything is written."""
        yield from ()

    def news(self) -> Iterator[Json]:
        """Chunks with what is new since the last call: whole characters only, and no part of a stop string."""
        for index, (ticket, sent) in enumerate(zip(self.tickets, self._sent, strict=True)):
            finish = ticket.finish  # looked at before the text, as it is set last
            if sent.ended or not (finish or ticket.row.ids):
                continue
            text, told = self._new(index)
            if text or finish:
                sent.ended = bool(finish)
                yield self._head(self.chunk_kind) | {"choices": [self._delta(index, text, told, finish or None)]}

    def closing(self) -> Json:
        """A chunk after the last, with the numbers of tokens."""
        return self._head(self.chunk_kind) | {"choices": [], "usage": self._usage()}

    @abstractmethod
    def _choice(self, index: int, text: str, told: Json | None) -> Json:
        """A whole choice; `told`: its tokens in the route's own form."""

    @abstractmethod
    def _delta(self, index: int, text: str, told: Json | None, finish: str | None) -> Json:
        """A choice of a chunk."""

    @abstractmethod
    def _told(self, tokens: Sequence[Token], offset: int) -> Json:
        """Tokens in the route's own form; the first stands at character `offset` of the choice."""

    def _new(self, index: int) -> tuple[str, Json | None]:
        """Text and tokens of a choice that were not told before."""
        ticket, sent = self.tickets[index], self._sent[index]
        finished = bool(ticket.finish)
        text = self._prefix(ticket) + ticket.reply.text
        new, told = text[sent.chars :], None
        sent.chars = len(text)
        if self._logprobs and (new or finished):
            tokens = self._tokens(ticket, sent.tokens, finished)
            told = self._told(tokens, sent.offset)
            sent.tokens += len(tokens)
            sent.offset += sum(len(token.text) for token in tokens)
        return new, told

    def _prefix(self, ticket: Ticket) -> str:
        """What a choice's text begins with before the reply."""
        return ""

    def _tokens(self, ticket: Ticket, start: int, finished: bool) -> list[Token]:
        """The reply's tokens from number `start` on, as far as their characters are whole; without terminator."""
        row = ticket.row
        ended = finished and row.ids[-1:] and row.ids[-1] in self._served.chat.stop_ids
        end = len(row.ids) - bool(ended) if finished else ticket.reply.tokens
        tops = row.tops[start:end] or [[]] * (end - start)
        return self._named(row.ids[start:end], row.logprobs[start:end], tops)

    def _named(
        self, ids: Sequence[int], logprobs: Iterable[float | None], tops: Iterable[Sequence[tuple[int, float]]]
    ) -> list[Token]:
        texts = self._tokenizer.pieces(ids)
        return [
            Token(text, logprob, [(self._text_of(other), value) for other, value in top])
            for text, logprob, top in zip(texts, logprobs, tops, strict=True)
        ]

    def _text_of(self, token: int) -> str:
        return self._tokenizer.decode([token], keep_special=True, place="inside")

    def _head(self, kind: str) -> Json:
        made = {"id": self._id, "object": kind, "created": self._created, "model": self._served.name}
        return made | {"system_fingerprint": self._served.card.fingerprint}

    def _usage(self) -> Json:
        """Tokens read (a prompt once, however many its choices) and written, terminators included."""
        prompts = {id(ticket.row.prompt): len(ticket.row.prompt) for ticket in self.tickets}
        read, written = sum(prompts.values()), sum(len(ticket.row.ids) for ticket in self.tickets)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class ChatAnswers(Answers):
    """The answer of `/v1/chat/completions`."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(self, served: Served, tickets: Sequence[Ticket], body: ChatBody) -> None:
        super().__init__(served, tickets, logprobs=body.logprobs)

    def opening(self) -> Iterator[Json]:
        """The role of each choice."""
        for index in range(len(self.tickets)):
            delta = {"role": "assistant", "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            yield self._head(self.chunk_kind) | {"choices": [choice]}

    def _choice(self, index: int, text: str, told: Json | None) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        finish = self.tickets[index].finish
        return {"index": index, "message": message, "logprobs": told, "finish_reason": finish}

    def _delta(self, index: int, text: str, told: Json | None, finish: str | None) -> Json:
        delta = {"content": text} if text else {}
        return {"index": index, "delta": delta, "logprobs": told, "finish_reason": finish}

    def _told(self, tokens: Sequence[Token], offset: int) -> Json:
        content = [
            _entry(token.text, token.logprob) | {"top_logprobs": [_entry(text, value) for text, value in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


def _entry(text: str, logprob: float | None) -> Json:
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}


class CompletionAnswers(Answers):
    """The answer of `/v1/completions`; with `echo` each choice begins with its prompt."""

    kind = "text_completion"
    chunk_kind = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, served: Served, tickets: Sequence[Ticket], body: CompletionBody) -> None:
        super().__init__(served, tickets, logprobs=body.logprobs is not None)
        self._echoed: dict[Ticket, str] = {}
        if body.echo:
            texts = [self._spelt(prompt) for prompt in body.prompts for _ in range(body.n)]
            self._echoed = dict(zip(tickets, texts, strict=True))

    def _spelt(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt, keep_special=True, place="inside")

    def _choice(self, index: int, text: str, told: Json | None) -> Json:
        return self._delta(index, text, told, self.tickets[index].finish)

    def _delta(self, index: int, text: str, told: Json | None, finish: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": told, "finish_reason": finish}

    def _prefix(self, ticket: Ticket) -> str:
        return self._echoed.get(ticket, "")

    def _tokens(self, ticket: Ticket, start: int, finished: bool) -> list[Token]:
        """The prompt's tokens first, if it is echoed."""
        front = len(ticket.prompt)
        if start >= front:
            return super()._tokens(ticket, start - front, finished)
        return self._read(ticket)[start:] + super()._tokens(ticket, 0, finished)

    def _read(self, ticket: Ticket) -> list[Token]:
        """The prompt's tokens. What the model reads before the prompt's own text (a bos) is no part of it."""
        ids, logprobs, tops = zip(*ticket.prompt, strict=True)
        tokens = self._named(ids, logprobs, tops)
        excess = max(0, sum(len(token.text) for token in tokens) - len(self._prefix(ticket)))
        for number, token in enumerate(tokens):
            cut = min(excess, len(token.text))
            tokens[number] = token._replace(text=token.text[cut:])
            excess -= cut
        return tokens

    def _told(self, tokens: Sequence[Token], offset: int) -> Json:
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return {
            "tokens": [token.text or _PART * (token.logprob is not None) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_likeliest(token) for token in tokens],
            "text_offset": offsets,
        }


def _likeliest(token: Token) -> dict[str, float] | None:
    """The likeliest tokens and the one that stands there, as OpenAI does; of two with one text, the likelier."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for text, logprob in (*token.top, (token.text, token.logprob)):
        found.setdefault(text, max(logprob, _LEAST))
    return found


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, _LEAST)

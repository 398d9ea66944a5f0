"""A transformers model on this machine as a Generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shinan.core.errors import DataError
from shinan.models.decode import DecodeLoop, Row
from shinan.models.decoder import Decoder
from shinan.models.generator import Completion, Done, Finish, Likelihood, Question, Request, check_options
from shinan.models.likelihood import Continuation, likelihoods
from shinan.models.rendering import ChatFormat
from shinan.models.structured import JsonFilter


@dataclass(frozen=True, slots=True)
class LocalGenerator:
    """Continues requests with a causal LM, `batch_size` at a time: as one ends, the next begins.

    Attributes:
        name: the model's name, for provenance and logs.
        model: transformers causal LM in eval mode.
        chat: how conversations are written; its stops end a reply.
        batch_size: rows decoded together. Larger is faster until memory runs out.
    """

    name: str
    model: Any
    chat: ChatFormat
    batch_size: int = 32

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """See `Generator.generate`; `done` is told of each reply in the step that ends it.

        Raises DataError for a request that asks nothing, or that the chat format cannot write.
        """
        rows = [self._row(request) for request in requests]
        index = {id(row): i for i, row in enumerate(rows)}
        replies: dict[int, Completion] = {}
        loop = DecodeLoop(self.model, slots=self.batch_size)
        for row in sorted(rows, key=lambda row: tuple(row.prompt)):  # those that begin alike run together
            loop.add(row)
        while not loop.idle:
            for row in loop.step():
                i = index[id(row)]
                replies[i] = self._completion(requests[i], row)
                if done:
                    done(i, replies[i])
        return [replies[i] for i in range(len(rows))]

    def score(self, questions: Sequence[Question]) -> list[tuple[Likelihood, ...]]:
        """See `Generator.score`. Raises also what the chat format raises for a conversation that it cannot write."""
        check_options(questions)
        continuations = [
            [self._continuation(question, option) for option in question.options] for question in questions
        ]
        return likelihoods(Decoder(self.model), continuations)

    def _continuation(self, question: Question, option: str) -> Continuation:
        """The ids of the stem and of the option."""
        if question.messages:
            stem = self.chat.render_prompt(question.messages)
            return stem, self.chat.render_prompt(question.messages, option)[len(stem) :]
        text = question.prompt.rstrip()
        begin = self._begin()
        whole = begin + self.chat.tokenizer.encode(question.prompt + option)
        stem_ids = begin + self.chat.tokenizer.encode(text) if text else begin
        if not stem_ids or len(whole) == 1:  # something must stand before the first token: an end of text does
            eos = self.chat.tokenizer.eos_id or 0
            stem_ids, whole = [eos, *stem_ids], [eos, *whole]
        size = min(len(stem_ids), len(whole) - 1)  # a token may span the two: then the option has it
        return whole[:size], whole[size:]

    def _begin(self) -> list[int]:
        """What a raw text begins with."""
        tokenizer = self.chat.tokenizer
        return [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []

    def _row(self, request: Request) -> Row:
        if request.as_user:
            prompt: Sequence[int] = self.chat.render_question(request.messages)
        elif request.messages:
            prompt = self.chat.render_prompt(request.messages, request.prefill)
        elif text := request.prompt + request.prefill:
            prompt = self._begin() + self.chat.tokenizer.encode(text)
        else:
            raise DataError("the request has neither messages nor a prompt", fix="give one of the two")
        return Row(prompt, request.sampling, request.seed, self._stopper(request), self._filter(request))

    def _filter(self, request: Request) -> JsonFilter | None:
        if not request.schema:
            return None
        return JsonFilter(self.chat.tokenizer, self.chat.stop_ids, request.schema, request.prefill)

    def _stopper(self, request: Request) -> Callable[[list[int]], bool]:
        """True once the newest token ends the reply, or the newest text holds a stop string."""
        stop_ids = frozenset(self.chat.stop_ids)
        strings = self._stop_strings(request)
        # A stop string of n bytes lies within the last n tokens (each has at least one byte) and the one before.
        tail = 1 + max((len(text.encode()) for text in strings), default=0)

        def stopped(ids: list[int]) -> bool:
            if ids[-1] in stop_ids:
                return True
            recent = self.chat.tokenizer.decode(ids[-tail:], place="inside") if strings else ""
            return any(text in recent for text in strings)

        return stopped

    def _stop_strings(self, request: Request) -> tuple[str, ...]:
        """The request's and the format's; a schema says itself where the reply ends."""
        return request.stop + (self.chat.stop_strings if request.messages and not request.schema else ())

    def _completion(self, request: Request, row: Row) -> Completion:
        ids = row.ids[:-1] if row.ids and row.ids[-1] in self.chat.stop_ids else row.ids
        text = self.chat.tokenizer.decode(ids, place="inside")
        if request.messages and not request.prefill:
            text = text.removeprefix(self.chat.lead(request.messages))
        ends = [at for stop in self._stop_strings(request) if (at := text.find(stop)) >= 0]
        text = text[: min(ends, default=len(text))]
        finish: Finish = "stop" if row.finish == "stop" else "length"
        return Completion(
            request.prefill + text, tuple(row.ids), tuple(row.logprobs), finish, len(row.prompt), len(row.ids)
        )

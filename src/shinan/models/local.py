"""A transformers model on this machine as a Generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shinan.core.errors import DataError
from shinan.models.decode import Row
from shinan.models.family import check_vocabulary, decoder_of, loop_of
from shinan.models.generator import Completion, Done, Finish, Likelihood, Question, Request, check_options
from shinan.models.likelihood import Continuation, likelihoods
from shinan.models.rendering import ChatFormat
from shinan.models.reply import ReplyText
from shinan.models.structured import JsonFilter


@dataclass(frozen=True, slots=True)
class LocalGenerator:
    """Continues requests with a causal LM or an encoder-decoder, `batch_size` at a time: as one ends, the next begins.

    Attributes:
        name: the model's name, for provenance and logs.
        model: transformers model in eval mode.
        chat: how conversations are written; its stops end a reply.
        batch_size: rows decoded together. Larger is faster until memory runs out.
    """

    name: str
    model: Any
    chat: ChatFormat
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Raises ModelError if the tokenizer writes tokens that the model lacks."""
        check_vocabulary(self.model, self.chat.tokenizer)

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """See `Generator.generate`; `done` is told of each reply in the step that ends it.

        Raises DataError for a request that asks nothing, or that the chat format cannot write.
        """
        rows, texts = zip(*map(self._row, requests), strict=True) if requests else ((), ())
        index = {id(row): i for i, row in enumerate(rows)}
        replies: dict[int, Completion] = {}
        loop = loop_of(self.model, slots=self.batch_size)
        for row in sorted(rows, key=lambda row: tuple(row.prompt)):  # those that begin alike run together
            loop.add(row)
        while not loop.idle:
            for row in loop.step():
                i = index[id(row)]
                replies[i] = self._completion(requests[i], row, texts[i])
                if done:
                    done(i, replies[i])
        return [replies[i] for i in range(len(rows))]

    def score(self, questions: Sequence[Question]) -> list[tuple[Likelihood, ...]]:
        """See `Generator.score`. Raises also what the chat format raises for a conversation that it cannot write."""
        check_options(questions)
        continuations = [
            [self._continuation(question, option) for option in question.options] for question in questions
        ]
        return likelihoods(decoder_of(self.model), continuations)

    def _continuation(self, question: Question, option: str) -> Continuation:
        """The ids of the stem and of the option."""
        if question.messages:
            stem = self.chat.render_prompt(question.messages)
            whole = self.chat.render_prompt(question.messages, option)
            return Continuation(stem, whole[len(stem) :], self.chat.source(stem))
        text = question.prompt.rstrip()
        stem = self.chat.render_text(text)
        if source := self.chat.source(stem):
            whole = self.chat.render_text(text, question.prompt[len(text) :] + option)
            return Continuation(stem, whole[len(stem) :], source)
        whole = self.chat.render_text(question.prompt + option)
        if not stem or len(whole) == 1:  # something must stand before the first token: an end of text does
            eos = self.chat.tokenizer.eos_id or 0
            stem, whole = (eos, *stem), (eos, *whole)
        size = min(len(stem), len(whole) - 1)  # a token may span the two: then the option has it
        return Continuation(whole[:size], whole[size:])

    def _row(self, request: Request) -> tuple[Row, ReplyText]:
        """The row of a request, and what its tokens are read into."""
        if request.as_user:
            prompt: Sequence[int] = self.chat.render_question(request.messages)
        elif request.messages:
            prompt = self.chat.render_prompt(request.messages, request.prefill)
        elif request.prompt or request.prefill:
            prompt = self.chat.render_text(request.prompt, request.prefill)
        else:
            raise DataError("the request has neither messages nor a prompt", fix="give one of the two")
        reply = self._reply(request)
        source = self.chat.source(prompt)
        return Row(prompt, request.sampling, request.seed, reply.take, self._filter(request), source=source), reply

    def _filter(self, request: Request) -> JsonFilter | None:
        if not request.schema:
            return None
        return JsonFilter(self.chat.tokenizer, self.chat.stop_ids, request.schema, request.prefill)

    def _stop_strings(self, request: Request) -> tuple[str, ...]:
        """The request's and the format's; a schema says itself where the reply ends."""
        return request.stop + (self.chat.stop_strings if request.messages and not request.schema else ())

    def _reply(self, request: Request) -> ReplyText:
        answers = request.messages and not request.prefill and not request.as_user
        lead = self.chat.lead(request.messages) if answers else ""
        stops = self._stop_strings(request)
        return ReplyText(self.chat.tokenizer, stop_ids=self.chat.stop_ids, stops=stops, lead=lead)

    def _completion(self, request: Request, row: Row, reply: ReplyText) -> Completion:
        reply.close()
        finish: Finish = "stop" if row.finish == "stop" else "length"
        text = request.prefill + reply.text
        return Completion(text, tuple(row.ids), tuple(row.logprobs), finish, len(row.prompt), len(row.ids))

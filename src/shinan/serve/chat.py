"""A conversation with a model: the turns so far, and the loop that reads questions and writes answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from shinan.core.errors import ModelError, ShinanError
from shinan.core.example import Message, assistant, system, user
from shinan.core.hashing import derive_seed
from shinan.models.endpoint import is_endpoint
from shinan.models.family import context_of
from shinan.models.generator import Completion, Generator, Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.open import Terms, open_generator
from shinan.models.rendering import ChatFormat

COMMANDS = "/reset begins a new conversation, /exit leaves"


@dataclass(slots=True)
class Conversation:
    """Turns with one model.

    Attributes:
        generator: the model.
        chat: how it writes conversations; None for an endpoint, which does that itself.
        sampling: how to draw.
        context: tokens that the model can attend to, where that is known.
        seed: every random draw derives from it and the number of the turn.
        opening: a system turn, or nothing.
        turns: questions and answers so far.
    """

    generator: Generator
    chat: ChatFormat | None
    sampling: Sampling
    context: int | None
    seed: int = 0
    opening: tuple[Message, ...] = ()
    turns: list[Message] = field(default_factory=list)

    def ask(self, question: str) -> Completion:
        """The model's answer; question and answer become turns.

        Raises ModelError if the context is too short, or if an endpoint has failed to answer.
        """
        turns = [*self.turns, user(question)]
        messages = (*self.opening, *turns)
        self._refuse_what_does_not_fit(messages)
        seed = derive_seed(self.seed, "chat", len(turns))
        [reply] = self.generator.generate([Request(messages, sampling=self.sampling, seed=seed)])
        if reply.finish == "failed":
            raise ModelError(reply.error, where=self.generator.name, fix="ask again, or see `shinan ledger --failed`")
        self.turns = [*turns, assistant(reply.text)]
        return reply

    def _refuse_what_does_not_fit(self, messages: Sequence[Message]) -> None:
        if self.chat is None or self.context is None:
            return
        needed = len(self.chat.render_prompt(messages)) + self.sampling.max_new_tokens
        if needed > self.context:
            what = f"the conversation and an answer may take {needed} tokens, the model has room for {self.context}"
            raise ModelError(what, fix="begin a new conversation with /reset, or lower --max-new-tokens")

    def reset(self) -> None:
        """Forget all turns; the system turn stays."""
        self.turns = []


def open_conversation(model: str, named: str | None, sampling: Sampling, *, seed: int, opening: str) -> Conversation:
    """A conversation with a model, in the chat format `named` or the one it was tuned with.

    Endpoints write their own format; their failures are asked again when the question is.

    Raises ModelError for a model that was tuned with none, unless one is named, and what `open_generator` raises.
    """
    generator = open_generator(model, chat=named, terms=Terms(retry_failed=is_endpoint(model)))
    local = generator if isinstance(generator, LocalGenerator) else None
    return Conversation(
        generator=generator,
        chat=local.chat if local else None,
        sampling=sampling,
        context=context_of(local.model) if local else None,
        seed=seed,
        opening=(system(opening),) if opening else (),
    )


def talk(
    conversation: Conversation,
    read: Callable[[], str | None],
    write: Callable[[str], None],
    note: Callable[[str], None],
    *,
    waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    patient: bool = False,
) -> None:
    """Answer one line after another until `read` gives None or `/exit`.

    `note` is told what is not an answer. With `patient`, also errors, and the talk goes on; else they are raised.
    The model works inside a `waiting` block.
    """
    while (line := read()) is not None:
        question = line.strip()
        if question == "/exit":
            return
        if question == "/reset":
            conversation.reset()
            note("a new conversation begins")
        elif question:
            try:
                with waiting():
                    reply = conversation.ask(question)
            except ShinanError as error:
                if not patient:
                    raise
                note(str(error))
                continue
            write(reply.text.strip())
            for remark in _remarks(reply):
                note(remark)


def _remarks(reply: Completion) -> Sequence[str]:
    """What a person should know of an answer and cannot see."""
    if reply.finish == "length":
        return [f"(cut after {reply.new_tokens} tokens; --max-new-tokens allows more)"]
    return [] if reply.text.strip() else ["(the answer is empty)"]

"""The Generator seam: requests -> completions, the one way in which text is asked of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from shinan.core.errors import DataError
from shinan.core.example import Message

Finish = Literal["stop", "length", "failed"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to continue. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 switch those filters off. `presence_penalty` is
    taken off the logits of tokens that the reply holds already, as OpenAI has it."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to continue: a conversation ending with a user turn, or a raw `prompt` (then `messages` is empty).

    Attributes:
        messages: the conversation.
        prompt: raw text for models without a chat format; where the model's texts begin with a bos, it gets one.
        prefill: text the reply must begin with; it is part of the returned text.
        stop: strings that end the reply; cut off from the returned text. The chat format's own stops apply as well,
            but for its stop strings where there is a schema.
        schema: a JSON schema, as JSON text, that the reply must satisfy; empty for free text.
        sampling: how to draw.
        seed: every random draw of this request comes from it, whatever else is in the batch.
        sample: tells several draws for the same prompt apart (best-of-n); 0 for the first.
        as_user: write the user's next turn and not a reply: after messages that end with a reply or a system turn, or
            after none.
    """

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    prefill: str = ""
    stop: tuple[str, ...] = ()
    schema: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    sample: int = 0
    as_user: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply, or the failure to get one: a request that fails takes no other with it.

    Attributes:
        text: the reply, without terminator and stop strings, with the prefill.
        ids: the new token ids as drawn, terminator included; empty where an endpoint does not tell them.
        logprobs: natural-log probability of each new token under the model (temperature 1), where known.
        finish: `stop` if the model ended by itself or met a stop string, `length` if it was cut, `failed` if there is
            no reply.
        prompt_tokens: length of the prompt in tokens.
        new_tokens: tokens generated, terminator included, as the model or the endpoint counts them.
        error: what went wrong, if it failed.
    """

    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: Finish = "stop"
    prompt_tokens: int = 0
    new_tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A stem with options: how likely is each option as its continuation?

    Attributes:
        messages: a conversation ending with a user turn; the options are replies.
        prompt: raw text, if there are no messages; the options continue it as they are.
        options: the continuations.
    """

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    options: tuple[str, ...] = ()


class Likelihood(NamedTuple):
    """How likely a continuation is: natural-log probability summed over its tokens, their number, and whether each of
    them was the most likely one."""

    logprob: float
    tokens: int
    greedy: bool


Done = Callable[[int, Completion], None]
"""Told (index of the request, its completion) as soon as it is there, in any order, perhaps from another thread."""


class Generator(Protocol):
    """Anything that continues requests. Its fake is `shinan.models.fake.FakeGenerator`."""

    @property
    def name(self) -> str:
        """The model's name, for provenance and logs."""
        ...

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """One completion a request, in the order of the requests; `done` is told of each before this returns."""
        ...

    def score(self, questions: Sequence[Question]) -> list[tuple[Likelihood, ...]]:
        """How likely the model finds each option of each question, in their order.

        To a conversation, an option is the beginning of the reply, as the chat format writes it, without the end of
        the turn. After a raw prompt, prompt and option are tokenised as one text; blanks at the end of the prompt
        count as the option's, as in lm-evaluation-harness.

        Raises DataError for a question without options or with an empty one.
        """
        ...


def check_options(questions: Sequence[Question]) -> None:
    """Raises DataError for a question without options or with an empty one: nothing has no likelihood."""
    for number, question in enumerate(questions, 1):
        where = f"question {number}"
        if not question.options:
            raise DataError("it has no options", where=where, fix="give it at least one")
        if "" in question.options:
            what = f"option {question.options.index('') + 1} is empty: no token is there to be likely or not"
            raise DataError(what, where=where, fix="drop the option, or write it out")

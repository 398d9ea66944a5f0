"""The Generator seam: requests -> completions, the one way in which text is asked of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from shinan.core.example import Message

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to continue. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 switch those filters off."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to continue: a conversation ending with a user turn, or a raw `prompt` (then `messages` is empty).

    Attributes:
        messages: the conversation.
        prompt: raw text for models without a chat format; where the model's texts begin with a bos, it gets one.
        prefill: text the reply must begin with; it is part of the returned text.
        stop: strings that end the reply; cut off from the returned text. The chat format's own stops always apply.
        sampling: how to draw.
        seed: every random draw of this request comes from it, whatever else is in the batch.
    """

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    prefill: str = ""
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply.

    Attributes:
        text: the reply, without terminator and stop strings, with the prefill.
        ids: the new token ids as drawn, terminator included.
        logprobs: natural-log probability of each of `ids` under the model (temperature 1).
        finish: `stop` if the model ended by itself or met a stop string, `length` if it was cut.
        prompt_tokens: length of the prompt in tokens.
    """

    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: Finish = "stop"
    prompt_tokens: int = 0


class Generator(Protocol):
    """Anything that continues requests. Its fake is `shinan.models.fake.FakeGenerator`."""

    @property
    def name(self) -> str:
        """The model's name, for provenance and logs."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in the order of the requests."""
        ...

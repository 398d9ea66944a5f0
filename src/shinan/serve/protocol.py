"""What may be asked: the bodies of OpenAI's chat and text completions, as far as they have an effect here.

A field that is not here is refused by name. `null`, and a value of an absent option that changes nothing, count as not
given, since some clients send every field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from shinan.core.config import Config, problems_of
from shinan.core.errors import ConfigError, Problem
from shinan.core.example import Message, assistant, system, user

_WITHOUT_EFFECT: Mapping[str, Any] = {
    "best_of": 1,
    "frequency_penalty": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "store": False,
    "suffix": "",
    "tools": [],
}

Stop = Annotated[str, Field(min_length=1, max_length=200)]
TokenId = Annotated[int, Field(ge=0)]
Prompt = str | Annotated[list[TokenId], Field(min_length=1)]

_LONGEST_SCHEMA = 100_000
_MOST = 50  # mistakes that are told one by one


class TextPart(Config):
    """A stretch of a turn."""

    type: Literal["text"]
    text: str


class Turn(Config):
    """A turn of the conversation. `developer` is OpenAI's newer name for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def message(self) -> Message:
        """The turn as the rest of the system knows it."""
        make = {"user": user, "assistant": assistant}.get(self.role, system)
        return make(self.content if isinstance(self.content, str) else "".join(part.text for part in self.content))


class StreamOptions(Config):
    """How to stream."""

    include_usage: bool = False
    """Send a last chunk with the numbers of tokens."""


class JsonSchema(Config):
    """A schema with what OpenAI wants beside it. It is always kept to strictly."""

    name: str
    description: str | None = None
    strict: Literal[True] | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Config):
    """In which form the reply shall come."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class Asked(Config):
    """What both kinds of completion take. Defaults are OpenAI's."""

    model: str
    n: int = Field(1, ge=1, le=128)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def choices(self) -> int:
        """How many replies are asked for."""
        return self.n

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, in whichever form they were given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_not_given(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        left_out = object()
        return {k: v for k, v in data.items() if v is not None and v != _WITHOUT_EFFECT.get(k, left_out)}

    @model_validator(mode="after")
    def _check_stream_options(self) -> Asked:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options has no effect without stream: true")
        return self


class ChatBody(Asked):
    """`POST /v1/chat/completions`. A last turn of the assistant is the beginning of the reply; vLLM's two options for
    it may say so, and may not say otherwise."""

    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    response_format: ResponseFormat | None = None

    @property
    def schema_text(self) -> str:
        """The JSON schema that the reply must satisfy, as JSON text; empty for free text."""
        return json.dumps(self.response_format.json_schema.schema_) if self.response_format else ""

    @property
    def goes_on(self) -> bool:
        """Whether the reply has a beginning already."""
        return self.messages[-1].role == "assistant"

    @property
    def limit(self) -> int | None:
        """Most tokens to write, if the request says it."""
        return self.max_completion_tokens or self.max_tokens

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatBody:
        if self.max_tokens and self.max_completion_tokens:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs has no effect without logprobs: true")
        if len(self.schema_text) > _LONGEST_SCHEMA:
            raise ValueError(f"the JSON schema is longer than {_LONGEST_SCHEMA} characters")
        if self.continue_final_message not in (None, self.goes_on):
            raise ValueError("continue_final_message is true if the last turn is the assistant's, else false")
        if self.add_generation_prompt not in (None, not self.goes_on):
            raise ValueError("add_generation_prompt is false if the last turn is the assistant's, else true")
        return self


class CompletionBody(Asked):
    """`POST /v1/completions`. A prompt is a text or token ids; several come as a list."""

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1)]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, in order."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        numbers = [part for part in self.prompt if isinstance(part, int)]
        return [numbers] if numbers else [part for part in self.prompt if not isinstance(part, int)]

    @property
    def choices(self) -> int:
        """How many replies are asked for."""
        return self.n * len(self.prompts)

    @model_validator(mode="after")
    def _check_something_is_asked(self) -> CompletionBody:
        if not self.max_tokens and not self.echo:
            raise ValueError("max_tokens: 0 asks for nothing without echo: true")
        return self


B = TypeVar("B", bound=Asked)


def parse(body: bytes, kind: type[B]) -> B:
    """The request in `body`. Raises ConfigError naming every field that is wrong."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem(f"the body is not JSON: {error}", "", "send a JSON object")]) from None
    if not isinstance(data, dict):
        raise ConfigError([Problem("the body is not a JSON object", "", "send one")])
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        if error.error_count() > _MOST:
            raise ConfigError([Problem(f"{error.error_count()} things are wrong with this request", "")]) from None
        raise ConfigError(problems_of(error, kind, data, lambda keys: ".".join(map(str, keys)))) from None

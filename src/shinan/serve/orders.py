"""From a request to tickets: the prompt as token ids, how to draw, when to stop.

The prompt of a conversation is `ChatFormat.render_prompt` of its turns and nothing else, so that the model is served
what it was trained on, token for token.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from shinan.core.errors import ConfigError, Problem, ShinanError, nearest
from shinan.core.hashing import derive_seed
from shinan.models.decode import Row
from shinan.models.generator import Sampling
from shinan.models.reply import ReplyText
from shinan.models.structured import JsonFilter
from shinan.serve.engine import Ticket
from shinan.serve.protocol import Asked, ChatBody, CompletionBody
from shinan.serve.served import Served

Changed = Callable[[], None]

# Characters a token of the context, beyond which a text is refused unread: prose has 4, code with deep indentation 8,
# and nothing else is done while a text is encoded.
_CHARACTERS = 16


class UnknownModelError(ShinanError):
    """The request names a model that is not served here."""


class _Prompt(NamedTuple):
    """A prompt and what depends on it. `lead` and `stops`: see `ReplyText`; `schema` and `begun`: see `JsonFilter`."""

    ids: Sequence[int]
    limit: int
    lead: str = ""
    stops: tuple[str, ...] = ()
    schema: str = ""
    begun: str = ""


def check_model(served: Served, name: str) -> None:
    """Raises UnknownModelError if no model of that name is served."""
    if name not in served.names:
        raise UnknownModelError(f"no model is named {name!r} here", where="model", fix=nearest(name, served.names[:1]))


def chat_tickets(served: Served, body: ChatBody, changed: Changed) -> list[Ticket]:
    """One ticket a choice.

    Raises UnknownModelError, ConfigError for what the model has no room for, DataError for turns that the chat format
    cannot write.
    """
    check_model(served, body.model)
    if not served.chats:
        what = f"{served.name} is a base model: it was not tuned to answer in any chat format"
        fix = "ask /v1/completions, or start the server with --format alpaca to try it all the same"
        raise ConfigError([Problem(what, "messages", fix)])
    messages = [turn.message() for turn in body.messages]
    prefill = messages.pop().text if body.goes_on else ""
    if body.goes_on and not prefill:
        raise ConfigError([Problem("the last turn is an empty one of the assistant", "messages", "leave it out")])
    _check_length(served, sum(len(message.text) for message in messages) + len(prefill), "messages")
    ids = served.chat.render_prompt(messages, prefill)
    lead = "" if prefill else served.chat.lead(messages)
    limit = served.context - len(ids) if body.limit is None else body.limit
    _check_room(
        served, len(ids), max(limit, 1), "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    )
    schema = body.schema_text  # which says itself where the reply ends
    stops = body.stops if schema else (*body.stops, *served.chat.stop_strings)
    prompt = _Prompt(ids, limit, lead, stops, schema, prefill)
    return _tickets(served, body, [prompt], changed, top=body.top_logprobs)


def completion_tickets(served: Served, body: CompletionBody, changed: Changed) -> list[Ticket]:
    """One ticket a choice, the choices of the first prompt first. Raises as `chat_tickets` does."""
    check_model(served, body.model)
    prompts = []
    for number, text in enumerate(body.prompts):
        several = len(body.prompts) > 1
        ids = _encoded(served, text, f"prompt.{number}" if several else "prompt")
        _check_room(served, len(ids), body.max_tokens, f"prompt.{number}" if several else "max_tokens")
        prompts.append(_Prompt(ids, body.max_tokens, stops=body.stops))
    read = body.logprobs if body.echo else None
    if read is not None and (what := _unread(served)):
        raise ConfigError([Problem(what, "echo", "leave out echo or logprobs")])
    return _tickets(served, body, prompts, changed, top=body.logprobs or 0, read=read)


def _unread(served: Served) -> str:
    """Why the tokens of a prompt cannot be told with their likelihood; empty if they can."""
    if served.chat.tokenizer.decoder_start is not None:
        return "an encoder reads the prompt, so that its tokens have no likelihood"
    return "virtual tokens stand before the prompt, and it is not read behind them" if served.virtual else ""


def _tickets(
    served: Served, body: Asked, prompts: Sequence[_Prompt], changed: Changed, *, top: int, read: int | None = None
) -> list[Ticket]:
    """`n` for each prompt. The first draws from the request's seed itself, as a local generator would."""
    seed = secrets.randbits(62) if body.seed is None else body.seed
    tokenizer, stop_ids = served.chat.tokenizer, served.chat.stop_ids
    made = []
    for prompt in prompts:
        sampling = Sampling(prompt.limit, body.temperature, body.top_p, body.top_k, body.presence_penalty)
        for choice in range(body.n):
            reply = ReplyText(tokenizer, stop_ids=stop_ids, stops=prompt.stops, lead=prompt.lead)
            own = derive_seed(seed, "choice", choice) if choice else seed
            row = Row(prompt.ids, sampling, own, reply.take, top=top, source=served.chat.source(prompt.ids))
            if prompt.schema:
                row.filter = JsonFilter(tokenizer, stop_ids, prompt.schema, prompt.begun)
            made.append(Ticket(row, reply, changed, read))
    return made


def _encoded(served: Served, text: str | list[int], where: str) -> Sequence[int]:
    """A raw prompt as ids: a text as `LocalGenerator` takes it, ids as they are."""
    tokenizer = served.chat.tokenizer
    if isinstance(text, list):
        if over := [token for token in text if token >= tokenizer.vocab_size]:
            what = f"the model has no token {over[0]}, only {tokenizer.vocab_size} of them"
            raise ConfigError([Problem(what, where, "encode the text with the model's own tokenizer")])
        if tokenizer.decoder_start is not None:
            what = "an encoder-decoder takes a text as prompt: as ids, its two sides could not be told apart"
            raise ConfigError([Problem(what, where, "send the text")])
        return text
    _check_length(served, len(text), where)
    if not (ids := served.chat.render_text(text)):
        raise ConfigError([Problem("an empty prompt is nothing to go on with", where, "give some text")])
    return list(ids)


def _check_length(served: Served, characters: int, field: str) -> None:
    if characters > _CHARACTERS * served.context:
        what = f"{characters} characters are too many for a model with room for {served.context} tokens"
        raise ConfigError([Problem(what, field, "shorten the prompt")])


def _check_room(served: Served, prompt: int, asked: int, field: str) -> None:
    if prompt + asked > served.context:
        what = f"the prompt has {prompt} tokens and {asked} more are asked for, the model has room for {served.context}"
        fix = f"ask for at most {served.context - prompt}" if prompt < served.context else "shorten the prompt"
        raise ConfigError([Problem(what, field, fix)])

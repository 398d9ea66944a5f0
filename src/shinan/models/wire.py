"""OpenAI's protocol: requests as JSON bodies, and JSON answers as completions. Pure functions, no network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shinan.core.calls import Why
from shinan.core.errors import ModelError
from shinan.models.endpoint import Endpoint
from shinan.models.generator import Completion, Finish, Likelihood, Request

Json = dict[str, Any]
_MOST_TOKENS = 10**9  # of one call; who tells of more is not believed
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


class UnusableError(Exception):
    """An attempt that brought no answer.

    Attributes:
        reason: a short stable word.
        sentence: what happened.
        again: whether another attempt may do better.
        why: what the attempt cost: nothing (None), its bill (`useless`), or nobody knows (`uncertain`).
        fix: what to do about it, where no other request would do better either; the whole work then stops.
        amended: the body to send in the next attempt, if not the same.
        after: seconds that the endpoint asks to be left alone for, if it does.
    """

    def __init__(
        self,
        reason: str,
        sentence: str,
        *,
        again: bool = False,
        why: Why | None = None,
        fix: str = "",
        amended: Json | None = None,
    ) -> None:
        super().__init__(sentence)
        self.reason, self.sentence, self.again, self.why = reason, sentence, again, why
        self.fix, self.amended = fix, amended
        self.after: float | None = None


class Usage(NamedTuple):
    """Tokens as the endpoint counts them; 0 and 0 if it does not say."""

    prompt_tokens: int = 0
    new_tokens: int = 0


def refuse(requests: Sequence[Request], endpoint: Endpoint) -> None:
    """Raise ModelError for a request that the endpoint is not declared to serve, before anything is sent."""
    for request in requests:
        missing = [
            name
            for name, wanted in (("prefill", request.prefill and request.messages), ("top_k", request.sampling.top_k))
            if wanted and name not in endpoint.has
        ]
        if missing:
            what = f"the request needs {missing[0]}, and the endpoint is not declared to have it"
            fix = f"do without, or if it has it, end the reference in #{'+'.join(sorted(endpoint.has | {missing[0]}))}"
            raise ModelError(what, where=f"endpoint:{endpoint.model}", fix=fix)
        if request.as_user:
            what = "endpoints write replies only, and this asks for the user's next turn"
            raise ModelError(what, where=f"endpoint:{endpoint.model}", fix="name a local model")
        if not request.messages and not request.prompt + request.prefill:
            raise ModelError("the request has neither messages nor a prompt", fix="give one of the two")


def body_of(request: Request, endpoint: Endpoint) -> tuple[str, Json]:
    """(path, body) for one reply to a request."""
    sampling = request.sampling
    body: Json = {"model": endpoint.model, "temperature": sampling.temperature, "seed": request.seed}
    limit = "max_completion_tokens" if "max_completion_tokens" in endpoint.has and request.messages else "max_tokens"
    body[limit] = sampling.max_new_tokens
    if sampling.top_p != 1:
        body["top_p"] = sampling.top_p
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.presence_penalty:
        body["presence_penalty"] = sampling.presence_penalty
    if request.stop:
        body["stop"] = list(request.stop)
    if "logprobs" in endpoint.has:
        body["logprobs"] = True if request.messages else 1
    if request.schema and "schema" in endpoint.has:
        schema = {"name": "reply", "strict": True, "schema": json.loads(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if not request.messages:
        return "/completions", body | {"prompt": request.prompt + request.prefill}
    body["messages"] = [{"role": message.role, "content": message.text} for message in request.messages]
    if request.prefill:
        body["messages"].append({"role": "assistant", "content": request.prefill})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return "/chat/completions", body


def prompt_bound(body: Json) -> int:
    """At least the tokens of the prompt: a token has a byte or more, and a chat format adds some to each turn."""
    turns = body.get("messages") or [{"content": body["prompt"]}]
    return sum(len(turn["content"].encode("utf-8", "surrogatepass")) + 16 for turn in turns)


def reply_bound(body: Json) -> int:
    """At most the tokens of one reply."""
    limit: int = body["max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"]
    return limit


def decoded(data: bytes, content_type: str = "") -> Json:
    """A JSON object from an answer that claims to be well. Raises UnusableError for anything else."""
    head = data[:100].lstrip().lower()
    if "html" in content_type or head.startswith(b"<"):
        raise UnusableError("html", "a web page came in place of an answer: check the address", again=True)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        what = f"the answer is cut off or damaged: {len(data)} bytes that are no JSON"
        raise UnusableError("truncated", what, again=True, why="uncertain") from None
    if not isinstance(value, dict):
        raise _wrong(f"a {type(value).__name__} in place of an object")
    return value


def _wrong(what: str) -> UnusableError:
    return UnusableError("shape", f"the answer is not of the protocol's form: {what}", again=True, why="uncertain")


def usage_of(answer: Json) -> Usage:
    """Tokens of all replies of an answer together."""
    stated = answer.get("usage")
    counts = [stated.get(name) if isinstance(stated, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    return Usage(
        *(n if isinstance(n, int) and not isinstance(n, bool) and 0 < n <= _MOST_TOKENS else 0 for n in counts)
    )


def shares(usage: Usage, parts: int) -> list[Usage]:
    """The usage of each of several replies to one prompt: reply tokens are split evenly, their sum is kept."""
    whole, rest = divmod(usage.new_tokens, parts)
    return [Usage(usage.prompt_tokens, whole + (index < rest)) for index in range(parts)]


def replies_of(answer: Json, request: Request, most: int) -> list[Completion]:
    """The replies of an answer, at most `most`, by index. Raises UnusableError if there is none to read."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _wrong(f"no choices, but {said(answer) or 'nothing'}")
    first = sorted(choices, key=_index)[:most]
    parts = shares(usage_of(answer), len(first))
    return [_reply(choice, request, usage) for choice, usage in zip(first, parts, strict=True)]


def _index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else 0


def _reply(choice: Any, request: Request, usage: Usage) -> Completion:
    choice = choice if isinstance(choice, dict) else {}
    if request.messages:
        message = choice.get("message")
        message = message if isinstance(message, dict) else {}
        text = message.get("content")
        text = message.get("refusal") if text is None else text  # a refusal is an answer in words
    else:
        text = choice.get("text")
    if not isinstance(text, str):
        raise _wrong("a choice without text")
    ended = choice.get("finish_reason")
    if ended == "content_filter":
        raise UnusableError("filtered", "the endpoint's content filter cut the reply", why="useless")
    finish: Finish = "length" if ended == "length" else "stop"
    cut = min((at for stop in request.stop if (at := text.find(stop)) >= 0), default=None)
    if cut is not None:
        text, finish = text[:cut], "stop"
    return Completion(request.prefill + text, (), _logprobs(choice), finish, usage.prompt_tokens, usage.new_tokens)


def _logprobs(choice: Json) -> tuple[float, ...]:
    """Of a chat (`content: [{logprob}]`) or a completion (`token_logprobs`); nothing unless each is a number."""
    stated = choice.get("logprobs")
    stated = stated if isinstance(stated, dict) else {}
    content = stated.get("content")
    values = [token.get("logprob") for token in content if isinstance(token, dict)] if isinstance(content, list) else []
    values = values or stated.get("token_logprobs") or []
    return tuple(values) if isinstance(values, list) and all(map(_is_logprob, values)) else ()


def _is_logprob(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and -1e9 < value < 1e9  # no NaN nor infinity


def echo_body(prompt: str, option: str, endpoint: Endpoint) -> Json:
    """The body that asks for the log-probabilities of an option after a prompt; one token is drawn and not used."""
    return {
        "model": endpoint.model,
        "prompt": prompt + option,
        "max_tokens": 1,
        "temperature": 0,
        "echo": True,
        "logprobs": 1,
    }


def likelihood_of(answer: Json, prompt: str, option: str) -> Likelihood:
    """The likelihood of `option` in an answer to `echo_body`.

    A token that begins in the prompt and ends in the option counts as the option's. Raises UnusableError.
    """
    try:
        stated = answer["choices"][0]["logprobs"]
        tokens, logprobs, tops, starts = (
            stated[name] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        )
        begin, end = len(prompt), len(prompt) + len(option)
        mine = [
            (token, logprob, top)
            for token, logprob, top, start in zip(tokens, logprobs, tops, starts, strict=True)
            if start < end and start + len(token) > begin
        ]
        if not all(_is_logprob(logprob) for _, logprob, _ in mine):
            raise TypeError
        total = float(sum(logprob for _, logprob, _ in mine))
        greedy = all(bool(logprob >= max(top.values())) for _, logprob, top in mine)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise _wrong("no log-probabilities of the prompt (echo)") from None
    if not mine:
        raise _wrong("the option's tokens are not among those of the answer")
    return Likelihood(total, len(mine), greedy)


def models_of(answer: Json) -> list[str]:
    """The names in an answer to `/models`."""
    listed = answer.get("data")
    entries = listed if isinstance(listed, list) else []
    return [said(str(entry["id"]))[:100] for entry in entries if isinstance(entry, dict) and "id" in entry]


def refusal(status: int, answer: bytes, model: str, models: Sequence[str], advice: str) -> UnusableError:
    """What a status other than 200 means. `models`: those that the endpoint lists; `advice`: about keys."""
    try:
        told = said(json.loads(answer))
    except (ValueError, RecursionError):
        told = ""
    sentence = f"the endpoint answered {status}" + (f": {told}" if told else "")
    if status in (401, 403):
        return UnusableError("key", sentence, fix=advice)
    if status == 404 and models:
        what = f"the endpoint has no model {model!r} ({sentence})"
        return UnusableError("model", what, fix="use one of: " + ", ".join(models[:20]))
    if status == 404 or 300 <= status < 400:
        return UnusableError("url", sentence, fix="check the address: it often ends in /v1, without /chat/completions")
    if "insufficient_quota" in told:
        return UnusableError("key", sentence, fix="add credit to the account, then give the same command again")
    if status in (429, 503, 529):
        return UnusableError("busy", sentence, again=True)
    if status >= 500 or status in (408, 409, 425):
        return UnusableError("server", sentence, again=True)
    return UnusableError("refused", sentence)


def said(answer: Any) -> str:
    """The error message in an answer, on one line and short."""
    error = answer.get("error", answer.get("message", answer.get("detail"))) if isinstance(answer, Mapping) else answer
    if isinstance(error, Mapping):
        error = " ".join(str(error[name]) for name in ("message", "code") if error.get(name))
    text = " ".join(_CONTROLS.sub(" ", str(error or "")).split())
    return text if len(text) <= 300 else text[:297] + "..."

"""References to endpoints, `endpoint:MODEL@URL[,URL...][#HAS+HAS...]`, and their keys, held by the environment only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from shinan.core.errors import ConfigError, Problem, nearest

SCHEME = "endpoint:"
KEY, OPENAI_KEY = "SHINAN_API_KEY", "OPENAI_API_KEY"
ABILITIES = {
    "max_completion_tokens": "the limit's new name, which OpenAI's newer models insist on",
    "n": "several replies to one prompt in one call",
    "schema": "replies held to a JSON schema (response_format: json_schema)",
    "prefill": "replies that go on with a given beginning (continue_final_message)",
    "top_k": "sampling from the k likeliest tokens",
    "logprobs": "log-probabilities of the reply",
    "echo": "log-probabilities of the prompt (echo in /completions), which scoring needs",
}
"""What endpoints differ in. None is assumed: an endpoint has those that its reference declares."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind one or more addresses that speak OpenAI's protocol.

    Attributes:
        model: the name the endpoints know it by.
        urls: base addresses, to which `/chat/completions` and the like are added. They are used at the same time.
        has: the abilities declared (`ABILITIES`).
        revision: the version declared; part of what the ledger knows calls by.
    """

    model: str
    urls: tuple[str, ...]
    has: frozenset[str] = frozenset()
    revision: str = ""


def is_endpoint(ref: str) -> bool:
    """Whether a model reference names an endpoint."""
    return ref.startswith(SCHEME)


def parse_endpoint(ref: str) -> Endpoint:
    """Read a reference, e.g. `endpoint:llama-3@http://localhost:8000/v1#n+logprobs+revision=2`.

    The abilities after `#` are for us and never sent. Raises ConfigError with everything that is wrong.
    """
    body, _, declared = ref.removeprefix(SCHEME).partition("#")
    # A model's name may hold an @, an address may not (user names in addresses are refused): the last one divides.
    model, at, addresses = body.rpartition("@")
    if "://" in model:
        fix = f"leave them out; a key is taken from {KEY} in the environment"
        raise ConfigError([Problem("the address holds a user name or a password", f"{SCHEME}…", fix)])
    ref = _unasked(ref)
    urls = tuple(url.strip().rstrip("/") for url in addresses.split(",") if url.strip()) if at else ()
    problems = [] if model and urls else [Problem("it names no model or no address", ref, _FIX)]
    problems += [Problem(what, ref, fix) for url in urls for what, fix in _wrong(url)]
    has, revision = set(), ""
    for word in filter(None, declared.split("+")):
        if word.startswith("revision="):
            revision = word.removeprefix("revision=")
        elif word in ABILITIES:
            has.add(word)
        else:
            fix = nearest(word, [*ABILITIES, "revision=…"])
            problems.append(Problem(f"an endpoint can't be declared to have {word!r}", ref, fix))
    if problems:
        raise ConfigError(problems)
    return Endpoint(model, urls, frozenset(has), revision)


_FIX = "write endpoint:MODEL@URL, like endpoint:gpt-4o-mini@https://api.openai.com/v1"


def _unasked(text: str) -> str:
    """An address or a reference as errors may show it: what stands in a query may be a key."""
    return re.sub(r"\?[^,#]+", "?…", text)


def _wrong(url: str) -> list[tuple[str, str]]:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return [(f"{_unasked(url)!r} is no address: {error}", _FIX)]
    if parts.scheme not in ("http", "https") or not host:
        return [(f"{_unasked(url)!r} is no address", "begin it with http:// or https://")]
    found = []
    if parts.query:
        found.append((f"{_unasked(url)!r} has a query", f"leave it out; a key is taken from {KEY} in the environment"))
    if parts.path.endswith(("/completions", "/models")):
        found.append(
            (f"{_unasked(url)!r} is the address of one function", "name the base address, which often ends in /v1")
        )
    return found


def api_key(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """The key for an address: `SHINAN_API_KEY`, or for OpenAI's own `OPENAI_API_KEY`; empty if there is none.

    Raises ConfigError for what cannot be a key.
    """
    names = (KEY, OPENAI_KEY) if urlsplit(url).hostname == "api.openai.com" else (KEY,)
    name = next((name for name in names if environment.get(name, "").strip()), "")
    key = environment.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError([Problem("this is no key: it holds characters that no key has", name, "copy the key again")])
    return key


def key_advice(url: str) -> str:
    """What to do about a key that is missing or refused."""
    names = f"{KEY} (or {OPENAI_KEY})" if urlsplit(url).hostname == "api.openai.com" else KEY
    return f"set {names} in the environment to the endpoint's key, e.g. `export {KEY}=...`"

"""OpenAI's protocol as pure functions: whatever an endpoint answers is a reply or a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.calls import ledger_json
from shinan.core.example import user
from shinan.models.endpoint import parse_endpoint
from shinan.models.generator import Likelihood, Request
from shinan.models.wire import (
    UnusableError,
    Usage,
    body_of,
    decoded,
    likelihood_of,
    models_of,
    prompt_bound,
    refusal,
    replies_of,
    reply_bound,
    said,
    shares,
    usage_of,
)

T = TypeVar("T")
CHAT = Request((user("a"),))
NAMES = ["choices", "message", "content", "text", "logprobs", "token_logprobs", "usage", "finish_reason", "error"]
NAMES += ["tokens", "top_logprobs", "text_offset", "prompt_tokens", "completion_tokens", "logprob", "data", "id"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=15,
)


def attempt(action: Callable[[], T]) -> T | UnusableError:
    """What an action gives, or the sentence with which it is refused."""
    try:
        return action()
    except UnusableError as error:
        assert error.sentence  # noqa: PT017  nothing is expected to fail here, but what does must say why
        assert "\n" not in error.sentence  # noqa: PT017
        return error


@given(JSON, st.booleans())
def test_whatever_json_comes_is_a_reply_that_can_be_kept_or_a_sentence(answer: Any, chat: bool) -> None:
    data = json.dumps(answer).encode("utf-8", "surrogatepass")
    request = CHAT if chat else Request(prompt="a")
    replies = attempt(lambda: replies_of(decoded(data), request, 2))
    if isinstance(replies, list):
        assert all(ledger_json(asdict(reply)) for reply in replies)
    if isinstance(answer, dict):
        assert 0 <= min(usage_of(answer)) <= max(usage_of(answer)) <= 10**9
        assert all(isinstance(name, str) for name in models_of(answer))
        found = attempt(lambda: likelihood_of(answer, "a", "b"))
        assert isinstance(found, UnusableError) or math.isfinite(found.logprob)


@given(st.floats(-20, 0) | st.none() | st.text(max_size=2) | st.just(-math.inf) | st.just(math.nan), st.booleans())
def test_log_probabilities_are_numbers_or_none_at_all(value: Any, chat: bool) -> None:
    stated = {"content": [{"logprob": value}]} if chat else {"token_logprobs": [value]}
    choice = {"message": {"content": "b"}, "text": "b", "logprobs": stated}
    [reply] = replies_of({"choices": [choice]}, CHAT if chat else Request(prompt="a"), 1)
    fine = isinstance(value, float) and math.isfinite(value)
    assert reply.logprobs == ((value,) if fine else ())


@given(st.binary(max_size=40), st.sampled_from([200, 301, 400, 401, 404, 418, 429, 500, 599]))
def test_whatever_bytes_come_is_a_sentence_on_one_line(data: bytes, status: int) -> None:
    attempt(lambda: decoded(data))
    sentence = refusal(status, data, "m", [], "set the key").sentence
    assert sentence.startswith(f"the endpoint answered {status}")
    assert "\n" not in sentence


@given(st.integers(0, 100), st.integers(0, 1000), st.integers(1, 16))
def test_the_parts_of_a_bill_are_its_sum(prompt: int, new: int, parts: int) -> None:
    found = shares(Usage(prompt, new), parts)
    assert sum(part.new_tokens for part in found) == new
    assert max(part.new_tokens for part in found) - min(part.new_tokens for part in found) <= 1
    assert {part.prompt_tokens for part in found} == {prompt}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=4))
def test_a_prompt_has_no_more_tokens_than_is_reserved_for_it(turns: list[str]) -> None:
    """The finest tokenizer there is has a token for each byte; a chat format adds a few to each turn."""
    _, body = body_of(Request(tuple(map(user, turns))), parse_endpoint("endpoint:m@http://h/v1"))
    assert prompt_bound(body) >= sum(len(turn.encode()) for turn in turns) + 10 * len(turns)
    assert reply_bound(body) == 256


def test_choices_come_with_what_is_known_of_them() -> None:
    answer = {
        "choices": [
            {"message": {"content": None, "refusal": "I can't."}, "finish_reason": "stop"},
            {"message": {"content": "b"}, "finish_reason": "length", "logprobs": {"content": [{"logprob": -1}]}},
            {"message": {"content": "too many"}},
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5},
    }
    first, second = replies_of(answer, CHAT, 2)
    assert (first.text, first.finish, first.prompt_tokens, first.new_tokens) == ("I can't.", "stop", 7, 3)
    assert (second.text, second.finish, second.new_tokens, second.logprobs) == ("b", "length", 2, (-1,))


def test_a_stop_string_that_the_endpoint_has_left_in_is_cut() -> None:
    [reply] = replies_of(
        {"choices": [{"text": "one\nQ: two", "finish_reason": "length"}]}, Request(prompt="a", stop=("\nQ:", "tw")), 1
    )
    assert (reply.text, reply.finish) == ("one", "stop")


def test_the_tokens_of_an_option_are_those_that_hold_a_part_of_it() -> None:
    """`is` and the blank after it are one token: it begins in the prompt and ends in the option."""
    answer = {
        "choices": [
            {
                "logprobs": {
                    "tokens": ["Sky", " is b", "lue", "!"],
                    "token_logprobs": [None, -1.0, -2.0, -9.0],
                    "top_logprobs": [None, {" is b": -1.0, " was": -1.5}, {"lig": -0.5, "lue": -2.0}, {"!": -9.0}],
                    "text_offset": [0, 3, 8, 11],
                }
            }
        ]
    }
    assert likelihood_of(answer, "Sky is", " blue") == Likelihood(-3.0, 2, False)
    assert likelihood_of(answer, "Sky", " is b") == Likelihood(-1.0, 1, True)
    with pytest.raises(UnusableError, match="no log-probabilities of the prompt"):
        likelihood_of(answer, "", "Sky")
    with pytest.raises(UnusableError, match="the option's tokens are not among those"):
        likelihood_of(answer, "x" * 20, "y")


def test_an_error_is_told_on_one_short_line() -> None:
    assert said({"error": {"message": "a\x1b[2J\n\nb", "code": "c"}}) == "a [2J b c"
    assert said({"detail": [{"msg": "x" * 400}]}).endswith("...")
    assert len(said({"error": "y" * 400})) == 300
    assert said({"object": "error", "message": "vLLM's way"}) == "vLLM's way"

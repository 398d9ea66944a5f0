"""References to endpoints and their keys."""

from __future__ import annotations

import pytest

from shinan.core.errors import ConfigError
from shinan.models.endpoint import Endpoint, api_key, is_endpoint, key_advice, parse_endpoint


@pytest.mark.parametrize(
    ("ref", "endpoint"),
    [
        ("endpoint:m@http://localhost:8000/v1", Endpoint("m", ("http://localhost:8000/v1",))),
        ("endpoint:org/m@2@https://a.b/v1/", Endpoint("org/m@2", ("https://a.b/v1",))),
        (
            "endpoint:m@http://a:1/v1, http://b:2/v1#n+logprobs+revision=2024-08",
            Endpoint("m", ("http://a:1/v1", "http://b:2/v1"), frozenset({"n", "logprobs"}), "2024-08"),
        ),
        ("endpoint:m@http://[::1]:8/v1", Endpoint("m", ("http://[::1]:8/v1",))),
    ],
)
def test_references(ref: str, endpoint: Endpoint) -> None:
    assert is_endpoint(ref)
    assert parse_endpoint(ref) == endpoint


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("ref", "sentence"),
    [
        ("endpoint:", "it names no model or no address\n  do this: write endpoint:MODEL@URL"),
        ("endpoint:m", "it names no model or no address"),
        ("endpoint:m@", "it names no model or no address"),
        ("endpoint:m@ ,", "it names no model or no address"),
        ("endpoint:@http://h", "it names no model or no address"),
        ("endpoint:m@h:80", "'h:80' is no address\n  do this: begin it with http://"),
        ("endpoint:m@ftp://h", "'ftp://h' is no address"),
        ("endpoint:m@http://h:port", "'http://h:port' is no address: Port could not be cast"),
        ("endpoint:m@http://[::1", "is no address: Invalid IPv6 URL"),
        ("endpoint:m@http://h/v1?key=1", "has a query\n  do this: leave it out; a key is taken from SHINAN_API_KEY"),
        ("endpoint:m@http://h/v1/chat/completions", "is the address of one function\n  do this: name the base address"),
        ("endpoint:m@http://h/v1#logprob", "declared to have 'logprob'\n  do this: did you mean 'logprobs'?"),
    ],
)
def test_mistyped_references(ref: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint(ref)
    assert sentence in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint("endpoint:m@ftp://h,http://h?a=b#x")
    assert len(caught.value.problems) == 3


@pytest.mark.promise10
def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint("endpoint:m@https://me:sk-secret@h/v1")
    assert str(caught.value) == (
        "endpoint:…: the address holds a user name or a password\n"
        "  do this: leave them out; a key is taken from SHINAN_API_KEY in the environment"
    )


def test_openais_own_key_goes_to_openai_only() -> None:
    both = {"SHINAN_API_KEY": "ours", "OPENAI_API_KEY": "theirs"}
    openai, other = "https://api.openai.com/v1", "https://api.openai.com.evil.example/v1"
    assert api_key(openai, both) == api_key(other, both) == "ours"
    del both["SHINAN_API_KEY"]
    assert (api_key(openai, both), api_key(other, both), api_key(other, {})) == ("theirs", "", "")
    with pytest.raises(ConfigError, match=r"SHINAN_API_KEY: this is no key: .*\n  do this: copy the key again"):
        api_key(other, {"SHINAN_API_KEY": "sk…"})
    assert key_advice(openai).startswith("set SHINAN_API_KEY (or OPENAI_API_KEY) in the environment")
    assert "OPENAI" not in key_advice(other)


@pytest.mark.promise10
@pytest.mark.parametrize("address", ["http://h/v1?key=sk-secret", "ftp://h?sk-secret", "http://h:p?sk-secret"])
def test_a_key_in_a_query_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint(f"endpoint:m@{address},http://other#n")
    assert "sk-secret" not in str(caught.value)
    assert "?…" in str(caught.value)

"""Clients that mean no good, or do not know better: each gets a sentence or the door, and the rest goes on."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from shinan.models.tokenizer import Place, Tokenizer
from shinan.serve import connection, guard
from shinan.serve.run import Server
from tests.serve.serving import TALK, ask, chat, complete, raw, request_bytes, served, serving, until

pytestmark = pytest.mark.promise10

LONG = {"model": "tiny", "messages": TALK, "temperature": 0, "max_tokens": 2000, "stream": True}


@pytest.fixture(scope="module")
def server(tiny_decoder: Path) -> Iterator[Server]:
    with serving(served(tiny_decoder)) as running:
        yield running


@pytest.fixture(autouse=True, scope="module")
def others(server: Server) -> Iterator[list[object]]:
    """While all this goes on, somebody else asks and is answered as ever. Holds what went wrong with them."""
    expected, stop = chat(server).json["choices"], threading.Event()
    wrong: list[object] = []

    def ask_again() -> None:
        while not stop.wait(0.05):
            reply, health = chat(server), ask(server, "/health")
            if reply.status != 200 or reply.json["choices"] != expected or health.status != 200:
                wrong.append((reply, health))

    thread = threading.Thread(target=ask_again)
    thread.start()
    yield wrong
    stop.set()
    thread.join(60)
    assert wrong == []
    until(lambda: (server.engine.busy, server.engine.waiting) == (0, 0))
    until(lambda: not server.server_state.tasks)


@pytest.fixture(autouse=True)
def _the_rest_goes_on(others: list[object]) -> Iterator[None]:
    yield
    assert others == []


def left(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    data = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(1 << 16):
            data += more
    connection.close()
    return data


class TestRequests:
    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            ({"max_tokens": 10_000_000}, "max_tokens: the prompt has 34 tokens and 10000000 more are asked for, the"),
            ({"max_tokens": "8"}, "max_tokens: Input should be a valid integer (got '8')"),
            ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 1 (got -1)"),
            ({"max_tokens": 10**400}, "max_tokens: the prompt has 34 tokens and 1000"),
            ({"n": 129}, "n: Input should be less than or equal to 128 (got 129)"),
            ({"n": 105}, "n: 105 replies are asked for at once\n  do this: ask for at most 104"),
            ({"n": True}, "n: Input should be a valid integer (got True)"),
            ({"temperature": float("nan")}, "temperature: Input should be a finite number (got nan)"),
            ({"temperature": 3}, "temperature: Input should be less than or equal to 2 (got 3)"),
            ({"top_p": 0}, "top_p: Input should be greater than 0 (got 0)"),
            ({"seed": 0.5}, "seed: Input should be a valid integer"),
            ({"stop": [""]}, "stop.0: String should have at least 1 character (got '')"),
            ({"stop": ["a"] * 17}, "stop: List should have at most 16 items after validation, not 17"),
            ({"stream": "yes"}, "stream: Input should be a valid boolean (got 'yes')"),
            ({"stream_options": {"include_usage": True}}, "stream_options has no effect without stream: true"),
            ({"top_logprobs": 2}, "top_logprobs has no effect without logprobs: true"),
            ({"max_completion_tokens": 5}, "give max_tokens or max_completion_tokens, not both"),
            ({"messages": []}, "messages: List should have at least 1 item"),
            ({"messages": "Hi"}, "messages: Input should be a valid list (got 'Hi')"),
            ({"messages": [*TALK, *TALK]}, "message 2 (user): a turn of the assistant is due here"),
            (
                {"messages": [{"role": "tool", "content": "a"}]},
                "messages.0.role: Input should be 'system', 'developer'",
            ),
            ({"messages": [{"role": "user"}]}, "messages.0.content: 'content' is missing"),
            ({"messages": [{"role": "user", "content": ""}]}, "message 1 (user): an empty user turn"),
            ({"messages": [{"role": "user", "content": "\ud83d"}]}, "the text is not valid Unicode (a lone surrogate)"),
            ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages.0.name: unknown key 'name'"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
                "messages.0.content.0.type: Input should be 'text' (got 'image_url')",
            ),
            ({"tools": [{"type": "function"}]}, "tools: unknown key 'tools'"),
            ({"frequency_penalty": 0.5}, "frequency_penalty: unknown key 'frequency_penalty'"),
            ({"response_format": {"type": "json_object"}}, "response_format.type: Input should be 'json_schema'"),
            (
                {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "cat"}}}},
                "no reply can be written by this JSON schema",
            ),
            (
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "a", "schema": {"a": "x" * 10**5}},
                    }
                },
                "the JSON schema is longer than 100000 characters",
            ),
            ({"temprature": 1}, "temprature: unknown key 'temprature'\n  do this: did you mean 'temperature'?"),
            ({"\udcff": 1}, "unable to parse raw data as a unicode string (got '\\udcff')"),
            ({f"x{i}": 1 for i in range(60)}, "60 things are wrong with this request"),
        ],
        ids=lambda value: "" if isinstance(value, str) else json.dumps(value)[:30],
    )
    def test_a_wrong_field_is_named(self, server: Server, fields: dict[str, Any], sentence: str) -> None:
        reply = chat(server, **fields)
        assert reply.status == 400
        assert sentence in reply.error
        named = sentence.split(": ")[0]
        assert reply.json["error"]["param"] in (named, None, "")

    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            ({"prompt": 5}, "prompt: Input should be a valid string (got 5)"),
            ({"prompt": []}, "prompt: List should have at least 1 item"),
            ({"prompt": [70, "a"]}, "prompt.1: Input should be a valid integer (got 'a')"),
            ({"prompt": [[-1]]}, "prompt.0.0: Input should be greater than or equal to 0 (got -1)"),
            ({"prompt": [10**30]}, f"prompt: the model has no token {10**30}, only 264 of them"),
            ({"prompt": "\udc00"}, "the text is not valid Unicode (a lone surrogate)"),
            ({"prompt": ["a"] * 1025}, "n: 1025 replies are asked for at once"),
            ({"prompt": ["a"] * 20, "n": 100}, "n: 2000 replies are asked for at once"),
            ({"max_tokens": 0}, "max_tokens: 0 asks for nothing without echo: true"),
            ({"logprobs": 21}, "logprobs: Input should be less than or equal to 20 (got 21)"),
            ({"best_of": 4}, "best_of: unknown key 'best_of'"),
        ],
        ids=lambda value: "" if isinstance(value, str) else json.dumps(value)[:30],
    )
    def test_a_wrong_field_of_a_completion_is_named(
        self, server: Server, fields: dict[str, Any], sentence: str
    ) -> None:
        reply = complete(server, **fields)
        assert (reply.status, sentence in reply.error) == (400, True), reply.error

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (b"", "the body is not JSON"),
            (b"model=tiny", "the body is not JSON"),
            (b"\xff\xfe\x00", "the body is not JSON"),
            (b'{"model": "tiny", "mess', "the body is not JSON"),
            (b"[" * 200_000, "the body is not JSON: maximum recursion depth exceeded"),
            (b'{"seed": ' + b"9" * 5000 + b"}", "the body is not JSON: Exceeds the limit (4300 digits)"),
            (b"[1, 2]", "the body is not a JSON object"),
            (b"null", "the body is not a JSON object"),
            (b"{}", "model: 'model' is missing\n  do this: add it\nmessages: 'messages' is missing"),
        ],
        ids=lambda value: repr(value[:12]),
    )
    def test_a_body_that_is_none(self, server: Server, body: bytes, sentence: str) -> None:
        reply = ask(server, "/v1/chat/completions", body)
        assert reply.status == 400
        assert reply.error.startswith(sentence)

    def test_a_model_that_is_not_here(self, server: Server) -> None:
        for reply in (chat(server, model="gpt-4"), complete(server, model="gpt-4"), ask(server, "/v1/models/gpt-4")):
            assert reply.status == 404
            assert reply.error == "model: no model is named 'gpt-4' here\n  do this: use one of: tiny"
            assert reply.json["error"]["code"] == "model_not_found"

    def test_places_that_are_not_there(self, server: Server) -> None:
        for path, method, status in (("/v1/embeddings", "POST", 404), ("/docs", "GET", 404), ("/health", "PUT", 405)):
            reply = ask(server, path, method=method)
            assert (reply.status, bool(reply.error)) == (status, True)


class TestSizes:
    def test_a_body_that_is_too_large(self, server: Server) -> None:
        reply = ask(server, "/v1/chat/completions", b" " * (guard.LARGEST + 1))
        assert (reply.status, reply.error) == (
            413,
            "the request is larger than 4 MiB\n  do this: send less at a time",
        )

    def test_what_is_dropped_is_not_held(self) -> None:
        left = 32

        async def receive() -> dict[str, Any]:
            nonlocal left
            left -= 1
            return {"type": "http.request", "body": b"x" * (1 << 20), "more_body": left > 0}

        async def refused() -> None:
            with pytest.raises(HTTPException) as error:
                await guard.read_body(Request({"type": "http", "headers": []}, receive))
            assert error.value.status_code == 413

        tracemalloc.start()
        asyncio.run(refused())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert left == 0
        assert peak < 2.5 * guard.LARGEST

    def test_one_that_only_says_so(self, server: Server) -> None:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n"
        assert b" 413 " in left(raw(server, head)).split(b"\r\n")[0]

    def test_one_that_does_not_end(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard, "_DROPPED", 8 << 20)
        sender = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n"
        sent = 0
        with suppress(ConnectionError):
            while sent < 64 << 20:
                sender.sendall(chunk)
                sent += 1 << 16
        assert sent < 64 << 20
        left(sender)

    def test_a_text_that_is_far_too_long_is_not_even_encoded(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing else in the process moves while a text is encoded: 4 MiB of it would stop the server for seconds."""
        lengths = []
        encode = Tokenizer.encode

        def watched(tokenizer: Tokenizer, text: str, *, place: Place = "start") -> list[int]:
            lengths.append(len(text))
            return encode(tokenizer, text, place=place)

        monkeypatch.setattr(Tokenizer, "encode", watched)
        text = "a猫" * 500_000
        replies = complete(server, prompt=text), chat(server, messages=[{"role": "user", "content": text}])
        what = "1000000 characters are too many for a model with room for 2048 tokens\n  do this: shorten the prompt"
        assert [(reply.status, reply.error) for reply in replies] == [
            (400, f"prompt: {what}"),
            (400, f"messages: {what}"),
        ]
        assert max(lengths, default=0) < 100  # what the others ask at the same time

    def test_headers_without_end(self, server: Server) -> None:
        sender = raw(server, b"GET /health HTTP/1.1\r\n")
        with suppress(ConnectionError):
            sender.sendall(b"X: " + b"y" * (1 << 20))
        assert b" 400 " in left(sender).split(b"\r\n")[0] + b" 400 "  # the answer may be lost in the reset


class TestConnections:
    def test_garbage(self, server: Server) -> None:
        draw = random.Random(0)
        for size in (1, 10, 1000, 100_000):
            sender = raw(server)
            with suppress(ConnectionError):
                sender.sendall(b"\x16\x03\x01" + draw.randbytes(size) + b"\r\n\r\n")
            assert left(sender)[:12] in (b"HTTP/1.1 400", b"")

    def test_a_request_that_trickles_in(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "REQUEST_WITHIN", 2.0)
        body = request_bytes("/v1/chat/completions", {"model": "tiny", "messages": TALK})
        for start in (b"", b"POST /v1", body[:-10]):
            sender = raw(server, start)
            began = time.monotonic()
            with suppress(ConnectionError):
                while not select_closed(sender):
                    sender.sendall(b"a")
                    assert time.monotonic() - began < 20
            sender.close()

    def test_a_second_request_that_trickles_in(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        sender = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):  # head and body may come apart
            answer += sender.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200")
        monkeypatch.setattr(connection, "REQUEST_WITHIN", 2.0)
        sender.sendall(b"GET /hea")
        assert left(sender) == b""

    def test_a_client_that_never_reads(self, tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "READ_WITHIN", 0.5)
        with serving(served(tiny_decoder), slots=1, buffer=4096) as small:
            sender = socket.socket()
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            host, port = small.url.removeprefix("http://").split(":")
            sender.connect((host, int(port)))
            sender.sendall(request_bytes("/v1/chat/completions", LONG | {"logprobs": True, "top_logprobs": 20}))
            until(lambda: small.engine.busy == 1)
            until(lambda: small.engine.busy == 0)
            until(lambda: not small.server_state.connections)
            assert chat(small).status == 200
            sender.close()

    def test_a_client_that_leaves_in_the_middle_frees_its_slot(self, server: Server) -> None:
        for stream in (True, False):
            sender = raw(server, request_bytes("/v1/chat/completions", LONG | {"stream": stream}))
            if stream:
                assert sender.recv(1000).startswith(b"HTTP/1.1 200")
            until(lambda: any(len(t.row.ids) > 5 for t in list(server.engine._running.values())))
            sender.close()
            until(lambda: all(t.row.sampling.max_new_tokens < 2000 for t in list(server.engine._running.values())))

    def test_a_client_that_leaves_the_queue_frees_its_place(self, tiny_decoder: Path) -> None:
        with serving(served(tiny_decoder), slots=1) as small:
            first = raw(small, request_bytes("/v1/chat/completions", LONG))
            until(lambda: small.engine.busy == 1)
            for stream in (True, False):
                second = raw(small, request_bytes("/v1/chat/completions", LONG | {"stream": stream}))
                until(lambda: small.engine.waiting == 1)
                second.close()
                until(lambda: small.engine.waiting == 0)
            assert small.engine.busy == 1
            first.close()
            until(lambda: small.engine.busy == 0)

    def test_a_stop_ends_streams_with_a_sentence(self, tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shinan.serve.run._FINISH_WITHIN", 0.3)
        with serving(served(tiny_decoder), slots=1) as small:
            streams = [raw(small, request_bytes("/v1/chat/completions", LONG)) for _ in range(2)]
            until(lambda: (small.engine.busy, small.engine.waiting) == (1, 1))
            began = time.monotonic()
        assert time.monotonic() - began < 6
        for stream in streams:
            said = left(stream)
            assert b'"message": "the server is stopping"' in said
            assert b"[DONE]" not in said


class TestStrangers:
    @pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
    def test_a_name_that_is_not_ours(self, server: Server, host: str) -> None:
        """A page that makes its own name point here would otherwise be of this server's origin (DNS rebinding)."""
        reply = ask(server, "/v1/models", headers={"Host": host})
        assert (reply.status, reply.json["error"]["code"]) == (403, "unknown_host")

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8000", "[::1]"])
    def test_names_that_are_ours(self, server: Server, host: str) -> None:
        assert ask(server, "/v1/models", headers={"Host": host}).status == 200

    def test_pages_of_other_sites(self, server: Server) -> None:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://["):
            reply = ask(server, "/v1/chat/completions", b"{}", headers={"Origin": origin})
            assert (reply.status, reply.json["error"]["code"]) == (403, "foreign_origin")
            assert reply.headers["Access-Control-Allow-Origin"] is None
        assert ask(server, "/v1/models", headers={"Origin": server.url}).status == 200

    def test_a_key_opens_what_is_locked(self, tiny_decoder: Path) -> None:
        with serving(served(tiny_decoder), key="s3cret") as locked:
            for path in ("/v1/models", "/metrics", "/v1/chat/completions", "/nowhere"):
                for given in (
                    {},
                    {"Authorization": "Bearer wrong"},
                    {"Authorization": "s3cret"},
                    {"Authorization": "é"},
                ):
                    reply = ask(locked, path, headers=given)
                    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
                    assert "s3cret" not in reply.text
            assert ask(locked, "/v1/models", headers={"Authorization": "Bearer s3cret"}).status == 200
            assert [ask(locked, path).status for path in ("/", "/health", "/notices")] == [200] * 3


@contextmanager
def _within(sender: socket.socket, seconds: float) -> Iterator[None]:
    sender.settimeout(seconds)
    yield
    sender.settimeout(60)


def select_closed(sender: socket.socket) -> bool:
    """Whether the server has closed the connection; waits a moment."""
    with _within(sender, 0.1):
        try:
            return sender.recv(1000) == b""
        except TimeoutError:
            return False

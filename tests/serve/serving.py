"""A server in a thread, and clients that say exactly what they mean, byte by byte."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shinan.models.card import load_card
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.tokenizer import Tokenizer
from shinan.serve.run import Server, listen
from shinan.serve.served import Served

TALK = [{"role": "user", "content": "Name a colour."}]


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    text: str
    headers: http.client.HTTPMessage

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The sentence of an error body, which must be in OpenAI's form."""
        [(name, error)] = self.json.items()
        assert name == "error"
        assert error.keys() == {"message", "type", "param", "code"}
        return str(error["message"])


def served(folder: Path, chat: str = "chatml", *, chats: bool = True, context: int = 2048) -> Served:
    """The tiny model of a folder, in fp32, so that what runs beside a row changes nothing."""
    card = load_card(folder)
    format_ = chat_format(chat, Tokenizer.load(folder))
    return Served(card, ("tiny", card.name), load_model(folder, torch.float32), format_, chats, context)


@contextmanager
def serving(
    model: Served, *, slots: int = 4, queue: int = 100, key: str = "", buffer: int = 0, host: str = "127.0.0.1"
) -> Iterator[Server]:
    """A server of its own thread at a free port; it must stop when it is told to.

    `buffer`: bytes that the system holds for a reader; 0 for its own choice.
    """
    with listen(host, 0) as listener:
        if buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        server = Server(model, listener, slots=slots, queue=queue, key=key)
        thread = threading.Thread(target=server.serve_until_stopped, name="server")
        thread.start()
        try:
            yield server
        finally:
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()
        assert server.engine.join(0)


def ask(
    server: Server,
    path: str,
    body: Mapping[str, Any] | bytes | None = None,
    *,
    method: str = "",
    headers: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> Reply:
    """One request over a connection of its own; POST if there is a body."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method or ("GET" if sent is None else "POST"), path, sent, dict(headers or {}))
    response = connection.getresponse()
    reply = Reply(response.status, response.read().decode(), response.headers)
    connection.close()
    return reply


def chat(server: Server, **fields: Any) -> Reply:
    """A chat request: greedy and short unless it says otherwise."""
    body = {"model": "tiny", "messages": TALK, "temperature": 0, "max_tokens": 8} | fields
    return ask(server, "/v1/chat/completions", body)


def complete(server: Server, **fields: Any) -> Reply:
    """A text completion: greedy and short unless it says otherwise."""
    return ask(
        server, "/v1/completions", {"model": "tiny", "prompt": "Once", "temperature": 0, "max_tokens": 8} | fields
    )


def raw(server: Server, data: bytes = b"") -> socket.socket:
    """A bare connection over which `data` was sent."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(data)
    return connection


def request_bytes(path: str, body: Mapping[str, Any]) -> bytes:
    """A POST as it goes over the wire."""
    text = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def events(text: str) -> list[Any]:
    """The chunks of a stream that came to its end."""
    *chunks, last, nothing = text.split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]

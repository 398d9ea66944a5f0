"""A scripted endpoint on a real socket, for everything that talks to endpoints: it answers, fails as told, and counts.

    with ScriptedEndpoint() as server:                           # echoes the last turn
        open_generator(server.ref)
    ScriptedEndpoint({"2 + 2?": "4"})                            # replies from a table, or from a function of the body
    ScriptedEndpoint(faults=[Status(429, retry_after=0.1), None, "reset"])   # call by call, in order of arrival
    ScriptedEndpoint(faults=lambda number, body: "stall" if number % 10 == 3 else None)

A word counts as a token. It serves `/chat/completions` and `/completions` (with `n`, `stop`, `logprobs`, `echo`,
`response_format`) and `/models`, keeps connections alive, and runs in a thread of its own. `python -m
tests.models.endpoint PORT DELAY` serves in a process of its own (for measuring).
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

Json = dict[str, Any]


class Status(NamedTuple):
    """An answer with another status than 200, as OpenAI words it."""

    code: int
    message: str = "as scripted"
    retry_after: float | str | None = None
    error_code: str = ""


class Body(NamedTuple):
    """An answer of these bytes, with status 200."""

    data: bytes
    content_type: str = "application/json"


Fault = Status | Body | Literal["stall", "drip", "cut", "reset", "large"]
"""stall: nothing comes for ten minutes. drip: a byte every 50 ms. cut: the connection closes within the answer.
reset: it breaks before the answer. large: 11 MB."""

HTML = Body(b"<!DOCTYPE html><html><body>Sign in</body></html>", "text/html; charset=utf-8")
TRUNCATED = Body(b'{"choices": [{"message": {"role": "assistant", "content": "hal')
SHAPE = Body(b'{"outputs": [{"generated_text": "hello"}]}')

Faults = Sequence[Fault | None] | Callable[[int, Json], Fault | None]
Replies = Mapping[str, str] | Callable[[Json], str] | None


@dataclass
class ScriptedEndpoint:
    """The server; use it in a `with` block, or call `start` and `stop`.

    Attributes:
        replies: from the prompt (the last turn's text) to the reply; None repeats the prompt.
        faults: what goes wrong, by the number of the call, counted from 0.
        delay: seconds until an answer.
        key: the API key that it insists on, if any.
        models: what `/models` lists; other models are unknown, if any is listed.
        usage: whether it tells the tokens used.
        most_choices: how many replies it gives at most, whatever `n` asks for.
        chunked: whether answers come in chunks of unknown number.
        calls: the body of every call that arrived, in order.
        answered: how often each prompt was answered in full, by the text of the prompt.
        at_once, most_at_once: calls being answered now, and the most there ever were.
        authorizations: the header of each call.
    """

    replies: Replies = None
    faults: Faults = ()
    delay: float = 0.0
    key: str = ""
    models: Sequence[str] = ()
    usage: bool = True
    most_choices: int = 1000
    chunked: bool = False
    calls: list[Json] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    authorizations: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """The base address."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def ref(self) -> str:
        """A model reference to it."""
        return f"endpoint:scripted@{self.url}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after `stop` at the same port again."""
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10), "the scripted endpoint does not start"

    def stop(self) -> None:
        """Break all connections and stop listening."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the scripted endpoint does not stop"

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(ready))
        finally:
            self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, limit=1 << 24)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._over.wait()
        # A connection that was taken just before `close` would get no transport: never served, never broken, its
        # client waiting. So nothing more is taken, what was taken begins, and all that began is broken.
        for listener in server.sockets:
            self._loop.remove_reader(listener.fileno())
        for _ in range(6):
            await asyncio.sleep(0.05)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        server.close()
        await asyncio.sleep(0.05)  # a broken connection's socket is closed by the loop, in a later round

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                authorization = next((line[15:] for line in lines if line.lower().startswith("authorization: ")), "")
                await self._answer(lines[0].split(" ")[1], body, authorization, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has left, or the server is stopped
        finally:
            self._tasks.discard(task)
            _break(writer)

    async def _answer(self, path: str, data: bytes, authorization: str, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/models":
            await _send(writer, 200, _json({"object": "list", "data": [{"id": name} for name in self.models]}))
            return
        body: Json = json.loads(data)
        number = len(self.calls)
        self.calls.append(body)
        self.authorizations.append(authorization)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self._reply(path, body, number, authorization, writer)
        finally:
            self.at_once -= 1

    async def _reply(
        self, path: str, body: Json, number: int, authorization: str, writer: asyncio.StreamWriter
    ) -> None:
        if callable(self.faults):
            fault = self.faults(number, body)
        else:
            fault = self.faults[number] if number < len(self.faults) else None
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.key and authorization != f"Bearer {self.key}":
            fault = fault or Status(401, f"Incorrect API key provided: {authorization.removeprefix('Bearer ')}")
        elif self.models and body["model"] not in self.models:
            fault = fault or Status(404, f"The model `{body['model']}` does not exist")
        elif path not in ("/v1/chat/completions", "/v1/completions"):
            fault = fault or Status(404, "Not Found")
        if fault is None:
            data = await self._completed(body)
            await (_send_chunked(writer, data) if self.chunked else _send(writer, 200, data))
            self.answered[prompt_of(body)] += 1
        else:
            await self._fail(fault, body, writer)

    async def _fail(self, fault: Fault, body: Json, writer: asyncio.StreamWriter) -> None:
        whole = b"" if isinstance(fault, Status | Body) else await self._completed(body)
        if isinstance(fault, Status):
            after = "" if fault.retry_after is None else f"Retry-After: {fault.retry_after}\r\n"
            error = {"error": {"message": fault.message, "code": fault.error_code}}
            await _send(writer, fault.code, _json(error), extra=after)
        elif isinstance(fault, Body):
            await _send(writer, 200, fault.data, kind=fault.content_type)
        elif fault == "stall":
            await asyncio.sleep(600)
        elif fault == "reset":
            _break(writer)
        elif fault == "cut":
            writer.write(_head(200, len(whole)) + whole[: len(whole) // 2])
            await writer.drain()
            writer.close()
        elif fault == "drip":
            writer.write(_head(200, len(whole)))
            for byte in whole:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
        else:
            await _send(writer, 200, _json({"choices": [{"message": {"content": "x" * 11_000_000}}]}))

    async def _completed(self, body: Json) -> bytes:
        """The answer; a function that makes replies may take its time, and others are answered meanwhile."""
        return _json(
            await asyncio.to_thread(self._completion, body) if callable(self.replies) else self._completion(body)
        )

    def _completion(self, body: Json) -> Json:
        prompt = prompt_of(body)
        chat = "messages" in body
        choices, new = [], 0
        for index in range(min(body.get("n", 1), self.most_choices)):
            words, finish = self._words(body, prompt)
            new += len(words)
            text = " ".join(words)
            choice: Json = {"index": index, "finish_reason": finish}
            if chat:
                choice["message"] = {"role": "assistant", "content": text}
                if body.get("logprobs"):
                    choice["logprobs"] = {"content": [{"token": word, "logprob": -0.5} for word in words]}
            elif body.get("echo"):
                choice |= {"text": f"{prompt} x", "logprobs": _echoed(f"{prompt} x")}
            else:
                choice["text"] = text
                if body.get("logprobs"):
                    choice["logprobs"] = {"tokens": words, "token_logprobs": [-0.5] * len(words)}
            choices.append(choice)
        answer: Json = {"object": "chat.completion" if chat else "text_completion", "choices": choices}
        if self.usage:
            answer["usage"] = {"prompt_tokens": len(prompt.split()), "completion_tokens": new}
        return answer

    def _words(self, body: Json, prompt: str) -> tuple[list[str], str]:
        if self.replies is None:
            text = prompt
        else:
            text = self.replies(body) if callable(self.replies) else self.replies[prompt]
        for stop in body.get("stop", ()):
            text = text.split(stop)[0]
        words = text.split(" ")
        most: int = body["max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"]
        return words[:most], "length" if len(words) > most else "stop"


def prompt_of(body: Json) -> str:
    """What a call asks: the raw prompt, or the text of the last turn."""
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


def _echoed(text: str) -> Json:
    """Log-probabilities of an echoed text: minus a tenth of a token's length; those of even length are likeliest."""
    tokens = [word if place == 0 else f" {word}" for place, word in enumerate(text.split(" "))]
    starts = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
    logprobs: list[float | None] = [-len(token) / 10 for token in tokens]
    tops: list[Json | None] = [
        {token: value} if len(token) % 2 == 0 else {token: value, "?": -0.01}
        for token, value in zip(tokens, logprobs, strict=True)
    ]
    logprobs[0], tops[0] = None, None
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": starts}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _head(status: int, length: int, kind: str = "application/json", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{extra}Content-Length: {length}\r\n\r\n".encode()


async def _send(
    writer: asyncio.StreamWriter, status: int, data: bytes, *, kind: str = "application/json", extra: str = ""
) -> None:
    writer.write(_head(status, len(data), kind, extra) + data)
    await writer.drain()


async def _send_chunked(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    for part in (data[:10], data[10:], b""):
        writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        await writer.drain()


def _break(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset, not an end."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


if __name__ == "__main__":
    with ScriptedEndpoint(port=int(sys.argv[1]), delay=float(sys.argv[2])) as alone:
        print(alone.port, flush=True)
        while sys.stdin.readline():
            print(json.dumps({"calls": len(alone.calls), "most_at_once": alone.most_at_once}), flush=True)
            time.sleep(0)

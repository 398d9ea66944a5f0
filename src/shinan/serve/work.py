"""One request under way: it waits for its tickets, and lets them go when its client has left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shinan.serve.answers import Answers, Json
from shinan.serve.engine import Engine
from shinan.serve.guard import JsonResponse, error_body, error_response

GONE = 499  # nginx's number for a client that has left; only the metrics show it


class News:
    """A bell that any thread may ring and one coroutine waits for. Rings that come together are one."""

    def __init__(self) -> None:
        """To be made in the event loop that will wait."""
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the one who waits; nothing happens if the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self) -> None:
        """Until it rings, or has rung since the last call."""
        await self._rung.wait()
        self._rung.clear()


class Work:
    """The tickets of one request, as its coroutine sees them."""

    def __init__(self, engine: Engine, answers: Answers, news: News, ended: Callable[[], None]) -> None:
        """`ended` is called once, when nothing more will be sent."""
        self._engine, self._answers, self._news, self._ended = engine, answers, news, ended
        self._tickets = answers.tickets

    async def whole(self, request: Request) -> Response:
        """The whole answer, once all tickets have ended."""
        watch = asyncio.create_task(self._watch(request))
        try:
            while not all(ticket.finish for ticket in self._tickets):
                await self._news.wait()
        finally:
            watch.cancel()
            self.close()
        if error := self._error():
            return error_response(503 if self._engine.stopping else 500, error)
        if any(ticket.finish == "cancelled" for ticket in self._tickets):
            return Response(status_code=GONE)
        return JsonResponse(self._answers.whole())

    async def events(self, usage: bool) -> AsyncIterator[bytes]:
        """The answer as server-sent events."""
        yield _events(self._answers.opening())
        done = False
        while not done:
            await self._news.wait()
            done = all(ticket.finish for ticket in self._tickets)
            if error := self._error():
                yield _events([error_body(500, error)])
                return
            if chunks := list(self._answers.news()):
                yield _events(chunks)
        yield _events([self._answers.closing()] if usage else []) + b"data: [DONE]\n\n"

    def close(self) -> None:
        """Let go of what is not finished."""
        self._engine.cancel(self._tickets)
        self._ended()

    def _error(self) -> str:
        return next((ticket.error for ticket in self._tickets if ticket.finish == "failed"), "")

    async def _watch(self, request: Request) -> None:
        """Let go as soon as the client has left, also while the tickets are still in the queue."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._engine.cancel(self._tickets)


class Stream(StreamingResponse):
    """The events of a work, which is closed however the stream ends: starlette cancels it when the client leaves."""

    def __init__(self, work: Work, *, usage: bool) -> None:
        """`usage`: whether the numbers of tokens come last."""
        super().__init__(work.events(usage), media_type="text/event-stream")
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.close()


def _events(chunks: Iterable[Json]) -> bytes:
    lines = (f"data: {json.dumps(chunk, ensure_ascii=False, allow_nan=False)}\n\n" for chunk in chunks)
    return "".join(lines).encode("utf-8", "replace")

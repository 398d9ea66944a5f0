"""The routes: OpenAI's two kinds of completion, the model, health, metrics, and the page for people."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from shinan.core.errors import ConfigError, Problem, ShinanError
from shinan.serve.answers import Answers, ChatAnswers, CompletionAnswers, Json
from shinan.serve.engine import BusyError, Engine, StoppingError, Ticket
from shinan.serve.guard import Guard, JsonResponse, error_response, read_body
from shinan.serve.metrics import Metrics
from shinan.serve.orders import UnknownModelError, chat_tickets, check_model, completion_tickets
from shinan.serve.page import page_response
from shinan.serve.protocol import Asked, ChatBody, CompletionBody, parse
from shinan.serve.served import Served
from shinan.serve.work import GONE, News, Stream, Work

B = TypeVar("B", bound=Asked)


def application(served: Served, engine: Engine, *, hosts: frozenset[str] | None, key: str) -> ASGIApp:
    """The server as an ASGI application. `hosts` and `key`: see `Guard`; the engine's maker starts and stops it."""
    metrics = Metrics(engine)
    routes = Routes(served, engine, metrics)
    paths = {
        "/": page_response,
        "/health": routes.health,
        "/metrics": routes.metrics_text,
        "/notices": routes.notices,
        "/v1/models": routes.models,
        "/v1/models/{name:path}": routes.model,
    }
    api = FastAPI(openapi_url=None)
    for path, answer in paths.items():
        api.add_route(path, answer, ["GET"])
    asked = {"/v1/chat/completions": routes.chat, "/v1/completions": routes.complete}
    for path, answer in asked.items():
        api.add_route(path, answer, ["POST"])
    for kind in (ShinanError, HTTPException, BusyError, StoppingError, ClientDisconnect, Exception):
        api.add_exception_handler(kind, _refused)
    known = paths.keys() | asked.keys()
    return Guard(api, hosts=hosts, key=key, answered=lambda path, status: metrics.answered(_label(path, known), status))


def _label(path: str, known: Collection[str]) -> str:
    """A path for the metrics, which must not grow with every path that somebody thinks of."""
    return path if path in known else "other"


@dataclass(frozen=True, slots=True)
class Routes:
    """What answers each path."""

    served: Served
    engine: Engine
    metrics: Metrics
    started: int = field(default_factory=lambda: int(time.time()))

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        return await self._answer(request, ChatBody, chat_tickets, ChatAnswers)

    async def complete(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        return await self._answer(request, CompletionBody, completion_tickets, CompletionAnswers)

    async def health(self, _: Request) -> Response:
        """`GET /health`: whether requests are taken."""
        if self.engine.stopping:
            return error_response(503, "the server is stopping")
        return JsonResponse({"status": "ok", "model": self.served.name})

    async def metrics_text(self, _: Request) -> Response:
        """`GET /metrics`."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def notices(self, _: Request) -> Response:
        """`GET /notices`: the licence texts that travel with the weights."""
        return PlainTextResponse("\n\n".join(f"{name}\n\n{text}" for name, text in self.served.notices().items()))

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`."""
        return JsonResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/NAME`."""
        check_model(self.served, request.path_params["name"])
        return JsonResponse(self._model())

    def _model(self) -> Json:
        served = self.served
        return {
            "id": served.name,
            "object": "model",
            "created": self.started,
            "owned_by": "shinan",
            "context": served.context,
            "chat_format": served.chat.name if served.chats else None,
            "licence": served.card.licence,
            "notices": list(served.card.notices),
        }

    async def _answer(
        self,
        request: Request,
        kind: type[B],
        tickets_of: Callable[[Served, B, Callable[[], None]], list[Ticket]],
        answers_of: Callable[[Served, Sequence[Ticket], B], Answers],
    ) -> Response:
        came = time.monotonic()
        body = parse(await read_body(request), kind)
        if body.choices > self.engine.slots + self.engine.queue:
            most = self.engine.slots + self.engine.queue
            raise ConfigError(
                [Problem(f"{body.choices} replies are asked for at once", "n", f"ask for at most {most}")]
            )
        news = News()
        # in another thread: a long talk is many encodings, between which others have their turn
        tickets = await asyncio.to_thread(tickets_of, self.served, body, news.ring)
        ended = partial(self.metrics.decoded, tickets, came)
        work = Work(self.engine, answers_of(self.served, tickets, body), news, ended)
        self.engine.submit(tickets)
        return Stream(work, usage=body.tells_usage) if body.stream else await work.whole(request)


def _refused(request: Request, error: Exception) -> Response:
    """The answer in place of one. An error that is a bug of ours is also logged, by uvicorn."""
    if isinstance(error, UnknownModelError):
        return error_response(404, str(error), param="model", code="model_not_found")
    if isinstance(error, ConfigError):
        return error_response(400, str(error), param=error.problems[0].where or None)
    if isinstance(error, ShinanError):
        return error_response(400, str(error))
    if isinstance(error, BusyError):
        return error_response(429, str(error), code="queue_full", headers={"Retry-After": str(error.seconds)})
    if isinstance(error, StoppingError):
        return error_response(503, "the server is stopping")
    if isinstance(error, ClientDisconnect):
        return Response(status_code=GONE)
    if isinstance(error, HTTPException):
        return error_response(error.status_code, error.detail, headers=error.headers)
    return error_response(500, "a mistake of the server's own; its log says more")

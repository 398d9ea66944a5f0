"""Who may ask, and how an error looks: checks in front of every route, and OpenAI's error bodies."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
LARGEST = 4 << 20  # bytes of a request
_DROPPED = 64 << 20  # bytes that are read and dropped, so that the sender comes to read why
_OPEN = frozenset({"/", "/health", "/notices"})  # what holds nothing of anybody's: no key is needed

Answered = Callable[[str, int], None]
"""Told the path and the status of each answer."""


class JsonResponse(Response):
    """JSON as UTF-8; what is no valid Unicode becomes a question mark."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes to send. Raises ValueError for NaN: that is a bug of ours."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = {429: "rate_limit_error"}.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JsonResponse:
    """The response with that error."""
    return JsonResponse(error_body(status, message, param=param, code=code), status, dict(headers or {}))


async def read_body(request: Request) -> bytes:
    """The body of a request. Raises HTTPException (413) if it has more than `LARGEST` bytes.

    A body that is a little too large is read to its end and dropped: many clients see only a broken connection if they
    are answered while they still send.
    """
    stated = request.headers.get("content-length", "")
    size = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 20 else 0
    body = bytearray()
    if size <= _DROPPED:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            body += chunk if size <= LARGEST else b""
            if size > _DROPPED:
                break
    if size > LARGEST:
        what = f"the request is larger than {LARGEST >> 20} MiB\n  do this: send less at a time"
        raise HTTPException(413, what, {"Connection": "close"})
    return bytes(body)


class Guard:
    """In front of the routes: the Host header, the Origin of a browser's request, the API key."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None, key: str, answered: Answered) -> None:
        """`hosts`: names by which this server may be called, None for any; `key`: empty for none."""
        self._app = app
        self._hosts = hosts
        self._key = key.encode()
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(scope["path"], message["status"])
            await send(message)

        refusal = self._refusal(Headers(scope=scope), scope["path"])
        return await (refusal or self._app)(scope, receive, counting)

    def _refusal(self, headers: Headers, path: str) -> Response | None:
        host = headers.get("host", "")
        if self._hosts is not None and host.rpartition(":")[0] not in self._hosts and host not in self._hosts:
            # Perhaps a page that made its own name point here, to be of this server's origin (DNS rebinding).
            what = f"this server is not called {host[:100]!r}\n  do this: use http://127.0.0.1 and its port"
            return error_response(403, what, code="unknown_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return error_response(403, "pages of other sites may not ask this server", code="foreign_origin")
        if self._key and path not in _OPEN and not self._knows_key(headers.get("authorization", "")):
            what = "the API key is missing or wrong\n  do this: send it as `Authorization: Bearer KEY`"
            return error_response(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return None

    def _knows_key(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key)

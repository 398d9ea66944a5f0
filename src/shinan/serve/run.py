"""From a loaded model to a server that listens, and stops when it is told to."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace

import uvicorn

from shinan.core.errors import RunError
from shinan.serve.app import application
from shinan.serve.connection import Connection
from shinan.serve.engine import Engine
from shinan.serve.guard import LOOPBACK
from shinan.serve.served import Served

KEY = "SHINAN_SERVE_KEY"

_FINISH_WITHIN = 3.0  # seconds that a stopping server gives to what it is decoding
_LEAVE_WITHIN = 5  # seconds after which it closes the connections that are left
_CONNECTIONS = 320  # more are answered with 503; each may hold a request of `LARGEST` bytes


class Server(uvicorn.Server):
    """uvicorn around one engine: a stop ends the engine's work, so that streams end with a sentence."""

    def __init__(self, served: Served, listener: socket.socket, *, slots: int, queue: int, key: str) -> None:
        """`listener` is bound already; `key`: empty for none."""
        self.engine = Engine(served.model, slots=slots, queue=queue)
        self._listener = listener
        served = replace(served, context=min(served.context, self.engine.room))
        host = listener.getsockname()[0]
        hosts = LOOPBACK | {_in_url(host)} if _is_loopback(host) else None
        config = uvicorn.Config(
            application(served, self.engine, hosts=hosts, key=key),
            http=Connection,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_LEAVE_WITHIN,
        )
        super().__init__(config)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._listener.getsockname()[:2]
        return f"http://{_in_url(host)}:{port}"

    def serve_until_stopped(self) -> None:
        """Answer requests until SIGTERM (then return) or Ctrl-C (then raise KeyboardInterrupt)."""
        self.engine.start()
        try:
            self.run(sockets=[self._listener])
        finally:
            self.engine.stop(within=0)
            self.engine.join(timeout=10)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more work, finish what is nearly done, close."""
        self.engine.stop(within=_FINISH_WITHIN)
        await super().shutdown(sockets)


def serve(
    served: Served, *, host: str, port: int, slots: int, queue: int, ready: Callable[[str], None] = lambda _: None
) -> None:
    """Serve until SIGTERM or Ctrl-C; `ready` is told the address.

    Raises RunError for an address that cannot be had, or for one that others can reach while no key is set.
    """
    key = os.environ.get(KEY, "").strip()
    if not key and not _is_loopback(host):
        what = f"at {host} others can reach the server, and no API key is set"
        raise RunError(what, where="--host", fix=f"set {KEY} to a secret of your own, or leave --host out")
    with listen(host, port) as listener:
        server = Server(served, listener, slots=slots, queue=queue, key=key)
        # uvicorn handles the signal, and raises it again after it has stopped: that must not kill us with an error
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            ready(server.url)
            server.serve_until_stopped()
        finally:
            signal.signal(signal.SIGTERM, before)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises RunError where there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        fix = "choose another --port, or stop what is listening there"
        raise RunError(f"cannot listen: {error}", where=f"{host}:{port}", fix=fix) from None


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

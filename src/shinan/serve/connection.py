"""A connection that does not wait for ever: neither for a request that trickles in, nor for a client that never reads.

uvicorn bounds how long an idle connection is kept, and nothing else.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_WITHIN = 30.0  # seconds from a request's first byte to its last
READ_WITHIN = 30.0  # seconds in which a client must take what was written


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 with a deadline for each request, and one for each stall of its reader."""

    _request: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is due."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that any byte that is not taken counts as a stall
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Some of a request is here."""
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        """The client does not take what was written."""
        super().pause_writing()
        self._stall = self.loop.call_later(READ_WITHIN, self.transport.abort)

    def resume_writing(self) -> None:
        """It has taken all."""
        super().resume_writing()
        if self._stall:
            self._stall.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        super().connection_lost(exc)
        for timer in filter(None, (self._request, self._stall)):
            timer.cancel()

    def _watch(self) -> None:
        """Run the request's clock while some of it is due."""
        due = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if due and self._request is None:
            self._request = self.loop.call_later(REQUEST_WITHIN, self.transport.abort)
        elif not due and self._request:
            self._request.cancel()
            self._request = None

"""What `/metrics` tells, in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shinan.serve.engine import Engine, Ticket

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counts of one server, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter("shinan_requests", "Requests answered.", ["path", "status"], registry=registry)
        tokens = Counter("shinan_tokens", "Tokens of finished requests.", ["kind"], registry=registry)
        self._read, self._written = tokens.labels("prompt"), tokens.labels("generated")
        self._took = Histogram(
            "shinan_request_seconds", "From a request to the end of its answer.", buckets=_SECONDS, registry=registry
        )
        self._first = Histogram(
            "shinan_first_token_seconds", "From a request to its first token.", buckets=_SECONDS, registry=registry
        )
        slots = Gauge(
            "shinan_slots", "Rows that can be decoded together, and those in use.", ["state"], registry=registry
        )
        slots.labels("all").set(engine.slots)
        slots.labels("busy").set_function(lambda: engine.busy)
        queue = Gauge("shinan_queue", "Replies waiting for a slot.", registry=registry)
        queue.set_function(lambda: engine.waiting)

    def answered(self, path: str, status: int) -> None:
        """A request got its status."""
        self._requests.labels(path, str(status)).inc()

    def decoded(self, tickets: Sequence[Ticket], came: float) -> None:
        """The tickets of a request that came at `came` (seconds of `time.monotonic`) have ended."""
        self._took.observe(time.monotonic() - came)
        for ticket in tickets:
            if ticket.first:
                self._first.observe(ticket.first - came)
            self._read.inc(len(ticket.row.prompt))
            self._written.inc(len(ticket.row.ids))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

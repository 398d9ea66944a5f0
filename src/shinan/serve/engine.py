"""The engine: one thread that owns the model, and a bounded queue in front of it.

Tickets are admitted in the order in which they came, as slots of the decode loop become free. Only the engine's thread
touches the model; others watch a ticket grow. What a ticket can grow to is bounded by its `max_new_tokens`, so that a
reader who never comes costs no more memory than one who does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shinan.models.decode import Row
from shinan.models.family import loop_of
from shinan.models.reply import ReplyText
from shinan.serve.reading import ReadToken, read

logger = logging.getLogger(__name__)

_LONGEST = 300  # characters of another library's message that are shown
_SMOOTHING = 0.1  # weight of the newest ticket in the mean time that a ticket takes

End = Literal["stop", "length", "cancelled", "failed"]


class BusyError(Exception):
    """The queue is full; `seconds` is a guess after what time there is room."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


class StoppingError(Exception):
    """The engine takes no more work."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One reply that is asked for. Only the engine changes it; `finish` is set last, when all else is there.

    Attributes:
        row: what is decoded.
        reply: its text.
        changed: called, from the engine's thread, whenever there is something new.
        read: tell the log-probabilities of the prompt too, with this many of the likeliest tokens; None: don't.
        prompt: what `read` asked for.
        finish: empty while it waits or runs.
        error: why it failed.
        began: when it got its slot, in seconds of `time.monotonic`; 0 before.
        first: when its first token was there; 0 before.
    """

    row: Row
    reply: ReplyText
    changed: Callable[[], None]
    read: int | None = None
    prompt: list[ReadToken] = field(default_factory=list)
    finish: End | Literal[""] = ""
    error: str = ""
    began: float = 0.0
    first: float = 0.0

    def end(self, finish: End, error: str = "") -> None:
        """Nothing more will come."""
        self.reply.close()
        self.error, self.finish = error, finish
        self.changed()


class Engine:
    """Decodes tickets, `slots` at a time; `queue` more may wait."""

    def __init__(self, model: Any, *, slots: int, queue: int) -> None:
        """`model` is a transformers model in eval mode."""
        self.slots, self.queue = slots, queue
        self._model = model
        self._loop = loop_of(model, slots=slots)
        self._wake = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._reading: dict[Ticket, Iterator[list[ReadToken]]] = {}
        self._running: dict[Row, Ticket] = {}
        self._gone: set[Ticket] = set()
        self._until = float("inf")  # when a stopping engine ends what is not finished
        self._takes = 1.0  # mean seconds that a ticket has its slot
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def room(self) -> int:
        """Tokens, read and written, that a ticket may have at most: what memory there is sets the limit."""
        return self._loop.max_tokens

    @property
    def waiting(self) -> int:
        """Tickets in the queue."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Slots in use."""
        return len(self._reading) + len(self._running)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._until < float("inf")

    def start(self) -> None:
        """Begin to work, in a thread of its own."""
        self._thread.start()

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Queue all of them or none. Raises BusyError where there is no room, StoppingError after `stop`."""
        with self._wake:
            if self.stopping:
                raise StoppingError
            ahead = self.busy + len(self._waiting) + len(tickets) - self.slots
            if ahead > self.queue:
                raise BusyError(min(max(round(ahead * self._takes / self.slots), 1), 60))
            self._waiting.extend(tickets)
            self._wake.notify()

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Nobody wants these any more: they leave the queue at once, and their slots before the next step."""
        with self._wake:
            for ticket in tickets:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                    ticket.end("cancelled")
                elif not ticket.finish:
                    self._gone.add(ticket)

    def stop(self, within: float) -> None:
        """Take no more work; what is not finished after `within` seconds fails. Returns at once."""
        with self._wake:
            self._until = min(self._until, time.monotonic() + within)
            self._wake.notify()

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended; whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        going = True
        while going:
            try:
                if going := self._admit():
                    self._step()
            except Exception as error:  # whatever a model raises ends the tickets at hand and no others
                logger.exception("the model failed")
                self._fail_running(f"the model failed: {type(error).__name__}: {str(error)[:_LONGEST]}")
        with self._wake:
            waiting, self._waiting = self._waiting, deque()
        self._fail_running("the server is stopping")
        for ticket in waiting:
            ticket.end("failed", "the server is stopping")

    def _admit(self) -> bool:
        """Wait for work; the gone leave, the first in the queue enter. False if the engine is to end."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self.busy or self.stopping)
            for ticket in self._gone:
                self._leave(ticket)
            self._gone.clear()
            if time.monotonic() >= self._until:
                return False
            while self._waiting and self.busy < self.slots:
                self._enter(self._waiting.popleft())
            return bool(self.busy) or not self.stopping

    def _enter(self, ticket: Ticket) -> None:
        ticket.began = time.monotonic()
        if ticket.read is None:
            self._run(ticket)
        else:
            self._reading[ticket] = read(self._model, ticket.row.prompt, ticket.read)

    def _run(self, ticket: Ticket) -> None:
        self._running[ticket.row] = ticket
        self._loop.add(ticket.row)

    def _leave(self, ticket: Ticket) -> None:
        if ticket.finish:
            return
        self._reading.pop(ticket, None)
        if self._running.pop(ticket.row, None):
            self._loop.cancel(ticket.row)
        ticket.end("cancelled")

    def _step(self) -> None:
        """One token for all that run, and a stretch of one prompt that is read."""
        for ticket, stretches in list(self._reading.items())[:1]:
            if stretch := next(stretches, None):
                ticket.prompt.extend(stretch)
            else:
                del self._reading[ticket]
                self._run(ticket)
        if self._loop.idle:
            return
        ended = self._loop.step()
        now = time.monotonic()
        for row, ticket in self._running.items():
            ticket.first = ticket.first or (now if row.ids else 0.0)
            ticket.changed()
        for row in ended:
            ticket = self._running.pop(row)
            self._takes += _SMOOTHING * (now - ticket.began - self._takes)
            ticket.end("stop" if row.finish == "stop" else "length")

    def _fail_running(self, why: str) -> None:
        """End all that have a slot. The decode loop is made anew: a step that broke off left it half done."""
        tickets = [*self._reading, *self._running.values()]
        self._reading, self._running = {}, {}
        self._loop = loop_of(self._model, slots=self.slots)
        for ticket in tickets:
            ticket.end("failed", why)

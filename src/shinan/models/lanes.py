"""How many requests may be out at each address: more while it answers, half as many when it pushes back (AIMD)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Event

from shinan.models.wire import UnusableError

_FIRST, _LONGEST = 0.25, 8.0  # seconds of rest after one failure, and after many


class StoppedError(Exception):
    """The work was called off; nothing more is sent."""


@dataclass(slots=True, eq=False)
class Lane:
    """One address.

    Attributes:
        url: the base address.
        limit: how many requests may be out; a fraction is on its way to the next whole one.
        out: how many are.
        rests_until: nothing is sent before this moment (seconds of the monotonic clock).
        bad: failures since the last reply.
        out_since: when it was first unreachable or pushed back, after its last reply.
        answered: whether it has ever answered anything.
        halved: when its limit was last halved.
        trouble: why the last request did not get through.
        given_up: whether that has gone on for too long.
    """

    url: str
    limit: float
    out: int = 0
    rests_until: float = 0.0
    bad: int = 0
    out_since: float | None = None
    answered: bool = False
    halved: float = -1.0
    trouble: str = ""
    given_up: bool = False

    @property
    def open(self) -> bool:
        """Whether a request may go out now."""
        return self.out < int(self.limit) and time.monotonic() >= self.rests_until


class Lanes:
    """All addresses of a model, used at once: a request takes the one with the largest share of its limit free."""

    def __init__(self, urls: Sequence[str], most: int, patience: float) -> None:
        """At most `most` requests are out in all; who answers none for `patience` seconds is given up."""
        self._lanes = [Lane(url, float(most)) for url in urls]
        self._most, self._patience = most, patience
        self._changed = Condition()

    @contextmanager
    def lane(self, stop: Event) -> Iterator[Lane]:
        """A place for one request, when there is one.

        Raises StoppedError if `stop` is set while it waits, and UnusableError if all addresses are given up.
        """
        with self._changed:
            while not (free := self._free()):
                self._changed.wait(self._rest_left())
                if stop.is_set():
                    raise StoppedError
            free.out += 1
        try:
            yield free
        finally:
            with self._changed:
                free.out -= 1
                self._changed.notify()

    def _free(self) -> Lane | None:
        up = [lane for lane in self._lanes if not lane.given_up]
        if not up:
            what = "; ".join(f"{lane.url}: {lane.trouble}" for lane in self._lanes)
            fix = "check the address and that the server runs and has room, then give the same command again"
            raise UnusableError("unreachable", what, fix=fix)
        if sum(lane.out for lane in self._lanes) >= self._most:
            return None
        return min((lane for lane in up if lane.open), key=lambda lane: lane.out / lane.limit, default=None)

    def _rest_left(self) -> float:
        """Seconds until an address has rested, at most half a second: to see soon that all are given up."""
        now = time.monotonic()
        return min([0.5, *(max(0.001, lane.rests_until - now) for lane in self._lanes if lane.rests_until > now)])

    def _outage(self, lane: Lane, trouble: str) -> None:
        """A request did not get through. An address that never answered is probably mistyped: that is told soon."""
        now = time.monotonic()
        lane.trouble, lane.out_since = trouble, lane.out_since or now
        lane.given_up = now - lane.out_since > (self._patience if lane.answered else min(self._patience, 5.0))

    def went_well(self, lane: Lane) -> None:
        """A reply came: one more request for every round of replies."""
        with self._changed:
            lane.answered, lane.bad, lane.out_since = True, 0, None
            lane.limit = min(float(self._most), lane.limit + 1 / lane.limit)

    def pushed_back(self, lane: Lane, trouble: str, sent: float, after: float | None, jitter: float) -> None:
        """Too many requests: half as many, once for all that were out together (`sent` before the last halving).

        The address rests for `after` seconds if it says so, else longer each time; `jitter` lies in [0, 1).
        """
        with self._changed:
            lane.answered = True
            self._outage(lane, trouble)
            if sent > lane.halved:
                lane.limit, lane.halved, lane.bad = max(1.0, lane.limit / 2), time.monotonic(), lane.bad + 1
            pause = rest(lane.bad, jitter) if after is None else after
            lane.rests_until = max(lane.rests_until, time.monotonic() + pause)

    def unreachable(self, lane: Lane, trouble: str, jitter: float) -> None:
        """No connection: it rests a little; other addresses go on."""
        with self._changed:
            self._outage(lane, trouble)
            now = time.monotonic()
            if now >= lane.rests_until:  # once for all that found out together
                lane.bad += 1
                lane.rests_until = now + rest(lane.bad, jitter)

    def go_on(self) -> None:
        """A new beginning: what was given up gets another chance."""
        with self._changed:
            for lane in self._lanes:
                lane.out_since, lane.given_up = None, False


def rest(bad: int, jitter: float) -> float:
    """Seconds to wait after the `bad`-th failure: exponential, between half and the whole of it."""
    return min(_LONGEST, _FIRST * 2.0 ** min(bad, 10)) * (0.5 + jitter / 2)


def sleep(seconds: float, stop: Event) -> None:
    """Rest. Raises StoppedError if the work is called off meanwhile."""
    if stop.wait(seconds):
        raise StoppedError

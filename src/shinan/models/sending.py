"""HTTP calls on their way: threads, attempts, deadlines, and the note in the ledger before each one goes out.

Threads over urllib3's connection pools: with 64 requests in flight, httpx took too much processor time to keep an
endpoint that answers in 50 ms busy (LOG.md).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from queue import SimpleQueue
from typing import NamedTuple, Self

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from shinan.core.calls import Turn, Why
from shinan.core.errors import ModelError, RunError
from shinan.core.hashing import derive_seed
from shinan.models import wire
from shinan.models.books import Asked, Books, SpentError, Tell, failure
from shinan.models.endpoint import Endpoint, api_key, key_advice
from shinan.models.generator import Completion
from shinan.models.lanes import Lane, Lanes, StoppedError, rest, sleep
from shinan.models.proxies import way_to
from shinan.models.wire import Json, UnusableError, Usage
from shinan.version import __version__

_BLOCK = 1 << 16
_LOOK_AGAIN = 0.05  # seconds until what is in flight elsewhere, or waits for budget, is looked at again
_LONGEST_REST = 300.0  # seconds; who asks for more (Retry-After) is asked again earlier
_SECRET = 16  # characters from which on a key is a secret, not a placeholder that a local server is content with
_UNCOUNTED = ("busy", "unreachable")  # the address's trouble, not the request's: `Patience.outage` bounds them


class Patience(NamedTuple):
    """How long to wait, in seconds, and how often to try again.

    Attributes:
        attempts: of one request. Pushing back (429, 503) does not count, nor does an address that is down.
        connect: until a connection stands.
        silence: without a byte of the answer.
        answer: until the answer is whole.
        outage: until an address that is down, or only pushes back, is given up for this time.
        size: bytes of the longest answer.
    """

    attempts: int = 5
    connect: float = 10.0
    silence: float = 600.0
    answer: float = 600.0
    outage: float = 300.0
    size: int = 10_000_000


PATIENCE = Patience()


@dataclass(slots=True)
class Shot:
    """One HTTP call, for one request or for several that differ in their draw only.

    Attributes:
        members: index of each request without an answer yet, and what the ledger knows it by.
        path: of the function called.
        body: what is sent, for one reply.
        read: (answer, most replies wanted) -> one completion for each of the first members. Raises UnusableError.
        seeds: of each member, by index, where there are several: a call has the first one's of those it is sent for.
    """

    members: list[tuple[int, Asked]]
    path: str
    body: Json
    read: Callable[[Json, int], list[Completion]]
    seeds: dict[int, int] = field(default_factory=dict)


class Sender:
    """Sends shots to the addresses of an endpoint, at most `concurrency` at once."""

    def __init__(self, endpoint: Endpoint, books: Books, concurrency: int, patience: Patience) -> None:
        self._endpoint, self._books, self._patience = endpoint, books, patience
        self._concurrency = concurrency
        self._lanes = Lanes(endpoint.urls, concurrency, patience.outage)
        timeout = urllib3.Timeout(connect=patience.connect, read=patience.silence)
        self._ways = {url: way_to(url, maxsize=concurrency, retries=False, timeout=timeout) for url in endpoint.urls}

    def fire(self, shots: Sequence[Shot], tell: Tell) -> None:
        """Send everything. Raises what stopped it, after what was in flight has come back."""
        self._lanes.go_on()
        waiting, troubles = iter(shots), list[BaseException]()
        lock, stop = threading.Lock(), threading.Event()

        def work(end: threading.Event) -> None:
            try:
                with suppress(StoppedError):
                    while not stop.is_set():
                        with lock:
                            shot = next(waiting, None)
                        if shot is None:
                            return
                        self._complete(shot, handing, stop)
            except BaseException as error:  # noqa: BLE001  the caller's thread raises it
                troubles.append(error)
                stop.set()
            finally:
                end.set()

        with _HandingOn(tell) as handing:
            ends = [threading.Event() for _ in range(min(self._concurrency, len(shots)))]
            for end in ends:
                threading.Thread(target=work, args=(end,), daemon=True).start()
            try:
                _wait(ends)
            except BaseException:  # Ctrl-C: what is in flight is waited for and kept
                stop.set()
                _wait(ends)
                raise
        if troubles:
            raise troubles[0]

    def _complete(self, shot: Shot, handing: _HandingOn, stop: threading.Event) -> None:
        """Try until every member has a reply, or is told to have failed."""
        bad = 0
        while shot.members:
            try:
                if not self._attempt(shot, handing, bad, stop):
                    sleep(_LOOK_AGAIN, stop)
            except UnusableError as trouble:
                bad += trouble.reason not in _UNCOUNTED
                if bad >= self._patience.attempts or not trouble.again:
                    _give_up(shot, handing, trouble)
                elif trouble.amended:
                    shot.body = trouble.amended
                elif trouble.reason not in _UNCOUNTED:
                    sleep(rest(bad, _jitter(shot, bad)), stop)

    def _attempt(self, shot: Shot, handing: _HandingOn, bad: int, stop: threading.Event) -> bool:
        """Send once, after `bad` failures, whatever of the shot has its turn; whether anything had.

        Raises UnusableError.
        """
        going: list[tuple[int, Asked]] = []
        try:
            with self._lanes.lane(stop) as lane:
                self._take_turns(shot, going, handing)
                replies = self._ask(lane, shot, going, bad) if going else []
            found = bool(going)
            for reply in replies:
                handing.tell(going[0][0], reply)
                shot.members.remove(going.pop(0))
        except Exception as error:
            self._end(going, error.why if isinstance(error, UnusableError) else "uncertain")
            raise
        self._end(going, None)  # fewer replies came than were wanted
        return found or not shot.members

    def _end(self, going: Sequence[tuple[int, Asked]], why: Why | None) -> None:
        for _, asked in going:
            with suppress(RunError):  # the disk is full: the ledger finds out later that these were in flight
                self._books.end(asked, why)

    def _take_turns(self, shot: Shot, going: list[tuple[int, Asked]], handing: _HandingOn) -> None:
        """Add to `going` the members that may be sent now, each noted as in flight.

        Those that were answered meanwhile are told, and leave the shot.
        """
        most = (wire.prompt_bound(shot.body), wire.reply_bound(shot.body))
        for index, asked in list(shot.members):
            turn = self._books.begin(asked, *most)
            if turn is Turn.GO:
                going.append((index, asked))
            elif turn is Turn.KNOWN:
                handing.tell(index, self._books.answer(asked), kept=True)
                shot.members.remove((index, asked))
            elif going:
                break
            elif turn is Turn.SPENT:
                raise SpentError
            else:
                self._books.ledger.bury_killed()  # it may be the flight of a process that is no more
                break

    def _ask(self, lane: Lane, shot: Shot, going: Sequence[tuple[int, Asked]], bad: int) -> list[Completion]:
        """One HTTP call, its bill, and what it says of the address. Raises UnusableError."""
        sent = time.monotonic()
        try:
            body = shot.body | ({"n": len(going)} if len(going) > 1 else {})
            body |= {"seed": shot.seeds[going[0][0]]} if shot.seeds else {}
            answer = self._post(lane, shot.path, body)
            self._bill(going, wire.usage_of(answer), 1)
            replies = shot.read(answer, len(going))
        except UnusableError as trouble:
            if trouble.reason == "busy":
                self._lanes.pushed_back(lane, trouble.sentence, sent, trouble.after, _jitter(shot, bad))
            elif trouble.reason == "unreachable":
                self._lanes.unreachable(lane, trouble.sentence, _jitter(shot, bad))
            raise
        self._lanes.went_well(lane)
        self._bill(going, wire.usage_of(answer), len(replies))
        return replies

    def _bill(self, going: Sequence[tuple[int, Asked]], usage: Usage, parts: int) -> None:
        """Divide what a call used up among the first members; the prompt is paid once. Without usage, no bill."""
        if not any(usage):
            return
        bills = wire.shares(usage, parts) + [Usage()] * (len(going) - parts)
        for place, ((_, asked), part) in enumerate(zip(going, bills, strict=True)):
            self._books.bill(asked, 0 if place else usage.prompt_tokens, part.new_tokens)

    # ---- the network ----

    def _post(self, lane: Lane, path: str, body: Json) -> Json:
        try:
            data = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            what = f"the request holds half a character (a lone surrogate): {error.reason}"
            raise UnusableError("text", what) from None
        status, headers, answer = self._call("POST", lane.url, path, data)
        if status == 200:
            return wire.decoded(answer, headers.get("content-type", ""))
        models = self._models(lane.url) if status == 404 else []
        trouble = wire.refusal(status, answer, self._endpoint.model, models, key_advice(lane.url))
        trouble.after = _retry_after(headers.get("retry-after", ""))
        raise trouble

    def _models(self, url: str) -> list[str]:
        """The models that an address lists; none if it does not."""
        try:
            status, _, answer = self._call("GET", url, "/models", None)
            return wire.models_of(wire.decoded(answer)) if status == 200 else []
        except UnusableError:
            return []

    def _call(self, method: str, url: str, path: str, data: bytes | None) -> tuple[int, urllib3.HTTPHeaderDict, bytes]:
        """(status, headers, body), whatever the status. Raises UnusableError if there is no whole answer."""
        key = api_key(url)
        headers = {"Content-Type": "application/json", "User-Agent": f"shinan/{__version__}"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        start = time.monotonic()
        try:
            response = self._ways[url].open(method, path, data, headers)
            try:
                answer = self._read(response, start)
            except BaseException:
                response.close()  # what is left of the answer must not be taken for the next one
                raise
            response.release_conn()
        except (NewConnectionError, ConnectTimeoutError, ProxyError) as error:
            raise UnusableError("unreachable", f"no connection: {_brief(error)}", again=True) from None
        except SSLError as error:
            what = f"no trusted connection: {_brief(error)}"
            raise UnusableError("url", what, fix="check the address and its certificate") from None
        except ReadTimeoutError:
            what = f"the endpoint sent nothing for {self._patience.silence:g} s"
            raise UnusableError("timeout", what, again=True, why="uncertain") from None
        except (HTTPError, OSError) as error:
            cut = isinstance(_beneath(error), IncompleteRead)
            what = f"the answer is cut off: {_brief(error)}" if cut else f"the connection broke: {_brief(error)}"
            raise UnusableError("truncated" if cut else "reset", what, again=True, why="uncertain") from None
        # A placeholder may be a word of any answer (`test`, `none`); it is kept out of what is shown as an error only.
        if key and (response.status != 200 or len(key) >= _SECRET):
            answer = answer.replace(key.encode(), b"[key]")
        return response.status, response.headers, answer

    def _read(self, response: urllib3.BaseHTTPResponse, start: float) -> bytes:
        parts, size = [], 0
        while part := response.read1(_BLOCK):  # as it comes: a slow answer must not hide from its deadline
            parts.append(part)
            size += len(part)
            if size > self._patience.size:
                what = f"the answer is longer than {self._patience.size / 1e6:g} MB"
                raise UnusableError("large", what, why="uncertain")
            if time.monotonic() - start > self._patience.answer:
                what = f"the answer was not whole after {self._patience.answer:g} s"
                raise UnusableError("timeout", what, again=True, why="uncertain")
        return b"".join(parts)


class _HandingOn:
    """A thread that waits until the ledger has the replies told, many at a time, and hands them on to those who asked.

    Meanwhile the thread that told goes on: its next request is noted in the ledger after the reply, so that there are
    never more requests out, or replies not yet in the ledger, than threads. Used as a context manager: at its end
    everything is handed on, and what went wrong is raised.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told = SimpleQueue[Callable[[], None] | None]()
        self._trouble: BaseException | None = None
        self._end = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._told.put(None)
        _wait([self._end])
        if self._trouble:
            raise self._trouble

    def tell(self, index: int, reply: Completion, *, kept: bool = False) -> None:
        """See `Tell`. Raises what went wrong with an earlier reply."""
        self._told.put(self._tell(index, reply, kept=kept))
        if self._trouble:
            raise self._trouble

    def _work(self) -> None:
        while hand_on := self._told.get():
            try:
                hand_on()
            except BaseException as error:  # noqa: BLE001  raised where it can be acted on; the rest is kept all the same
                self._trouble = self._trouble or error
        self._end.set()


def _jitter(shot: Shot, bad: int) -> float:
    """In [0, 1): spreads the attempts of requests that failed together."""
    return derive_seed(0, "retry", shot.members[0][1].key, bad) / 2**63


def _wait(ends: Sequence[threading.Event]) -> None:
    """Until all are set. Not by joining threads: an interrupted `join` takes its thread for ended (bpo-45274)."""
    for end in ends:
        while not end.wait(0.2):  # a wait without an end may not notice Ctrl-C
            pass


def _give_up(shot: Shot, handing: _HandingOn, trouble: UnusableError) -> None:
    for index, _ in shot.members:
        handing.tell(index, failure(trouble.reason, trouble.sentence))
    shot.members = []
    if trouble.fix:
        raise ModelError(trouble.sentence, fix=trouble.fix)


def _beneath(error: Exception) -> Exception:
    """What urllib3 has wrapped, if anything."""
    inner = error.args[-1] if error.args else None
    return inner if isinstance(inner, Exception) else error


def _brief(error: Exception) -> str:
    """The message without the connection at its head."""
    text = str(_beneath(error))
    return text.rpartition(": ")[2] if text.startswith(("<", "HTTP")) else text


def _retry_after(stated: str) -> float | None:
    """Seconds that a Retry-After header asks for (a number or a date), at most five minutes; None if it doesn't."""
    try:
        seconds = float(stated)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(stated).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), _LONGEST_REST) if seconds == seconds else None

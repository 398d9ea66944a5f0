"""The ledger as one model's calls see it: what is known is not asked, what is asked is kept before anybody sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol

from shinan.core.calls import NOTHING, UNLIMITED, Amount, Call, DeadLetter, Limit, Turn, Why, ledger_json
from shinan.core.errors import ModelError, RunError
from shinan.core.hashing import content_hash
from shinan.core.ledger import Ledger
from shinan.models.generator import Completion, Done, Generator, Likelihood, Question, Request, Sampling, check_options
from shinan.models.prices import FREE, Price, dollars

# Failures that say something of the endpoint or the settings, not of the request: the next run asks again.
PASSING = ("unreachable", "key", "model", "url")


class SpentError(Exception):
    """The next request may take more than the budget has left."""


class BudgetError(RunError):
    """A budget stopped the work. What was answered is in the ledger."""


class Asked(NamedTuple):
    """What the ledger knows a request by: its key, and the request itself as JSON."""

    key: str
    request: str


@dataclass(slots=True)
class _Open:
    """A request without an answer yet: attempts so far, since when, the most the last one can cost, what all have."""

    attempts: int = 0
    since: float = field(default_factory=time.monotonic)
    reserve: Amount = NOTHING
    lost: Amount = NOTHING
    bill: Amount | None = None

    @property
    def paid(self) -> Amount:
        """What the last attempt cost, as far as can be known."""
        return self.reserve if self.bill is None else self.bill


@dataclass(frozen=True, slots=True)
class Books:
    """One model's account in the ledger. Safe for threads.

    Attributes:
        ledger: where calls are kept.
        model: the model's name.
        revision: its version, as declared.
        account: who pays; a budget counts what its account has spent, in this process and before.
        price: of tokens.
        limit: the budget.
        retry_failed: whether requests that have failed are asked again; else their failure is their answer.
    """

    ledger: Ledger
    model: str
    revision: str = ""
    account: str = ""
    price: Price = FREE
    limit: Limit = UNLIMITED
    retry_failed: bool = False
    _open: dict[str, _Open] = field(default_factory=dict, init=False, repr=False)

    def asked(self, request: Request) -> Asked:
        """A request as the ledger knows it. What is empty is left out, so that later fields change no key."""
        value = _filled(request)
        value["messages"] = [[message.role, message.text] for message in request.messages]
        value["sampling"] = _filled(request.sampling)
        return self._asked({name: part for name, part in value.items() if part})

    def asked_option(self, question: Question, option: str) -> Asked:
        """An option of a question as the ledger knows it."""
        messages = [[message.role, message.text] for message in question.messages]
        return self._asked({"messages": messages, "prompt": question.prompt, "option": option})

    def _asked(self, value: dict[str, Any]) -> Asked:
        return Asked(content_hash([self.model, self.revision, value]), ledger_json(value))

    def find(self, asked: Sequence[Asked]) -> list[Completion | None]:
        """The answer to each request that has one. A failure counts for one, unless it was passing or is retried."""
        found = self.ledger.find(one.key for one in asked)
        return [self._known(found.get(one.key)) for one in asked]

    def answer(self, asked: Asked) -> Completion:
        """The answer of a request that has one (`Turn.KNOWN`)."""
        [reply] = self.find([asked])
        if reply is None:
            raise KeyError(asked.key)
        return reply

    def _known(self, entry: Call | DeadLetter | None) -> Completion | None:
        if isinstance(entry, Call):
            return _completion(entry.response)
        if entry is None or self.retry_failed or entry.reason in PASSING:
            return None
        return failure(entry.reason, entry.error)

    def begin(self, asked: Asked, prompt_tokens: int, new_tokens: int) -> Turn:
        """Ask to send a request that takes at most so many tokens (see `Ledger.begin`)."""
        reserve = self.price.of(prompt_tokens, new_tokens)
        turn = self.ledger.begin(asked.key, model=self.model, account=self.account, reserve=reserve, limit=self.limit)
        if turn is Turn.GO:
            entry = self._open.setdefault(asked.key, _Open())
            entry.attempts, entry.reserve, entry.bill = entry.attempts + 1, reserve, None
        return turn

    def bill(self, asked: Asked, prompt_tokens: int, new_tokens: int) -> None:
        """What the present attempt cost. One without a bill is taken to have cost all that was reserved."""
        self._open[asked.key].bill = self.price.of(prompt_tokens, new_tokens)

    def end(self, asked: Asked, why: Why | None) -> None:
        """An attempt is over and brought no answer. Without a `why` it cost nothing; a useless reply costs its bill."""
        entry = self._open[asked.key]
        used = NOTHING if why is None else entry.paid
        entry.lost = Amount(entry.lost.tokens + used.tokens, entry.lost.nanousd + used.nanousd)
        self.ledger.end(asked.key, used, why or "useless")

    def settle(self, asked: Asked, reply: Completion) -> Callable[[], None]:
        """Keep an answer, or the failure to get one. What is returned waits until it is on the disk; a request that
        is noted by `begin` later than this goes out later, too."""
        entry = self._open.get(asked.key) or _Open(attempts=1, bill=self._of(reply))
        facts: dict[str, Any] = {
            "key": asked.key,
            "model": self.model,
            "revision": self.revision,
            "request": asked.request,
            "attempts": entry.attempts,
            "seconds": time.monotonic() - entry.since,
            "account": self.account,
        }
        if reply.finish == "failed":
            reason, _, error = reply.error.partition(": ")
            wait = self.ledger.bury(DeadLetter(**facts, reason=reason, error=error, **entry.lost._asdict()))
        else:
            wait = self.ledger.record(Call(**facts, response=ledger_json(_filled(reply)), **entry.paid._asdict()))

        def settled() -> None:
            wait()
            self._open.pop(asked.key, None)

        return settled

    def sentence(self) -> str:
        """How much of the budget is used."""
        spent = self.ledger.spent(self.account)
        if self.limit.nanousd is not None:
            return f"{dollars(spent.nanousd)} of {dollars(self.limit.nanousd)}"
        return f"{spent.tokens:,} of {self.limit.tokens or 0:,} tokens"

    def _of(self, reply: Completion) -> Amount:
        return self.price.of(reply.prompt_tokens, reply.new_tokens)


def failure(reason: str, sentence: str) -> Completion:
    """A request without a reply: `reason` is a short stable word."""
    return Completion("", finish="failed", error=f"{reason}: {sentence}")


def _filled(value: Request | Sampling | Completion) -> dict[str, Any]:
    """Its fields that are not empty."""
    return {field.name: part for field in fields(value) if (part := getattr(value, field.name))}


def _completion(response: str) -> Completion:
    value = {"text": ""} | json.loads(response)
    known = Completion(**value)
    return replace(known, ids=tuple(known.ids), logprobs=tuple(known.logprobs))


class Tell(Protocol):
    """Told of a reply by the index of its request; with `kept`, it came from the ledger.

    What is returned must be called, by one thread at a time: it waits until the ledger has the reply, then hands it on
    to those who asked.
    """

    def __call__(self, index: int, reply: Completion, *, kept: bool = False) -> Callable[[], None]: ...


Send = Callable[[Sequence[int], Tell], object]
"""(indices of the requests to ask, whom to tell): tells of each reply, or raises after it has told of all it got."""


def through(books: Books, asked: Sequence[Asked], send: Send, done: Done | None = None) -> list[Completion]:
    """Completions from the ledger where it has them; the rest is asked with `send`, equal requests once.

    A completion is in the ledger before `done` or the caller sees it; `done` is called by one thread at a time.
    Raises BudgetError for a budget that is spent, and what `send` raises.
    """
    replies: dict[int, Completion] = {}
    places: dict[str, list[int]] = {}

    def seen(index: int, reply: Completion) -> None:
        replies[index] = reply
        if done:
            done(index, reply)

    def arrived(index: int, reply: Completion, *, kept: bool = False) -> Callable[[], None]:
        settled = None if kept else books.settle(asked[index], reply)

        def hand_on() -> None:
            if settled:
                settled()
            for place in places[asked[index].key]:
                seen(place, reply)

        return hand_on

    for index, (one, known) in enumerate(zip(asked, books.find(asked), strict=True)):
        if known is None:
            places.setdefault(one.key, []).append(index)
        else:
            seen(index, known)
    if places:
        try:
            send([found[0] for found in places.values()], arrived)
        except SpentError:
            left = len(asked) - len(replies)
            what = f"the budget is spent ({books.sentence()}): {len(replies)} requests are answered, {left} are left"
            fix = "give the same command with a larger budget: what was answered is not asked again"
            raise BudgetError(what, fix=fix) from None
    return [replies[index] for index in range(len(asked))]


def as_reply(found: Likelihood, usage: tuple[int, int] = (0, 0)) -> Completion:
    """A likelihood as the ledger keeps it: the text of a completion."""
    return Completion(json.dumps(found), prompt_tokens=usage[0], new_tokens=usage[1])


def scored(books: Books, questions: Sequence[Question], send: Send) -> list[tuple[Likelihood, ...]]:
    """Likelihoods from the ledger where it has them; `send` asks the rest and tells each `as_reply`.

    Its indices count the options of all questions, in order. Raises ModelError if one could not be had.
    """
    asked = [books.asked_option(question, option) for question in questions for option in question.options]
    replies = through(books, asked, send)
    if failed := [reply.error for reply in replies if reply.finish == "failed"]:
        what = f"{len(failed)} of {len(replies)} options could not be scored: {failed[0]}"
        raise ModelError(what, where=books.model, fix="see `shinan ledger --failed`, and retry those")
    found = iter([Likelihood(*json.loads(reply.text)) for reply in replies])
    return [tuple(next(found) for _ in question.options) for question in questions]


@dataclass(frozen=True, slots=True)
class Ledgered:
    """Any Generator with a ledger before it: a request that was answered once is never asked again.

    >>> teacher = Ledgered(generator, Books(Ledger(cache_root()), generator.name))  # doctest: +SKIP
    """

    inner: Generator
    books: Books

    @property
    def name(self) -> str:
        """The model's name."""
        return self.inner.name

    def key(self, request: Request) -> str:
        """What the ledger knows the request by, for provenance."""
        return self.books.asked(request).key

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """See `Generator.generate`."""

        def send(missing: Sequence[int], arrived: Tell) -> None:
            self.inner.generate([requests[i] for i in missing], lambda at, reply: arrived(missing[at], reply)())

        return through(self.books, [self.books.asked(request) for request in requests], send, done)

    def score(self, questions: Sequence[Question]) -> list[tuple[Likelihood, ...]]:
        """See `Generator.score`. Options that are known are left out of what the generator is asked."""
        check_options(questions)
        owners = [(question, option) for question in questions for option in question.options]

        def send(missing: Sequence[int], arrived: Tell) -> None:
            places: dict[Question, list[int]] = {}
            for index in missing:
                places.setdefault(owners[index][0], []).append(index)
            rest = [replace(question, options=tuple(owners[i][1] for i in own)) for question, own in places.items()]
            for own, found in zip(places.values(), self.inner.score(rest), strict=True):
                for index, likelihood in zip(own, found, strict=True):
                    arrived(index, as_reply(likelihood))()

        return scored(self.books, questions, send)

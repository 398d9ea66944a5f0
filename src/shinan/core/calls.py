"""What the ledger keeps: calls and their amounts, failures, losses."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple

from shinan.core.hashing import canonical_json

_SURROGATE = re.compile("[\ud800-\udfff]")


class Amount(NamedTuple):
    """What calls use up: tokens, and money in billionths of a dollar (whole numbers add up exactly)."""

    tokens: int = 0
    nanousd: int = 0


NOTHING = Amount()


class Limit(NamedTuple):
    """The most that an account may spend; None is no limit."""

    tokens: int | None = None
    nanousd: int | None = None

    def holds(self, *amounts: Amount) -> bool:
        """Whether the sum of the amounts is within the limit."""
        sums = (sum(column) for column in zip(*amounts, strict=True))
        return all(most is None or spent <= most for most, spent in zip(self, sums, strict=True))


UNLIMITED = Limit()


def now() -> str:
    """UTC time, ISO 8601, in seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(frozen=True, slots=True)
class Call:
    """A request with its answer.

    Attributes:
        key: hash of model, revision, request and sample.
        model: the model's name.
        revision: which of its versions, as declared.
        request: what was asked, as `ledger_json`.
        response: what was answered, as `ledger_json`.
        tokens: of prompt and reply together.
        nanousd: what they cost, in billionths of a dollar.
        attempts: how often it was sent until the answer came.
        seconds: from the first attempt to the answer.
        account: who pays: the evaluation or run that asked first.
        at: UTC time, ISO 8601.
    """

    key: str
    model: str
    revision: str
    request: str
    response: str
    tokens: int = 0
    nanousd: int = 0
    attempts: int = 1
    seconds: float = 0.0
    account: str = ""
    at: str = field(default_factory=now)

    @property
    def used(self) -> Amount:
        """Tokens and money."""
        return Amount(self.tokens, self.nanousd)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request that got no answer: fields as in `Call`; `reason` is a short stable word, `error` the last sentence.

    What its attempts cost is also noted as losses, attempt by attempt.
    """

    key: str
    model: str
    revision: str
    request: str
    reason: str
    error: str
    tokens: int = 0
    nanousd: int = 0
    attempts: int = 1
    seconds: float = 0.0
    account: str = ""
    at: str = field(default_factory=now)

    @property
    def used(self) -> Amount:
        """Tokens and money."""
        return Amount(self.tokens, self.nanousd)


Why = Literal["killed", "uncertain", "useless", "twice"]


class Loss(NamedTuple):
    """Paid, or perhaps paid, without an answer.

    `why`: the process was `killed` while the request was in flight; `uncertain`, since no reply came in time or the
    connection was cut; the reply was `useless`; or it was asked `twice`, and the other answer was kept.
    """

    key: str
    why: Why
    model: str
    account: str
    used: Amount
    at: str


class Spend(NamedTuple):
    """What one model used up on one day (UTC): answers, dead letters, losses, and the tokens and money of all."""

    model: str
    day: str
    calls: int
    dead: int
    lost: int
    used: Amount


class Turn(Enum):
    """Whether a request may go out now."""

    GO = "it is noted as in flight"
    KNOWN = "the ledger has its answer"
    BUSY = "it is in flight already, here or in another process"
    FULL = "the budget is reserved for what is in flight; something may be left when that has come back"
    SPENT = "the budget has no room for it"


def ledger_json(value: Any) -> str:
    """Canonical JSON that can be stored and searched as text: lone surrogates are written as escapes."""
    text = canonical_json(value).decode("utf-8", "surrogatepass")
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

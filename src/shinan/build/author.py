"""How models write rows: the shape that every method of `build.distil` and `build.improve` has.

A method is a generator function that works in rounds:

    author = Author("evol", teacher, seed, ...)           the teacher at work on this build
    while not author.spent:                               a round is planned from what is there at its start,
        asks = [author.ask(PROMPT, ...) for ...]
        for reply in author.answers(asks):                asked all at once, and folded in the order of the asks;
            verdict = unusable(reply)                     what is wrong with a reply is counted, in a row of its own
            if verdict: yield author.drop(author.row(reply), verdict)
            else: yield author.row(reply, messages)

So neither the order in which answers come nor a kill can change a later request, and a larger budget asks the same
first and then more: the rows of the smaller one are a prefix of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

from shinan.build.prompts import PLAIN, Prompt
from shinan.build.teachers import Model, as_teacher
from shinan.core.example import Example, Message, Provenance, assistant, user
from shinan.core.hashing import derive_seed
from shinan.core.verdict import Verdict
from shinan.models.generator import Completion, Generator, Request, Sampling

_HALF = re.compile("[\ud800-\udfff]")


@runtime_checkable
class Ledgered(Protocol):
    """A generator that knows requests by a key of the ledger."""

    def key(self, request: Request) -> str:
        """The key."""
        ...


class Ask(NamedTuple):
    """A planned call: which prompt, filled how, and the ids of the rows that stand in it."""

    prompt: Prompt
    request: Request
    parents: tuple[str, ...] = ()


class Reply(NamedTuple):
    """A call with its answer."""

    ask: Ask
    completion: Completion

    @property
    def text(self) -> str:
        """What the model wrote. Half a character (a lone surrogate), which no file can hold, is U+FFFD."""
        return _HALF.sub("\ufffd", self.completion.text)

    @property
    def asked(self) -> str:
        """What it was asked, without earlier turns."""
        return self.ask.request.messages[-1].text if self.ask.request.messages else self.ask.request.prompt


@dataclass(slots=True)
class Author:
    """A model at work on one build: plans and counts its calls, and signs and numbers the rows.

    Attributes:
        method: the component's name; the first word of where rows come from.
        generator: the model.
        seed: every request's seed derives from it.
        licence: terms under which the model's output may be used.
        budget: no round should begin once so many calls are planned; None is no limit.
        raw: ask with the bare prompt, for a model that only continues text, and not with a user turn.
        calls: calls planned so far.
        rows: rows signed so far, dropped ones included.
    """

    method: str
    generator: Generator
    seed: int
    licence: str = "unknown"
    budget: int | None = None
    raw: bool = False
    calls: int = field(default=0, init=False)
    rows: int = field(default=0, init=False)

    @classmethod
    def of(cls, method: str, model: Model, seed: int, *, budget: int | None = None) -> Author:
        """Open a model for a method. Raises ModelError, ConfigError, RunError."""
        teacher = as_teacher(model)
        generator = teacher.open(account=f"build.{method}/{seed:016x}")
        return cls(method, generator, seed, teacher.terms, budget, teacher.raw)

    @property
    def source(self) -> str:
        """Where the rows come from: no other build of a recipe has the same."""
        return f"{self.method}:{self.generator.name}/{self.seed:016x}"

    @property
    def spent(self) -> bool:
        """Whether the budget allows no further round."""
        return self.budget is not None and self.calls >= self.budget

    def ask(
        self,
        prompt: Prompt,
        fields: Mapping[str, str],
        *key: int | str,
        sampling: Sampling,
        stop: Sequence[str] = (),
        before: Sequence[Message] = (),
        parents: Sequence[str] = (),
        sample: int = 0,
    ) -> Ask:
        """Plan a call.

        Args:
            prompt: the text to ask with.
            fields: what to fill into it.
            key: what tells this call from others with the same prompt, such as a row's id or the round and a number:
                its seed comes from it, so it must not depend on how much is asked in all.
            sampling: how to draw.
            stop: strings that end the reply.
            before: turns before the prompt, such as a system turn.
            parents: ids of the rows that stand in the prompt.
            sample: number of the draw, where the same is asked several times.
        """
        turns = (*before, user(prompt.fill(**fields)))
        return self._plan(prompt, turns, key, Request(stop=tuple(stop), sampling=sampling, sample=sample), parents)

    def put(
        self,
        turns: Sequence[Message],
        *key: int | str,
        sampling: Sampling,
        stop: Sequence[str] = (),
        parents: Sequence[str] = (),
        sample: int = 0,
        as_user: bool = False,
    ) -> Ask:
        """Plan a call that asks what turns ask, as they stand; or, `as_user`, one for the user's next turn."""
        plan = Request(stop=tuple(stop), sampling=sampling, sample=sample, as_user=as_user)
        return self._plan(PLAIN, turns, key, plan, parents)

    def _plan(
        self, prompt: Prompt, turns: Sequence[Message], key: Sequence[int | str], plan: Request, parents: Sequence[str]
    ) -> Ask:
        bare = self.raw and len(turns) == 1
        request = replace(
            plan,
            messages=() if bare else tuple(turns),
            prompt=turns[0].text if bare else "",
            seed=derive_seed(self.seed, f"build.{self.method}/{prompt.name}", *key, plan.sample),
        )
        return Ask(prompt, request, tuple(parents))

    def answers(self, asks: Sequence[Ask]) -> list[Reply]:
        """Ask all at once; the replies are in the order of the asks, failed ones among them."""
        self.calls += len(asks)
        completions = self.generator.generate([ask.request for ask in asks])
        return [Reply(ask, completion) for ask, completion in zip(asks, completions, strict=True)]

    def row(
        self,
        reply: Reply,
        messages: Sequence[Message] = (),
        *,
        parents: Sequence[str] | None = None,
        task: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Example:
        """The next row, signed: maker, terms, prompt, call, and the parents (by default those of the call).

        Without `messages` the whole reply is its one turn: a row to drop.
        """
        origin = Provenance(
            source=self.source,
            row=self.rows,
            licence=self.licence,
            maker=f"model:{self.generator.name}",
            parents=reply.ask.parents if parents is None else tuple(parents),
        )
        self.rows += 1
        own = {"prompt": reply.ask.prompt.id}
        if isinstance(self.generator, Ledgered):
            own["call"] = self.generator.key(reply.ask.request)
        messages = tuple(messages) or (assistant(reply.text),)
        return Example(messages, task=task, tags={**(tags or {}), **own}, provenance=origin)

    def drop(self, row: Example, verdict: Verdict) -> tuple[Example, Verdict]:
        """A signed row as one that is dropped, by this method."""
        return row, replace(verdict, by=self.method)

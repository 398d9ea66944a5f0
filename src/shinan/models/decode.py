"""The decode loop: prompts in, tokens out, at least one token for every running row at a time.

Rows wait in a queue for one of a fixed number of slots; a slot whose row has ended is filled again before the next
step. New prompts and running rows share one packed forward pass without padding (Orca's iteration-level scheduling,
OSDI 2022), long prompts come in chunks (Sarathi, arXiv 2308.16369), and what prompts share at their beginning is
computed and kept once. Guesses at a row's next tokens, taken from its own text, are checked in the same pass
(`lookup`). Each row draws from its own seed, so that a reply does not depend on what else is running or on guesses (but
for near-ties of floating-point sums). Evaluation, serving and rollouts share this one loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from shinan.core.errors import DataError
from shinan.core.hashing import derive_seed
from shinan.models.cache import Ints, Lane, Pools, Prefix, Prefixes, Shape, agree, capacity_for
from shinan.models.cached import Packing
from shinan.models.decoder import Decoder
from shinan.models.generator import Sampling
from shinan.models.lookup import Lookup
from shinan.models.memory import free_memory
from shinan.models.narrow import ROWS, narrow_products
from shinan.models.sampling import likeliest, most_likely, sample

_CHUNK = 1024  # prompt tokens a step: more would keep running rows waiting, and is no faster
_AHEAD = 256  # waiting rows in which shared beginnings are looked for
_RECENT = 32  # and rows that came before
_WORTH = 64  # tokens that a shared prefix must save to be kept, over the rows that are known to share it
_SHORT = 8  # a shared beginning shorter than this is computed again
_TOGETHER = ROWS  # states a step that logits are made of, guesses included: with more, a product costs the more


class TokenFilter(Protocol):
    """Says which tokens may come next, for one row: structured output."""

    def apply(self, logits: Tensor) -> None:
        """Set logits [v] of forbidden tokens to -inf, in place."""
        ...

    def accept(self, token: int) -> None:
        """Go on past `token`, which was drawn."""
        ...


@dataclass(slots=True, eq=False)
class Row:
    """One prompt being continued; `ids` and `logprobs` grow in its steps until `finish` is set.

    Attributes:
        prompt: prompt token ids.
        sampling: how to draw.
        seed: source of every draw of this row.
        stopped: called with the ids so far (the newest included); True ends the row.
        filter: which tokens may be drawn; None for all. Its own, as it keeps a state.
        top: how many of the likeliest tokens to note beside each drawn one.
        source: how many ids of the prompt an encoder reads; 0 for a model without one.
        ids: tokens drawn so far.
        logprobs: their natural-log probabilities under the model, at temperature 1, without filter and penalty.
        tops: for each, the `top` likeliest tokens with theirs, the likeliest first.
        finish: empty while the row waits or runs; then `stop`, `length` or `cancelled`.
    """

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    stopped: Callable[[list[int]], bool]
    filter: TokenFilter | None = None
    top: int = 0
    source: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    finish: str = ""


@dataclass(slots=True, eq=False)
class _Running:
    """A row in a slot.

    Attributes:
        row: the row.
        prompt: its prompt, after the model's virtual tokens.
        lane: its keys and values.
        reserved: own tokens that it may come to hold, as its pool counts them.
        lookup: its text so far.
        guess: tokens that were fed with its newest one.
    """

    row: Row
    prompt: Ints
    lane: Lane
    reserved: int
    lookup: Lookup
    guess: Sequence[int] = ()

    def feed(self, most: int) -> int:
        """Guess at most `most` tokens beside the newest; returns how many own tokens it will then hold."""
        left = self.row.sampling.max_new_tokens - len(self.row.ids)
        self.guess = self.lookup.guess(min(most, left - 1))
        return self.lane.filled + 1 + len(self.guess)

    def drew(self, count: int) -> None:
        """It drew `count` tokens; keys and values of guesses that came otherwise are given up."""
        self.lookup.judge(len(self.guess), count - 1)
        self.lookup.extend(self.row.ids[-count:])
        self.lane.filled -= len(self.guess) - (count - 1)
        self.guess = ()


class DecodeLoop:
    """Continues rows, at most `slots` of them at a time. Not thread-safe: one thread adds, steps and cancels.

    Attributes:
        slots: rows that run together.
        max_tokens: tokens whose keys and values are kept at most, shared ones once; rows wait until there is room.
    """

    def __init__(self, model: Any, *, slots: int = 16, max_tokens: int | None = None) -> None:
        """`model` is a transformers causal LM in eval mode, or one wrapped by PEFT. By default, keys and values may
        take a quarter of the memory that is free now.

        Raises ModelError for a model whose attention or head is not one that `Decoder` computes exactly.
        """
        self._decoder = Decoder(model)
        shape = Shape.of(self._decoder.lm)
        self.slots = slots
        self.max_tokens = max_tokens or max(1, free_memory(shape.device) // 4 // shape.token_bytes)
        self._shape = shape
        self._waiting: deque[Row] = deque()
        self._running: list[_Running] = []
        self._recent: deque[Ints] = deque(maxlen=_RECENT)
        self._prompts: dict[int, Ints] = {}  # of waiting rows, by id
        self._logits = torch.empty(max(slots, _TOGETHER), len(self._decoder.head.weight), device=shape.device)
        self._pools = Pools(shape)
        self._prefixes = Prefixes(shape, self.max_tokens // 4)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._running and not self._waiting

    def add(self, row: Row) -> None:
        """Queue a row. It runs as soon as a slot and memory are free, in the order of adding.

        Raises DataError for a row that could never run: it has no prompt, a token that the model lacks, or needs more
        than `max_tokens`, or more positions than the model has learned.
        """
        prompt = np.array([*self._decoder.virtual.ids, *row.prompt], dtype=np.int64)
        needed = len(prompt) + row.sampling.max_new_tokens
        limit = min(self.max_tokens, self._decoder.positions or self.max_tokens)
        if not row.prompt:
            raise DataError("the prompt has no tokens", fix="give it at least one")
        check_ids(row, len(self._decoder.head.weight))
        if needed > limit:
            what = f"the prompt and its continuation may take {needed:,} tokens, and there is room for {limit:,}"
            raise DataError(what, fix="shorten the prompt, or allow fewer new tokens")
        self._waiting.append(row)
        self._prompts[id(row)] = prompt

    @torch.inference_mode()  # for the pool's last row may move to its place
    def cancel(self, row: Row) -> None:
        """Take a row out, whether it waits or runs; it is not returned by `step`. Nothing happens if it has ended."""
        if row.finish:
            return
        row.finish = "cancelled"
        for running in self._running:
            if running.row is row:
                self._release(running)
                return
        self._waiting.remove(row)
        del self._prompts[id(row)]

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Fill free slots, compute what comes next in every running row; returns the rows that ended by it."""
        ended = self._admit()
        if not self._running:
            return ended
        done, states = self._forward()
        if done:
            logits = self._decoder.head.logits(states, self._logits)
            counts = draw(logits, [(running.row, running.guess) for running in done])
            for running, count in zip(done, counts, strict=True):
                running.drew(count)
        for running in done:
            if running.row.finish:
                self._release(running)
                ended.append(running.row)
        if self.idle:
            self._pools.clear()
        return ended

    def _admit(self) -> list[Row]:
        """Fill free slots, as far as there is memory; returns the rows that end at once, as they ask for no token."""
        ended = []
        while self._waiting and len(self._running) < self.slots:
            row = self._waiting[0]
            if row.sampling.max_new_tokens > 0:
                prompt = self._prompts[id(row)]
                prefix, used = self._prefix(prompt)
                reserved = capacity_for(len(prompt) - used + row.sampling.max_new_tokens)
                if not self._fits(reserved, prefix):
                    break
                self._start(row, prefix, used, reserved)
            else:
                row.finish = "length"
                ended.append(row)
                del self._prompts[id(row)]
            self._waiting.popleft()
        return ended

    def _fits(self, reserved: int, prefix: Prefix | None) -> bool:
        """Whether `reserved` more tokens fit, perhaps without some prefixes that nobody uses. An only row always
        fits: `add` has seen to that, up to the rounding of its pool's capacity."""
        if prefix:
            prefix.users += 1
        room = self.max_tokens - reserved - sum(running.reserved for running in self._running)
        alone = not self._running
        fits = (alone or room >= 0) and self._prefixes.evict(max(room, 0))
        if prefix:
            prefix.users -= 1
        return fits or alone

    def _start(self, row: Row, prefix: Prefix | None, used: int, reserved: int) -> None:
        prompt = self._prompts.pop(id(row))
        if prefix:
            prefix.users += 1
        lane = Lane(prefix, used, memory=self._shape.zeros(1, len(prompt) - used))
        self._running.append(_Running(row, prompt, lane, reserved, Lookup(prompt.tolist())))
        self._recent.append(prompt)

    def _prefix(self, prompt: Ints) -> tuple[Prefix | None, int]:
        """The prefix that a prompt shall hang on, and how much of it: one that is kept, or a new one where that saves
        more, as far as waiting and recent prompts tell."""
        known, used = self._prefixes.match(prompt[:-1])
        waiting = (self._prompts[id(row)] for row in islice(self._waiting, 1, _AHEAD))
        shared = sorted((agree(prompt[:-1], other) for other in (*waiting, *self._recent)), reverse=True)
        saved = [count * (depth - used) for count, depth in enumerate(shared, 1)]
        if saved and max(saved) >= _WORTH:
            depth = shared[saved.index(max(saved))]
            if made := self._prefixes.make(prompt[:depth]):
                return made, depth
        return (known, used) if used >= _SHORT else (None, 0)

    def _release(self, running: _Running) -> None:
        self._running.remove(running)
        self._pools.leave(running.lane)
        if running.lane.prefix:
            running.lane.prefix.users -= 1

    def _forward(self) -> tuple[list[_Running], Tensor]:
        """Feed every running row and every unfinished prefix; returns the rows whose next tokens can be drawn, and
        their final hidden states [n, d], after the newest token of each and after each one that was guessed."""
        packing = Packing(self._shape.device)
        decoding = {id(running.lane): running for running in self._running if running.row.ids}
        # a prompt may come to its end in this step, and then has a state, too
        left = _TOGETHER - (len(self._running) - len(decoding))
        for running in decoding.values():
            self._pools.settle(running.lane, running.feed(max(left // len(decoding) - 1, 0)))
        done: list[_Running] = []
        for pool in self._pools.used:
            rows = [decoding[id(lane)] for lane in pool.lanes]
            packing.batch(pool, [[running.row.ids[-1], *running.guess] for running in rows])
            done += rows
        left = _CHUNK
        for prefix in self._prefixes.unfinished:
            left -= packing.prefix(prefix, left)
        for running in self._running:
            if id(running.lane) not in decoding:
                left -= packing.prompt(running.prompt, running.lane, left)
                done += [running] * (running.lane.used + running.lane.filled == len(running.prompt))
        packed = packing.packed()
        with self._decoder, narrow_products(self._decoder.lm, packed.ids.shape[1]):
            return done, self._decoder.states(packed)


def check_ids(row: Row, vocabulary: int) -> None:
    """Raise DataError for a token that a model with embeddings for `vocabulary` tokens lacks."""
    if (largest := max(row.prompt)) >= vocabulary:
        what = f"the prompt holds token {largest}, and the model has embeddings for {vocabulary}"
        raise DataError(what, fix="use the tokenizer of the original model folder")


def draw(logits: Tensor, rows: Sequence[tuple[Row, Sequence[int]]]) -> list[int]:
    """Draw the next token of each row, and one more after each guess that it drew itself; sets `finish` of rows that
    end. Returns how many tokens each drew.

    Args:
        logits: [n, v] in fp32; a row has one more of them than guesses, which stand one after the other.
        rows: each with its guesses.
    """
    likely = most_likely(logits).tolist()
    counts, first = [], 0
    for row, guess in rows:
        before = len(row.ids)
        for place, guessed in enumerate((*guess, None), first):
            _draw(logits[place], row, likely[place])
            if row.finish or row.ids[-1] != guessed:
                break
        counts.append(len(row.ids) - before)
        first += len(guess) + 1
    return counts


def _draw(logits: Tensor, row: Row, token: int) -> None:
    """One token from logits [v], the likeliest of which is `token`."""
    whole = float(logits.logsumexp(-1))  # one row at a time: it stays in the processor's cache (LOG.md)
    allowed = logits
    if row.top:
        row.tops.append([(other, value - whole) for other, value in likeliest(logits, row.top)])
    penalty = row.sampling.presence_penalty
    if row.filter or penalty:
        allowed = logits.clone()
        if row.filter:
            row.filter.apply(allowed)
        if penalty:
            allowed[list(set(row.ids))] -= penalty
        token = int(most_likely(allowed[None]))
    if row.sampling.temperature > 0:
        token = sample(allowed, row.sampling, derive_seed(row.seed, "token", len(row.ids)))
    row.ids.append(token)
    row.logprobs.append(float(logits[token]) - whole)
    if row.filter:
        row.filter.accept(token)
    if row.stopped(row.ids):
        row.finish = "stop"
    elif len(row.ids) >= row.sampling.max_new_tokens:
        row.finish = "length"

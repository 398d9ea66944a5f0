"""The decode loop: prompts in, tokens out, one token for every running row at a time.

Rows wait in a queue for one of a fixed number of slots; a slot whose row has ended is filled again before the next
step. Each row draws from its own seed, so that a reply does not depend on what else is running (but for near-ties of
floating-point sums). Evaluation, serving and rollouts share this one loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from shinan.core.hashing import derive_seed
from shinan.models.generator import Sampling


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
    """One prompt being continued; `ids` and `logprobs` grow by one in each step until `finish` is set.

    Attributes:
        prompt: prompt token ids.
        sampling: how to draw.
        seed: source of every draw of this row.
        stopped: called with the ids so far (the newest included); True ends the row.
        filter: which tokens may be drawn; None for all. Its own, as it keeps a state.
        top: how many of the likeliest tokens to note beside each drawn one.
        ids: tokens drawn so far.
        logprobs: their natural-log probabilities under the model, at temperature 1 and without the filter.
        tops: for each, the `top` likeliest tokens with theirs, the likeliest first.
        finish: empty while the row waits or runs; then `stop`, `length` or `cancelled`.
    """

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    stopped: Callable[[list[int]], bool]
    filter: TokenFilter | None = None
    top: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    finish: str = ""


class DecodeLoop:
    """Continues rows, at most `slots` of them at a time. Not thread-safe: one thread adds, steps and cancels."""

    def __init__(self, model: Any, *, slots: int = 16) -> None:
        """`model` is a transformers causal LM in eval mode."""
        self._model = model
        self._slots = slots
        self._device = next(model.parameters()).device
        self._waiting: deque[Row] = deque()
        self._running: list[tuple[Row, Any]] = []

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._running and not self._waiting

    def add(self, row: Row) -> None:
        """Queue a row. It runs as soon as a slot is free, in the order of adding."""
        self._waiting.append(row)

    def cancel(self, row: Row) -> None:
        """Take a row out, whether it waits or runs; it is not returned by `step`. Nothing happens if it has ended."""
        if not row.finish:
            row.finish = "cancelled"
            self._waiting = deque(other for other in self._waiting if other is not row)
            self._running = [(other, cache) for other, cache in self._running if other is not row]

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Fill free slots, compute one token for every running row; returns the rows that ended by it."""
        ended: list[Row] = []
        while self._waiting and len(self._running) < self._slots:
            row = self._waiting.popleft()
            if row.sampling.max_new_tokens > 0:
                self._running.append((row, None))
            else:
                row.finish = "length"
                ended.append(row)
        going = []
        for row, cache in self._running:
            fed = torch.tensor([row.ids[-1:] or list(row.prompt)], device=self._device)
            out = self._model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            _draw(out.logits[:, -1], [row])
            if _finished(row):
                ended.append(row)
            else:
                going.append((row, out.past_key_values))
        self._running = going
        return ended


def decode(model: Any, rows: Sequence[Row], *, slots: int = 16) -> None:
    """Continue every row in place until it stops or has `max_new_tokens`."""
    loop = DecodeLoop(model, slots=slots)
    for row in rows:
        loop.add(row)
    while not loop.idle:
        loop.step()


def _finished(row: Row) -> bool:
    if row.stopped(row.ids):
        row.finish = "stop"
    elif len(row.ids) >= row.sampling.max_new_tokens:
        row.finish = "length"
    return bool(row.finish)


def _draw(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Draw one token for each row from logits [rows, v]; appends id and log-probability. Returns [rows]."""
    logits = logits.float()
    normaliser = torch.logsumexp(logits, dim=-1)
    drawn = logits.argmax(dim=-1)
    for index, row in enumerate(rows):
        own = logits[index]
        if row.top:
            row.tops.append(likeliest(own - normaliser[index], row.top))
        if row.filter:
            own = own.clone()
            row.filter.apply(own)
            drawn[index] = own.argmax()
        if row.sampling.temperature > 0:
            drawn[index] = sample(own, row.sampling, derive_seed(row.seed, "token", len(row.ids)))
    chosen = logits.gather(1, drawn[:, None])[:, 0] - normaliser
    for row, token, logprob in zip(rows, drawn.tolist(), chosen.tolist(), strict=True):
        row.ids.append(token)
        row.logprobs.append(logprob)
        if row.filter:
            row.filter.accept(token)
    return drawn


def likeliest(logprobs: Tensor, n: int) -> list[tuple[int, float]]:
    """The `n` likeliest tokens of log-probabilities [v], with them, the likeliest first."""
    values, ids = logprobs.topk(min(n, len(logprobs)))
    return list(zip(ids.tolist(), values.tolist(), strict=True))


def sample(logits: Tensor, sampling: Sampling, seed: int) -> int:
    """One token from logits [v]: temperature, then top-k, then top-p (nucleus sampling, arXiv 1904.09751).

    The draw is made on the CPU from `seed`, so that it is the same on every device.
    """
    scaled = (logits / sampling.temperature).cpu()
    top, index = scaled.sort(descending=True, stable=True)
    if sampling.top_k:
        top, index = top[: sampling.top_k], index[: sampling.top_k]
    probs = top.softmax(0)
    if sampling.top_p < 1:
        inside = probs.cumsum(0) - probs < sampling.top_p  # the token that crosses top_p is kept
        probs = probs * inside
    generator = torch.Generator().manual_seed(seed)
    return int(index[torch.multinomial(probs, 1, generator=generator)])

"""How likely continuations are: forests in which each stem is computed once, whatever options hang on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from shinan.models.batch import Batch
from shinan.models.decoder import Decoder
from shinan.models.forest import TokenRow, pack
from shinan.models.generator import Likelihood

Continuation = tuple[Sequence[int], Sequence[int]]
"""The ids of a stem, at least one, and those of what continues it, at least one."""

_CAPACITY = 4096  # tokens of a forest


@torch.no_grad()
def likelihoods(decoder: Decoder, questions: Sequence[Sequence[Continuation]]) -> list[tuple[Likelihood, ...]]:
    """The likelihood of every continuation of every question. Those of one question, and those whose stems begin
    alike, share a forest; the head runs once at each token from which something is asked, and nowhere else.
    """
    bundles = [tuple(_row(*pair) for pair in question) for question in questions]
    found: dict[int, tuple[Likelihood, ...]] = {}
    with decoder:
        for inside in pack(bundles, _CAPACITY):
            batch = decoder.batch([bundles[index] for index in inside])
            found |= zip(inside, _judge(decoder, batch), strict=True)
    return [found[index] for index in range(len(questions))]


def _row(stem: Sequence[int], option: Sequence[int]) -> TokenRow:
    return TokenRow((*stem, *option), (False,) * len(stem) + (True,) * len(option), 1.0, "")


def _judge(decoder: Decoder, batch: Batch) -> list[tuple[Likelihood, ...]]:
    """The likelihoods of a batch, bundle by bundle."""
    places, rows = torch.unique(batch.positions, return_inverse=True)
    rows, order = rows.sort(stable=True)
    log_probs, greedy = decoder.head.judge(decoder.states(replace(batch, positions=places)), rows, batch.targets[order])
    examples = batch.examples[order]
    count = sum(batch.sizes)
    totals = torch.zeros(count, dtype=torch.float64, device=decoder.device).index_add_(0, examples, log_probs.double())
    tokens = examples.bincount(minlength=count)
    hits = examples[greedy].bincount(minlength=count)
    judged = [
        Likelihood(total, size, hit == size)
        for total, size, hit in zip(totals.tolist(), tokens.tolist(), hits.tolist(), strict=True)
    ]
    starts = [sum(batch.sizes[:index]) for index in range(len(batch.sizes))]
    return [tuple(judged[start : start + size]) for start, size in zip(starts, batch.sizes, strict=True)]

"""One optimiser step's gradients: its forests are computed one after another, and divided between ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from shinan.core.errors import TrainingError
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle
from shinan.train import ranks
from shinan.train.masters import Masters
from shinan.train.objective import Objective

Part = tuple[Objective, Sequence[Bundle]]
"""What an objective is to minimise over."""


@dataclass(frozen=True, slots=True)
class Summed:
    """A step's loss, tokens computed for it (both over all ranks), and the loss of what was learned beside it."""

    loss: float
    computed: int
    beside: float = 0.0


def add_gradients(
    decoder: Decoder,
    objective: Objective,
    bundles: Sequence[Bundle],
    capacity: int,
    masters: Masters,
    beside: Part | None = None,
) -> Summed:
    """Add the gradients of the step's mean loss to the masters' (which hold zeros), in forests of at most `capacity`.

    The mean is over the whole step: neither the forests nor the ranks change it. In a process group, each rank (or
    each few that compute a forest together) takes every n-th forest, and the gradients are summed over the ranks: once
    a step, so that what is learned `beside` the rows must be given with them.

    Raises TrainingError for several forests, or ranks, if the masters keep no gradients.
    """
    width = masters.division.width
    losses = torch.zeros(2, dtype=torch.float64, device=decoder.device)
    computed = torch.zeros((), dtype=torch.int64, device=decoder.device)
    for loss, (aim, rows) in zip(losses, [(objective, bundles), *([beside] if beside else [])], strict=False):
        forests = decoder.pack(rows, capacity)
        if not masters.kept and max(len(forests), ranks.count()) > 1:
            raise TrainingError(
                f"lomo keeps no gradients to add up: a step must be one forward pass, and this one is {len(forests)} "
                f"of up to {capacity} tokens, on {ranks.count()} processes",
                fix="raise tune.micro_tokens or lower tune.batch_size, and tune in one process",
            )
        for part, count in _share(forests, rows, aim, width):
            batch = decoder.batch(part)
            share = aim.loss(decoder, part, batch, count)
            share.backward()  # type: ignore[no-untyped-call]
            loss += float(share.detach())
            computed += batch.computed if count < math.inf else 0
    ranks.total(losses, computed)
    masters.add_up()
    return Summed(float(losses[0]) / width, int(computed) // width, float(losses[1]) / width)


@torch.no_grad()
def mean_loss(
    decoder: Decoder, objective: Objective, bundles: Sequence[Bundle], capacity: int, width: int = 1
) -> float:
    """The mean loss of bundles, without gradients; ranks divide the forests, each `width` computing one together."""
    total = torch.zeros((), dtype=torch.float64, device=decoder.device)
    for part, count in _share(decoder.pack(bundles, capacity), bundles, objective, width):
        batch = decoder.batch(part)
        total += float(objective.loss(decoder, part, batch, count))
    ranks.total(total)
    return float(total) / width


def _share(
    forests: Sequence[Sequence[int]], bundles: Sequence[Bundle], objective: Objective, width: int
) -> Iterator[tuple[list[Bundle], float]]:
    """This rank's forests, every n-th, each with what its sum is to be divided by. Each `width` ranks have the same.

    All ranks must compute the blocks of a divided model equally often: one that has no forest left, and would wait,
    computes the first again, and its sum, divided by infinity, counts for nothing.
    """
    count = objective.count(bundles)
    for first in range(0, len(forests), ranks.count() // width):
        mine = first + ranks.rank() // width
        left = mine < len(forests)
        yield [bundles[index] for index in forests[mine if left else 0]], count if left else math.inf

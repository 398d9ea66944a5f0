"""One optimiser step's gradients: its forests are computed one after another, and divided between ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from shinan.core.errors import TrainingError
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle, pack
from shinan.train.masters import Masters
from shinan.train.objective import Objective


@dataclass(frozen=True, slots=True)
class Summed:
    """A step's loss, tokens computed for it (both over all ranks), and the mean loss of the text beside it."""

    loss: float
    computed: int
    beside: float = 0.0


def add_gradients(
    decoder: Decoder, objective: Objective, bundles: Sequence[Bundle], capacity: int, masters: Masters
) -> Summed:
    """Add the gradients of the step's mean loss to the masters' (which hold zeros), in forests of at most `capacity`.

    The mean is over the whole step: neither the forests nor the ranks change it. In a process group, each rank takes
    every n-th forest, and the gradients are summed over the ranks.

    Raises TrainingError for several forests, or ranks, if the masters keep no gradients.
    """
    count = objective.count(bundles)
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    loss = torch.zeros((), dtype=torch.float64, device=decoder.device)
    computed = torch.zeros((), dtype=torch.int64, device=decoder.device)
    forests = pack(bundles, capacity)
    if not masters.kept and max(len(forests), ranks) > 1:
        raise TrainingError(
            f"lomo keeps no gradients to add up: a step must be one forward pass, and this one is {len(forests)} of up "
            f"to {capacity} tokens, on {ranks} processes",
            fix="raise tune.micro_tokens or lower tune.batch_size, and tune in one process",
        )
    for inside in forests[rank::ranks]:
        part = [bundles[index] for index in inside]
        batch = decoder.batch(part)
        share = objective.loss(decoder, part, batch, count)
        share.backward()  # type: ignore[no-untyped-call]
        loss += float(share.detach())
        computed += batch.ids.numel()
    if ranks > 1:
        for tensor in (
            loss,
            computed,
            *(weight.grad for weight in masters.weights.values() if weight.grad is not None),
        ):
            dist.all_reduce(tensor)
    return Summed(float(loss), int(computed))


@torch.no_grad()
def mean_loss(decoder: Decoder, objective: Objective, bundles: Sequence[Bundle], capacity: int) -> float:
    """The mean loss of bundles, without gradients."""
    count = objective.count(bundles)
    total = 0.0
    for inside in pack(bundles, capacity):
        part = [bundles[index] for index in inside]
        batch = decoder.batch(part)
        total += float(objective.loss(decoder, part, batch, count))
    return total

"""Supervised fine-tuning: negative log-likelihood of the labelled tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from shinan.core.registry import register
from shinan.models.batch import Batch
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle


class Sft:
    """Mean of -log p(token) over a step's labelled tokens, each weighted by its example's weight."""

    pairs = False

    def prepare(self, decoder: Decoder, bundles: Sequence[Bundle], capacity: int) -> None:
        """Nothing to prepare."""

    def count(self, bundles: Sequence[Bundle]) -> float:
        """See `Objective.count`."""
        return sum(row.weight * row.labelled for bundle in bundles for row in bundle)

    def loss(self, decoder: Decoder, bundles: Sequence[Bundle], batch: Batch, count: float) -> Tensor:
        """See `Objective.loss`."""
        total, _ = decoder.nll(batch, batch.weights / count)
        return total


@register("objective", "sft")
def sft() -> Sft:
    """Supervised fine-tuning: negative log-likelihood of the labelled tokens."""
    return Sft()

"""Supervised fine-tuning: negative log-likelihood of the labelled tokens."""

from __future__ import annotations

from typing import Any

from shinan.core.registry import register
from shinan.models.batch import Batch
from shinan.models.states import nll_of
from shinan.train.objective import LossSum


class Sft:
    """Sum of -log p(token) over labelled tokens, each weighted by its example's weight."""

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """See `Objective.loss`."""
        total, _ = nll_of(model, batch)
        return LossSum(total, float(batch.weights.sum()))


@register("objective", "sft")
def sft() -> Sft:
    """Supervised fine-tuning: negative log-likelihood of the labelled tokens."""
    return Sft()

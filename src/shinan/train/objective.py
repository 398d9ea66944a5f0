"""The Objective seam: batch -> loss sum and count. The engine divides by the count of the whole step, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from shinan.models.batch import Batch


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss not yet averaged.

    Attributes:
        total: scalar fp32, the sum over the batch's supervision, with gradient.
        weight: what to divide by, summed over the step (for SFT: the weights of the labelled tokens).
    """

    total: Tensor
    weight: float


class Objective(Protocol):
    """What tuning minimises."""

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The summed loss of one forward pass."""
        ...

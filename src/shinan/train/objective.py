"""The Objective seam: what tuning minimises, as a sum over a step that is divided once, by the whole step's count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from shinan.models.batch import Batch
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle


class Objective(Protocol):
    """What tuning minimises.

    Attributes:
        pairs: whether a bundle is a chosen and a rejected row, or one row.
    """

    pairs: bool

    def prepare(self, decoder: Decoder, bundles: Sequence[Bundle], capacity: int) -> None:
        """Called once with the untuned model and all bundles, before the first step of every attempt."""
        ...

    def count(self, bundles: Sequence[Bundle]) -> float:
        """What the sum over these bundles is divided by (for SFT: the weights of the labelled tokens)."""
        ...

    def loss(self, decoder: Decoder, bundles: Sequence[Bundle], batch: Batch, count: float) -> Tensor:
        """This forward pass's share of the step's loss: its sum over `batch` (of `bundles`), divided by `count`.

        A scalar in fp32 on which `backward()` may be called once, as it is.
        """
        ...

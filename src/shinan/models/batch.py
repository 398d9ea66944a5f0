"""A batch as the model sees it: token ids, who may attend to whom, and a list of supervised positions.

Supervision is kept apart from the ids, as (position, target, example, weight): the head then runs only where there is
something to learn, and a position may be asked for several targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_ALIGN = 8  # padded width is a multiple of this: matrix kernels like it, and shapes recur


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One tokenised example.

    Attributes:
        ids: token ids, terminator included.
        mask: True where the token is trained (predicted from what stands before it). mask[0] is never True.
        weight: multiplies the loss of each trained token.
        row: the example's `row`, for verdicts and traces.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    weight: float
    row: str

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.mask) or any(self.mask[:1]):  # a label at 0 would be learnt from another row
            raise ValueError(f"{self.row}: {len(self.ids)} ids, {len(self.mask)} mask values, first {self.mask[:1]}")

    @property
    def labelled(self) -> int:
        """Number of trained tokens."""
        return sum(self.mask)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows and their supervision.

    Attributes:
        ids: [rows, width] int64, padded on the right with 0 (never attended to, never supervised).
        attention: [rows, width] int64, 1 for tokens and 0 for padding.
        positions: [n] int64, indices into the flattened [rows * width] hidden states.
        targets: [n] int64, the token to be predicted at each position.
        weights: [n] float32.
        examples: [n] int64, index of the row in the batch that each supervised position belongs to.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    examples: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        names = self.__dataclass_fields__
        return Batch(**{name: getattr(self, name).to(device) for name in names})


def pad(rows: Sequence[TokenRow]) -> Batch:
    """Pad rows into one batch. Position p predicts token p + 1, so a label at index i is supervised at i - 1."""
    width = -(-max(len(row.ids) for row in rows) // _ALIGN) * _ALIGN
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    attention = torch.zeros(len(rows), width, dtype=torch.int64)
    positions: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    examples: list[int] = []
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        attention[index, : len(row.ids)] = 1
        labels = [i for i, trained in enumerate(row.mask) if trained]
        positions += [index * width + i - 1 for i in labels]
        targets += [row.ids[i] for i in labels]
        weights += [row.weight] * len(labels)
        examples += [index] * len(labels)
    return Batch(
        ids,
        attention,
        torch.tensor(positions, dtype=torch.int64),
        torch.tensor(targets, dtype=torch.int64),
        torch.tensor(weights, dtype=torch.float32),
        torch.tensor(examples, dtype=torch.int64),
    )

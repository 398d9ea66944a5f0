"""A batch on the model's device: a forest, or what an encoder and a decoder read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shinan.models.attention import Backend, Layout
from shinan.models.forest import Bundle, grow


@dataclass(frozen=True, slots=True)
class Sources:
    """What an encoder reads: each different text once.

    Attributes:
        ids: [s, t] int64, padded at the end.
        seen: [s, t] bool, False for padding.
        readers: [r] int64, which of them each row of the decoder attends to.
    """

    ids: Tensor
    seen: Tensor
    readers: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids, who attends to whom, and the supervision as a list.

    Attributes:
        ids: [1, t] int64; beside an encoder [r, t], what the decoder reads of each row, padded at the end.
        layout: positions and attention, or what an encoder reads.
        positions: [n] int64, where in the layout (or in `ids`, flattened) something is supervised.
        targets: [n] int64, the token to be predicted there.
        examples: [n] int64, index of the row that asks; rows are counted through the bundles.
        weights: [n] fp32.
        sizes: number of rows of each bundle.
    """

    ids: Tensor
    layout: Layout | Sources
    positions: Tensor
    targets: Tensor
    examples: Tensor
    weights: Tensor
    sizes: tuple[int, ...]

    @property
    def computed(self) -> int:
        """Tokens that a forward pass computes, padding included."""
        return self.ids.numel() + (self.layout.ids.numel() if isinstance(self.layout, Sources) else 0)


def batch_of(bundles: Sequence[Bundle], device: torch.device, backend: Backend, before: tuple[int, ...] = ()) -> Batch:
    """The forest of all rows of the bundles, each after the tokens `before`."""
    rows = [row for bundle in bundles for row in bundle]
    if before:
        rows = [replace(row, ids=before + row.ids, mask=(False,) * len(before) + row.mask) for row in rows]
    forest = grow(rows)
    return Batch(
        torch.from_numpy(forest.ids)[None].to(device),
        Layout.of(forest, backend, device),
        positions=torch.from_numpy(forest.positions).to(device),
        targets=torch.from_numpy(forest.targets).to(device),
        examples=torch.from_numpy(forest.examples).to(device),
        weights=torch.from_numpy(forest.weights).to(device),
        sizes=tuple(len(bundle) for bundle in bundles),
    )

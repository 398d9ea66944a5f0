"""A forest batch on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shinan.models.attention import Backend, Layout
from shinan.models.forest import Bundle, grow


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids, who attends to whom, and the supervision as a list.

    Attributes:
        ids: [1, t] int64.
        layout: positions and attention.
        positions: [n] int64, where in the layout something is supervised.
        targets: [n] int64, the token to be predicted there.
        examples: [n] int64, index of the row that asks; rows are counted through the bundles.
        weights: [n] fp32.
        sizes: number of rows of each bundle.
    """

    ids: Tensor
    layout: Layout
    positions: Tensor
    targets: Tensor
    examples: Tensor
    weights: Tensor
    sizes: tuple[int, ...]


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

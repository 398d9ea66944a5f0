"""fp32 weights rounded to bf16 without losing what they learn.

A tuned weight moves by less than bf16's step. Rounded to nearest, it stays where it was until it has moved half a step,
and what many weights do together is lost (LOG.md: 2 % of the loss). Here it is rounded up or down by chance, to the
nearer end more often, so that it is right on average (stochastic rounding, Gupta et al. 2015, arXiv 1502.02551). What
is drawn belongs to the weight's place and never changes: the same weights give the same copy, a number of bf16 stays
what it is, and a weight that rises never has a copy that falls.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from shinan.core.hashing import derive_seed

_DRAWN = (1 << 20) + 7  # thresholds, 4 MB; a matrix of more weights takes the same ones again, some rows at a time
_DROPPED = 16  # bits of fp32 that bf16 does not have


@torch.no_grad()
def round_into(copy: Tensor, weights: Tensor, name: str) -> None:
    """Fill in `copy` from fp32 `weights` of the same shape; `name` tells whose thresholds are taken.

    A copy in another number format than bf16 is rounded to nearest.
    """
    if copy.dtype != torch.bfloat16:
        copy.copy_(weights)
        return
    if copy.ndim > 2:  # experts in one tensor
        for number, (part, exact) in enumerate(zip(copy, weights, strict=True)):
            round_into(part, exact, f"{name} {number}")
        return
    copy, weights = (tensor if tensor.ndim else tensor.view(1) for tensor in (copy, weights))
    drawn = _thresholds(copy.device)
    begin = derive_seed(0, "rounding", name) % _DRAWN
    rows = max(1, _DRAWN * len(copy) // max(1, copy.numel()))
    for part, exact in zip(torch.split(copy, rows), torch.split(weights, rows), strict=True):
        bits = exact.view(torch.int32) + drawn[begin : begin + part.numel()].view(part.shape)
        part.view(torch.int16).copy_(bits.bitwise_right_shift_(_DROPPED))


@cache
def _thresholds(device: torch.device) -> Tensor:
    """Twice as many as are drawn, the same ones again, so that any place can be the first."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 1 << _DROPPED, (_DRAWN,), generator=generator, dtype=torch.int32)
    return drawn.repeat(2).to(device)

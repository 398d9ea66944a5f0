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
def round_into(copy: Tensor, weights: Tensor, name: str, first: int = 0) -> None:
    """Fill in `copy` from fp32 `weights` of the same shape; `name` tells whose thresholds are taken.

    `first`: how many rows of the whole come before these, if they are a part. (Of one cut by columns, too, the
    thresholds are those of its places in the part.) A copy in another number format than bf16 is rounded to nearest.
    """
    if copy.dtype != torch.bfloat16:
        copy.copy_(weights)
        return
    weights = weights.to(copy.device)  # saved ones are read on the CPU
    if copy.ndim > 2:  # experts in one tensor
        for number, (part, exact) in enumerate(zip(copy, weights, strict=True), first):
            round_into(part, exact, f"{name} {number}")
        return
    copy, weights = (tensor if tensor.ndim else tensor.view(1) for tensor in (copy, weights))
    drawn = _thresholds(copy.device)
    begin = derive_seed(0, "rounding", name) % _DRAWN
    width = copy[:1].numel()
    rows = max(1, _DRAWN // max(1, width))  # that have thresholds of their own
    start = 0
    while start < len(copy):
        place = (first + start) % rows
        part, exact = (tensor[start : start + rows - place] for tensor in (copy, weights))
        own = drawn[begin + place * width :][: part.numel()]
        bits = exact.view(torch.int32) + own.view(part.shape)
        part.view(torch.int16).copy_(bits.bitwise_right_shift_(_DROPPED))
        start += len(part)


@cache
def _thresholds(device: torch.device) -> Tensor:
    """Twice as many as are drawn, the same ones again, so that any place can be the first."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 1 << _DROPPED, (_DRAWN,), generator=generator, dtype=torch.int32)
    return drawn.repeat(2).to(device)

"""The LM head at supervised positions only, fused with the cross-entropy, in chunks whose logits are never kept.

A small model with a large vocabulary spends most of its head's work on positions whose logits nobody reads. Here each
chunk makes its logits, its loss and its gradients at once (the idea of cut cross-entropy, arXiv 2411.09009, and of
Liger's fused linear cross-entropy, arXiv 2410.10989, without custom kernels).

The target is taken out of the softmax first. With q the softmax over all other tokens and p the target's probability,
the gradient of -log p is (1 - p) (q - onehot): no difference of near-equal numbers is taken, so that the products can
run in bf16 also where the model is sure, and (1 - p) is applied in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shinan.models.narrow import turned

_CHUNK_BYTES = 1 << 29  # of logits: larger leaves the cache for good, smaller makes the products slower
_COLUMNS = 16_384  # of the vocabulary at a time, so that a few rows of logits are turned within the cache
_STATES = 64  # whose logits are kept in fp32 at a time, where targets are only judged
_BLOCK = 8  # rows of logits normalised together on a CPU: 4 MB in bf16, which stay in its cache
# In bf16, columns of the vocabulary to which no row of a chunk gives more than a threshold are left out of the backward
# products, as in cut cross-entropy, which takes the threshold 2**-12 as it is. Here the first threshold is taken under
# which rows lose no more of their probability, in the mean, than bf16 rounds away (its unit roundoff, 2**-8); if there
# is none, or in fp32, nothing is left out. What the columns have in common is put back into the states' gradient: it is
# small, but the same in every step, and its loss costs full tuning 2 % (LOG.md).
_THRESHOLDS: tuple[float, ...] = (2.0**-16, 2.0**-18, 2.0**-20)
_ROUNDED = 2.0**-8


@dataclass(frozen=True, slots=True)
class Head:
    """A linear map from states to logits, and the likelihood of targets under it.

    Attributes:
        weight: [v, d], tied or not.
        softcap: final logit soft-capping (Gemma 2): logits become softcap * tanh(logits / softcap); 0 for none.
        sink: [v, d] fp32, to which the weight's gradient is added; None for a frozen head.
    """

    weight: Tensor
    softcap: float = 0.0
    sink: Tensor | None = None

    def nll(self, x: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of targets, summed with weights.

        The weight's gradient goes to `sink` at once, for an upstream gradient of 1: what the sum is to be divided by
        must be in `weights` already.

        Args:
            x: [n, d] final hidden states at the supervised positions.
            targets: [n] int64 token ids.
            weights: [n] fp32, of any sign.

        Returns:
            (the sum, a scalar in fp32 with gradient; log-probabilities [n] in fp32, detached, in nats).
        """
        if not torch.is_grad_enabled():  # of which a Function is not told: it would fill the sink
            x = x.detach()
        total, log_probs = _Nll.apply(x, self, targets, weights)  # type: ignore[no-untyped-call]
        return total, log_probs

    def logits(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits [n, v] in fp32, for a few states: what a model computes itself, in its own number format. They are
        written to the first rows of `out`, if it is given.

        On a CPU in bf16, the weight is the left factor: the other way round, each product would arrange it anew.
        """
        if out is None:
            out = torch.empty(len(x), len(self.weight), dtype=torch.float32, device=x.device)
        logits = out[: len(x)]
        narrow = x.device.type == "cpu" and x.dtype == torch.bfloat16
        for part in _parts(len(self.weight), _COLUMNS if narrow else len(self.weight)):
            weight = self.weight[part]
            found = turned(weight, x) if narrow else x @ weight.T
            if self.softcap:
                found = (found / self.softcap).tanh_().mul_(self.softcap)
            logits[:, part] = found
        return logits

    @torch.no_grad()
    def judge(self, x: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """How likely targets are, several perhaps at one state, and whether they are the most likely ones.

        Args:
            x: [m, d] final hidden states.
            rows: [n] int64, at which state each target is asked for, ascending.
            targets: [n] int64 token ids.

        Returns:
            (log-probabilities [n] in fp32, in nats; [n] bool).
        """
        log_probs = torch.empty(len(rows), dtype=torch.float32, device=x.device)
        greedy = torch.empty(len(rows), dtype=torch.bool, device=x.device)
        for part in _parts(len(x), _STATES):
            logits = self.logits(x[part])
            first, last = torch.searchsorted(rows, torch.tensor([part.start, part.stop], device=x.device)).tolist()
            own, wanted = rows[first:last] - part.start, targets[first:last]
            log_probs[first:last] = logits[own, wanted] - logits.logsumexp(-1)[own]
            greedy[first:last] = logits.argmax(-1)[own] == wanted
        return log_probs, greedy

    @torch.no_grad()
    def log_probs(self, x: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of targets, [n] in fp32, in nats, without gradient."""
        return self.nll(x, targets, x.new_ones(len(x), dtype=torch.float32))[1]


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


class _Nll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, head: Head, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = torch.empty(len(x), dtype=torch.float32, device=x.device)
        grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        rows = max(1, _CHUNK_BYTES // (len(head.weight) * x.element_size()))
        buffer = x.new_empty(min(rows, len(x)), len(head.weight))
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            logits = torch.mm(x[part], head.weight.T, out=buffer[: len(x[part])])
            sure, largest = _normalise(logits, targets[part], log_probs[part], head.softcap)
            if grad is not None:
                grad[part] = _slopes(x[part], head, logits, largest, sure * weights[part])
        ctx.grad, ctx.in_place = grad, head.sink is not None
        ctx.mark_non_differentiable(log_probs)
        return -(log_probs * weights).sum(), log_probs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.in_place and float(grads[0]) != 1:
            raise RuntimeError("the head's gradient is already added: scale the weights, not the loss")
        grad, ctx.grad = ctx.grad, None
        return grad if ctx.in_place else grad * grads[0].to(grad.dtype), None, None, None


def _normalise(logits: Tensor, targets: Tensor, log_probs: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """Turn logits in place into q - onehot (times the soft-cap's slope), and fill in `log_probs`.

    Returns (1 - p of each row [n] in fp32; the largest entry of each column of q [v]).
    """
    here = logits.device.type == "cpu"
    block, normal = (_BLOCK, _normal) if here else (len(logits), _compiled())
    others = torch.empty_like(log_probs)
    largest = logits.new_zeros(logits.shape[1])
    for start in range(0, len(logits), block):
        part = slice(start, start + block)
        log_probs[part], others[part], most = normal(logits[part], targets[part, None], softcap)
        torch.maximum(largest, most, out=largest)
    largest[targets] = 1.0
    return others, largest


def _normal(rows: Tensor, index: Tensor, softcap: float) -> tuple[Tensor, Tensor, Tensor]:
    """`_normalise` of a few rows and their targets [n, 1]: (log-probabilities [n]; 1 - p [n]; the largest of q [v])."""
    if softcap:
        rows.div_(softcap).tanh_().mul_(softcap)
        slope = 1 - (rows / softcap) ** 2
    own = rows.gather(1, index).float()
    rows.scatter_(1, index, float("-inf"))
    top = rows.amax(-1, keepdim=True)
    torch.softmax(rows, -1, out=rows)
    # the log of the sum over all others, from the largest of them and its share
    rest = top.float() - rows.amax(-1, keepdim=True).float().log()
    largest = rows.amax(0)
    rows.scatter_(1, index, -1.0)
    if softcap:
        rows.mul_(slope)
    return -F.softplus(rest - own)[:, 0], torch.sigmoid(rest - own)[:, 0], largest


@cache
def _compiled() -> Any:
    """`_normal` as one kernel or two, in place of a pass over all logits for each line."""
    return torch.compile(_normal, dynamic=True)


def _slopes(x: Tensor, head: Head, slopes: Tensor, largest: Tensor, scale: Tensor) -> Tensor:
    """The gradient of the states [n, d]; that of the weight goes to the sink. `slopes` is q - onehot, [n, v]."""
    weight, scale = head.weight, scale[:, None]
    few, kept = slopes, None
    if x.dtype != torch.float32 and not head.softcap:
        few, kept = _substantial(slopes, largest)
    if head.sink is not None and x.dtype == torch.float32:
        head.sink.addmm_(slopes.T, x * scale)
    elif head.sink is not None:
        part = few.T @ (x * scale).to(x.dtype)
        head.sink.add_(part) if kept is None else head.sink.index_add_(0, kept, part.float())
    if kept is None:
        grad = (slopes @ weight).float()
    else:
        grad = (few @ weight.index_select(0, kept)).float() + _rest(slopes, few, kept, weight)
    return (grad * scale).to(x.dtype)


def _rest(slopes: Tensor, few: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
    """What the columns that are left out add to the states' gradient [n, d], in fp32: each row's share of them, with
    their mean over the rows."""
    shares = _sums(slopes) - _sums(few)
    left = (slopes.new_ones(1, len(slopes)) @ slopes).index_fill_(1, kept, 0)
    return shares * ((left @ weight).float() / left.sum(dtype=torch.float32).clamp_min(1e-30))


def _substantial(slopes: Tensor, largest: Tensor) -> tuple[Tensor, Tensor | None]:
    """The columns of `slopes` that matter, and their indices; all of them (None) if there are too many."""
    for threshold in _THRESHOLDS:
        kept = (largest > threshold).nonzero()[:, 0]
        if len(kept) > len(largest) // 2:
            break
        part = _columns(slopes, kept)
        if -float(_sums(part).mean()) <= _ROUNDED:  # q sums to 1, and the target's -1 is always kept
            return part, kept
    return slopes, None


def _sums(slopes: Tensor) -> Tensor:
    """Of each row, [n, 1] in fp32: 0 or so, so that they are told exactly enough in bf16. (On a CPU, a sum into another
    number format would copy all of them into it first.)"""
    return (slopes @ slopes.new_ones(slopes.shape[1], 1)).float()


def _columns(slopes: Tensor, kept: Tensor) -> Tensor:
    """Columns of a matrix; on a CPU row by row, which is three times as fast there."""
    if slopes.device.type != "cpu":
        return slopes.index_select(1, kept)
    chosen = slopes.new_empty(len(slopes), len(kept))
    for row, out in zip(slopes, chosen, strict=True):
        torch.index_select(row, 0, kept, out=out)
    return chosen

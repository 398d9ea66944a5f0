"""The LM head at labelled positions only, fused with the cross-entropy, in chunks.

A small model with a large vocabulary spends most of its head's work on positions whose logits nobody reads. Here the
head runs on the supervised rows alone, and each chunk makes its logits, its loss and its gradients at once, so that no
more than one chunk of logits ever exists (the idea of cut cross-entropy, arXiv 2411.09009, and of Liger's fused linear
cross-entropy, arXiv 2410.10989, without custom kernels).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK_LOGITS = 1 << 27  # logits a chunk: 512 rows of a 262,144-token vocabulary, 0.5 GB in fp32


class _WeightedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, head: Tensor, targets: Tensor, weights: Tensor, softcap: float
    ) -> tuple[Tensor, Tensor]:
        log_probs = torch.empty(len(x), dtype=torch.float32, device=x.device)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        rows_a_chunk = max(1, _CHUNK_LOGITS // len(head))
        for start in range(0, len(x), rows_a_chunk):
            part = slice(start, start + rows_a_chunk)
            index = targets[part, None]
            logits = (x[part] @ head.T).float()
            if softcap:
                logits = logits.div_(softcap).tanh_().mul_(softcap)
            slope = 1 - (logits / softcap) ** 2 if softcap else None
            normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
            log_probs[part] = (logits.gather(1, index) - normaliser)[:, 0]
            if grad_x is None and grad_head is None:
                continue
            grad = logits.sub_(normaliser).exp_()  # softmax; minus one at the target below
            grad.scatter_add_(1, index, torch.full_like(index, -1, dtype=grad.dtype)).mul_(weights[part, None])
            low = (grad * slope if slope is not None else grad).to(x.dtype)
            if grad_x is not None:
                grad_x[part] = low @ head
            if grad_head is not None:
                grad_head += low.T @ x[part]
        ctx.save_for_backward(grad_x, None if grad_head is None else grad_head.to(head.dtype))
        ctx.mark_non_differentiable(log_probs)
        return -(log_probs * weights).sum(), log_probs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if kept is None else kept * grads[0].to(kept.dtype) for kept in ctx.saved_tensors]
        return (*scaled, None, None, None)


def weighted_nll(
    x: Tensor, head: Tensor, targets: Tensor, weights: Tensor, softcap: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of targets, summed with weights.

    Args:
        x: [n, d] final hidden states at the supervised positions.
        head: [v, d] the LM head's weight (tied or not).
        targets: [n] int64 token ids.
        weights: [n] float32.
        softcap: final logit soft-capping (Gemma 2); 0 for none.

    Returns:
        (the sum, a scalar in fp32 with gradient; log-probabilities [n] in fp32, detached, in nats).
    """
    total, log_probs = _WeightedNll.apply(x, head, targets, weights, softcap)  # type: ignore[no-untyped-call]
    return total, log_probs

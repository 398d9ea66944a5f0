"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) on pairs that share their prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from shinan.core.registry import register
from shinan.models.batch import Batch
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle, pack


class Dpo:
    """Mean over pairs of -log sigmoid(beta * (margin of the model - margin of the reference)).

    A margin is log p(chosen) - log p(rejected), summed over the tokens of the replies (equation 7). The reference is
    the model before tuning; its margins are computed once, so that it needs no memory of its own.
    """

    pairs = True

    def __init__(self, beta: float) -> None:
        """Take the strength of the pull towards the reference."""
        self._beta = beta
        self._reference: dict[Bundle, float] = {}

    def prepare(self, decoder: Decoder, bundles: Sequence[Bundle], capacity: int) -> None:
        """Compute the reference's margin of every pair."""
        for inside in pack(bundles, capacity):
            part = [bundles[index] for index in inside]
            batch = decoder.batch(part)
            margins = _margins(decoder.log_probs(batch), batch)
            self._reference |= dict(zip(part, margins.tolist(), strict=True))

    def count(self, bundles: Sequence[Bundle]) -> float:
        """See `Objective.count`: the weights of the pairs."""
        return sum(chosen.weight for chosen, _ in bundles)

    def loss(self, decoder: Decoder, bundles: Sequence[Bundle], batch: Batch, count: float) -> Tensor:
        """See `Objective.loss`. The blocks run once, the head twice: for the margins, then for their gradients."""
        states = decoder.states(batch)
        log_probs = decoder.head.log_probs(states.detach(), batch.targets).requires_grad_()
        reference = log_probs.new_tensor([self._reference[bundle] for bundle in bundles])
        weights = log_probs.new_tensor([chosen.weight for chosen, _ in bundles])
        with torch.enable_grad():
            ahead = self._beta * (_margins(log_probs, batch) - reference)
            loss = -(F.logsigmoid(ahead) * weights).sum() / count
        if not states.requires_grad:
            return loss.detach()
        (slopes,) = torch.autograd.grad(loss, log_probs)
        carrier, _ = decoder.head.nll(states, batch.targets, -slopes)
        return loss.detach() + (carrier - carrier.detach())


def _margins(log_probs: Tensor, batch: Batch) -> Tensor:
    """[pairs] log p(chosen) - log p(rejected), each summed over its labelled tokens."""
    sums = log_probs.new_zeros(sum(batch.sizes)).index_add(0, batch.examples, log_probs)
    return sums[0::2] - sums[1::2]


@register("objective", "dpo")
def dpo(*, beta: PositiveFloat = 0.1) -> Dpo:
    """Direct preference optimisation: the chosen reply gains on the rejected one, held near the untuned model.

    `beta` is the strength of that hold; the paper's default is 0.1.
    """
    return Dpo(beta)

"""Learning-rate schedules (pure), and fp32 master weights for a model that computes in bf16."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn


def learning_rate(
    step: int, total: int, peak: float, warmup: float, schedule: Literal["cosine", "linear", "constant"]
) -> float:
    """The rate of step `step` (from 0) of `total`: linear warm-up over the share `warmup`, then the schedule."""
    warm = round(warmup * total)
    if step < warm:
        return peak * (step + 1) / warm
    if schedule == "constant":
        return peak
    done = (step - warm) / max(1, total - warm)
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done)


class Masters:
    """The trainable weights in fp32, whatever the model computes in.

    Gradients are added in fp32 as each backward pass makes them (bf16 sums would lose small contributions), and the
    compute copy is refreshed by `publish()` after each optimiser step. For an fp32 model the masters are its own
    parameters.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take every parameter of `model` that requires a gradient, in the model's order."""
        self.weights: dict[str, nn.Parameter] = {}
        self._copies: list[tuple[nn.Parameter, nn.Parameter]] = []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.dtype == torch.float32:
                self.weights[name] = parameter
                continue
            master = nn.Parameter(parameter.detach().float())
            self.weights[name] = master
            self._copies.append((parameter, master))
            parameter.register_post_accumulate_grad_hook(_adder(master))  # type: ignore[no-untyped-call]

    def groups(self, weight_decay: float) -> Iterator[dict[str, Any]]:
        """Parameter groups: matrices are decayed, vectors are not."""
        matrices = [weight for weight in self.weights.values() if weight.ndim > 1]
        vectors = [weight for weight in self.weights.values() if weight.ndim <= 1]
        if matrices:
            yield {"params": matrices, "weight_decay": weight_decay}
        if vectors:
            yield {"params": vectors, "weight_decay": 0.0}

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model's compute copy."""
        for parameter, master in self._copies:
            parameter.copy_(master)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set the masters (and the compute copy) from saved fp32 tensors."""
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])
        self.publish()


def _adder(master: nn.Parameter) -> Any:
    def add(parameter: Tensor) -> None:
        if parameter.grad is not None:
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    return add


def adamw(masters: Masters, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) over the masters; the rate is set at each step."""
    return torch.optim.AdamW(list(masters.groups(weight_decay)), lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)

"""LOMO (Lv et al. 2023, arXiv 2306.09782): gradient descent inside the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shinan.train.masters import Masters


class Lomo(torch.optim.Optimizer):
    """Plain gradient descent that keeps no state and, but for the sinks', no gradients.

    Clipping by the norm takes two backward passes (section 3.3): the first measures the gradients, the second makes
    them again, and each weight is moved as soon as its gradient is there. Nothing can be summed over forward passes.
    """

    def __init__(self, masters: Masters, weight_decay: float) -> None:
        """Take masters that do not keep their gradients; the rate is set at each step."""
        super().__init__(list(masters.groups(weight_decay)), {"lr": 0.0})
        self._masters = masters

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        """Move the weights while `closure` makes the measured gradients again; `masters.scale` is applied."""
        groups = {weight: group for group in self.param_groups for weight in group["params"]}

        def move(weight: nn.Parameter, gradient: Tensor) -> None:
            group = groups[weight]
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(gradient, alpha=-group["lr"] * self._masters.scale)

        self._masters.zero()
        self._masters.consume = move
        try:
            with torch.enable_grad():
                closure()
        finally:
            self._masters.consume = None
        for weight in groups:
            if weight.grad is not None:
                move(weight, weight.grad)

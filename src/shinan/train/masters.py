"""The trainable weights in fp32, and the fp32 gradients that every forward pass adds to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shinan.train import ranks
from shinan.train.rounding import round_into
from shinan.train.shards import Division, first_row, here, like, whole


class Masters:
    """Weights and gradients in fp32, whatever the model computes in.

    Gradients are added in fp32 as each backward pass makes them (bf16 sums would lose small contributions), and the
    compute copy is refreshed by `publish()` after each optimiser step. For an fp32 model the masters are its own
    parameters; for one that is divided between ranks, this rank's part of them. The gradients' memory is taken once and
    kept, or, without `keep_gradients`, hardly any is: each gradient is measured as the backward pass makes it and then
    dropped, or given to `consume`.

    Attributes:
        weights: the masters by the model's parameter names, each with a `grad` if it is kept.
        sinks: gradients of the embedding and the head by the model's own parameter: `Decoder` adds to them in place.
            They are always kept.
        division: how the ranks share the model.
        divided: the model's own parameters, by name, of those that are divided between ranks.
        kept: whether all other gradients are kept, too.
        consume: given each master and its gradient (in the compute format), if gradients are not kept.
        scale: what `clip` found that gradients must be multiplied with, if they are not kept.
    """

    def __init__(self, model: nn.Module, division: Division | None = None, *, keep_gradients: bool = True) -> None:
        """Take every parameter of `model` that requires a gradient, in the model's order."""
        self.division = division or Division()
        self.weights: dict[str, nn.Parameter] = {}
        self.sinks: dict[nn.Parameter, Tensor] = {}
        self.divided: dict[str, DTensor] = {}
        self.kept = keep_gradients
        self.consume: Callable[[nn.Parameter, Tensor], None] | None = None
        self.scale = 1.0
        self._norms: list[float] = []
        self._copies: list[tuple[str, Tensor, nn.Parameter, int]] = []
        large = {id(layer.weight) for layer in _large(model)}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if isinstance(parameter, DTensor):
                self._divide(name, parameter)
                continue
            same = parameter.dtype == torch.float32
            master = self.weights[name] = parameter if same else nn.Parameter(parameter.detach().float())
            if not same:
                self._copies.append((name, parameter, master, 0))
            if id(parameter) in large:
                master.grad = self.sinks[parameter] = torch.zeros_like(master)
            elif not keep_gradients:
                parameter.register_post_accumulate_grad_hook(self._taker(master))  # type: ignore[no-untyped-call]
            else:
                master.grad = torch.zeros_like(master)
                if not same:
                    parameter.register_post_accumulate_grad_hook(_adder(master))  # type: ignore[no-untyped-call]

    def _divide(self, name: str, parameter: Any) -> None:
        """In fp32, a gradient is added to the one that is found: what is a part of it is the master's."""
        if not all(place.is_replicate() for place in parameter.placements):
            self.divided[name] = parameter
        part = here(parameter)
        if part.dtype == torch.float32:
            parameter.grad = torch.zeros_like(parameter)
            master = self.weights[name] = nn.Parameter(part)
            master.grad = parameter.grad.to_local()
        else:
            master = self.weights[name] = nn.Parameter(part.float())
            master.grad = torch.zeros_like(master)
            self._copies.append((name, part, master, first_row(parameter)))
            parameter.register_post_accumulate_grad_hook(_adder(master))

    def groups(self, weight_decay: float) -> Iterator[dict[str, Any]]:
        """Parameter groups: matrices are decayed, vectors are not."""
        matrices = [weight for weight in self.weights.values() if weight.ndim > 1]
        vectors = [weight for weight in self.weights.values() if weight.ndim <= 1]
        if matrices:
            yield {"params": matrices, "weight_decay": weight_decay}
        if vectors:
            yield {"params": vectors, "weight_decay": 0.0}

    def clip(self, limit: float) -> float:
        """Scale all gradients so that their norm is at most `limit`; returns the norm they had.

        Gradients that are not kept were measured in the backward passes since `zero()`: for them, `scale` is set.
        """
        if self.divided:
            return self._clip_parts(limit)
        if self.kept:
            return float(nn.utils.clip_grad_norm_(self.weights.values(), limit))
        norm = math.hypot(*self._norms, *(float(torch.linalg.vector_norm(sink)) for sink in self.sinks.values()))
        self.scale = min(1.0, limit / (norm + 1e-6))  # as clip_grad_norm_
        return norm

    def _clip_parts(self, limit: float) -> float:
        grads = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        parts = [grad for name, grad in grads.items() if name in self.divided]
        others = [grad for name, grad in grads.items() if name not in self.divided]
        squares = nn.utils.get_total_norm(parts).double() ** 2
        ranks.total(squares)
        if self.division.alike is not None:
            squares /= self.division.alike.size()
        norm = torch.sqrt(squares + nn.utils.get_total_norm(others).double() ** 2)
        nn.utils.clip_grads_with_norm_(self.weights.values(), limit, norm.float())
        return float(norm)

    def add_up(self) -> None:
        """Replace the gradients by their sums over all forests. (Of what FSDP has divided, they are sums already.)

        Of what several ranks have all made, each gives its share: so the sum is right, and has the same bits on each.
        """
        for name, weight in self.weights.items():
            if weight.grad is None:
                continue
            if name not in self.divided:
                if self.division.width > 1 and name not in self.division.partial:
                    weight.grad /= self.division.width
                ranks.total(weight.grad)
            elif self.division.alike is not None:
                ranks.total(weight.grad, group=self.division.alike)

    def zero(self) -> None:
        """Set all gradients, and what was measured of them, to zero, in place."""
        self._norms.clear()
        for weight in self.weights.values():
            if weight.grad is not None:
                weight.grad.zero_()

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model's compute copy (see `train.rounding`)."""
        for name, parameter, master, first in self._copies:
            round_into(parameter, master, name, first)

    @torch.no_grad()
    def gathered(self) -> dict[str, Tensor]:
        """The masters, whole, for rank 0; every rank must ask. What is divided comes as a copy on the CPU."""
        found: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            divided = self.divided.get(name)
            every = weight.detach() if divided is None else whole(like(weight.detach(), divided)).cpu()
            if ranks.rank() == 0:
                found[name] = every
        return found

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set the masters (and the compute copy) from saved fp32 tensors."""
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])
        self.publish()

    def _taker(self, master: nn.Parameter) -> Any:
        def take(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None and self.consume is not None:
                self.consume(master, gradient)
            elif gradient is not None:
                self._norms.append(float(torch.linalg.vector_norm(gradient, dtype=torch.float32)))

        return take


def _large(model: Any) -> Iterator[Any]:
    lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        if layer is not None and hasattr(layer, "weight"):
            yield layer


def _adder(master: nn.Parameter) -> Any:
    def add(parameter: Tensor) -> None:
        if parameter.grad is not None and master.grad is not None:
            master.grad.add_(here(parameter.grad))
            parameter.grad = None

    return add

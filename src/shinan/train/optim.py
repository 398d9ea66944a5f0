"""Learning-rate schedules (pure), and the optimisers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from shinan.train.lomo import Lomo
from shinan.train.masters import Masters

Name = Literal["adamw", "adamw8bit", "adafactor", "lomo"]

_BETAS, _EPS = (0.9, 0.999), 1e-8
_RISE = 3  # steps
_BLOCK = 256  # values that share a scale: 2,048 in the paper, 256 in its authors' library since, for a smaller error
_SMALL = 4096  # tensors of fewer values, and those that are not whole blocks, keep their moments in fp32
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 24}  # values that are decoded at a time: what stays in a CPU's cache
_SIGNED = {"first": True, "root": False}  # the moments


def learning_rate(
    step: int, total: int, peak: float, warmup: float, schedule: Literal["cosine", "linear", "constant"]
) -> float:
    """The rate of step `step` (from 0) of `total`: linear warm-up over the share `warmup`, then the schedule.

    Unless the share is 0, the rate rises over three steps at least: Adam's first step moves every weight by the whole
    rate, whatever its gradient (LOG.md says what that costs a short run).
    """
    warm = max(round(warmup * total), min(_RISE, total)) if warmup else 0
    if step < warm:
        return peak * (step + 1) / warm
    if schedule == "constant":
        return peak
    done = (step - warm) / max(1, total - warm)
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done)


def make_optimiser(name: Name, masters: Masters, weight_decay: float) -> torch.optim.Optimizer:
    """An optimiser over the masters; the rate is set at each step. `lomo` takes masters that keep no gradients.

    `adamw` is Loshchilov & Hutter's (arXiv 1711.05101), `adafactor` Shazeer & Stern's (arXiv 1804.04235): its second
    moments are one row and one column a matrix.
    """
    if name == "lomo":
        return Lomo(masters, weight_decay)
    groups = list(masters.groups(weight_decay))
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=0.0)
    if name == "adamw8bit":
        return AdamW8bit(groups)
    return torch.optim.AdamW(groups, lr=0.0, betas=_BETAS, eps=_EPS, fused=True)


def state_bytes(name: Name, masters: Masters) -> int:
    """Memory that the optimiser's state will take, about."""
    each = {"adamw": 8.0, "adamw8bit": 2.0 + 8 / _BLOCK, "adafactor": 0.0, "lomo": 0.0}[name]
    return int(each * sum(weight.numel() for weight in masters.weights.values()))


class AdamW8bit(torch.optim.Optimizer):
    """AdamW whose moments take a byte each (Dettmers et al. 2021, arXiv 2110.02861).

    A moment is kept in blocks, each scaled by its largest magnitude, as codes of the paper's dynamic quantisation. Of
    the second moment the root is kept: it spans half as many decades, so that hardly any value rounds to 0, where the
    update would jump (the zero-point problem of arXiv 2309.01507). Weights are moved in fp32, a chunk at a time, so
    that what is decoded takes no memory to speak of.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Take parameter groups of contiguous fp32 weights; the rate is set at each step."""
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state.update(_at_rest(weight))
                state["step"] += 1
                if state["first"].dtype == torch.uint8:
                    _move_in_chunks(weight.view(-1), weight.grad.view(-1), state, group)
                else:
                    _move(weight, weight.grad, state["first"], state["root"], int(state["step"]), group)


def _at_rest(weight: Tensor) -> dict[str, Tensor]:
    """The state before the first step: moments of 0, as codes with scales of 0 where the weight is large."""
    small = weight.numel() < _SMALL or weight.numel() % _BLOCK
    state = {"step": torch.tensor(0.0)}
    for name in _SIGNED:
        state[name] = torch.zeros_like(weight, dtype=torch.float32 if small else torch.uint8)
        if not small:
            state[f"{name}_scale"] = weight.new_zeros(weight.numel() // _BLOCK)
    return state


def _move(weight: Tensor, gradient: Tensor, first: Tensor, root: Tensor, step: int, group: dict[str, Any]) -> None:
    """One step of AdamW in fp32, in place; `root` is the second moment's."""
    first.lerp_(gradient, 1 - _BETAS[0])
    root.square_().mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1]).sqrt_()
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    spread = (root / math.sqrt(1 - _BETAS[1] ** step)).add_(_EPS)
    weight.addcdiv_(first, spread, value=-group["lr"] / (1 - _BETAS[0] ** step))


def _move_in_chunks(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """`_move`, with the moments in codes."""
    size = _CHUNK[weight.device.type]
    step = int(state["step"])
    for start in range(0, len(weight), size):
        part, blocks = slice(start, start + size), slice(start // _BLOCK, (start + size) // _BLOCK)
        kept = {name: (state[name].view(-1)[part], state[f"{name}_scale"][blocks]) for name in _SIGNED}
        moments = {name: _decode(*kept[name], signed) for name, signed in _SIGNED.items()}
        _move(weight[part], gradient[part], moments["first"], moments["root"], step, group)
        for name, signed in _SIGNED.items():
            _encode(moments[name], *kept[name], signed)


def _decode(codes: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """fp32 values [n] of codes [n], with one of `scales` for each block."""
    values = _values(signed, codes.device).index_select(0, codes.int())
    return values.view(-1, _BLOCK).mul_(scales[:, None]).view(-1)


def _encode(x: Tensor, codes: Tensor, scales: Tensor, signed: bool) -> None:
    """Fill in `codes` [n] and `scales` with the nearest to the values `x` [n]."""
    blocks = x.view(-1, _BLOCK)
    torch.amax(blocks.abs(), 1, out=scales)
    shares = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    bits = shares.half().view(torch.int16).view(-1)
    torch.index_select(_nearest(signed, x.device), 0, bits.int().add_(1 << 15), out=codes)


@cache
def _values(signed: bool, device: torch.device) -> Tensor:
    """The 256 values of the paper's dynamic quantisation, ascending, in fp32.

    A decade of [1e-7, 1] has twice as many values, evenly spread, as the one below. Without a sign there are two more
    bits of values, not of decades.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        count = 2 ** (decade if signed else decade + 1)
        middles = [0.1 + 0.9 * (i + 0.5) / count for i in range(count)]
        values += [sign * middle * 10.0 ** (decade - 6) for middle in middles for sign in ((1, -1) if signed else (1,))]
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


@cache
def _nearest(signed: bool, device: torch.device) -> Tensor:
    """The code [65,536] nearest to each half-precision number in [-1, 1], by its bits read as int16, from -32,768.

    Sixty times faster than a search for each value; one in 300 gets the code beside the nearest, at most 15 % further
    away.
    """
    values = _values(signed, torch.device("cpu"))
    halves = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.half).float()
    return torch.bucketize(halves, (values[1:] + values[:-1]) / 2).to(torch.uint8).to(device)

"""Blocks divided between ranks by FSDP2 (Zhao et al. 2023, arXiv 2304.11277; torch's `fully_shard`).

Each rank keeps its part of a block's weights, and so of its masters, gradients and moments. A block's whole weights
exist only while it is computed. Embedding and head stay whole on each rank: their gradients are added in place (see
`models.decoder`), which a divided matrix cannot take.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from shinan.models.decoder import blocks
from shinan.train import ranks


@dataclass(frozen=True, slots=True)
class Division:
    """What ranks have in common, and what each has of its own.

    Attributes:
        width: ranks that compute each forest together, side by side; 1 if each computes its own.
        alike: the ranks that hold the same parts as this one, of which each adds its forests' gradients; None if it is
            alone with them, or they are added up while they are computed.
        partial: names of whole parameters of whose gradients each of `width` ranks makes a part. (Of all other whole
            parameters, each makes the gradient itself.)
    """

    width: int = 1
    alike: ProcessGroup | None = None
    partial: frozenset[str] = frozenset()


@contextmanager
def divided(model: Any, divide: bool) -> Iterator[Division]:
    """Have each rank hold its part of the blocks for a block of code, if `divide`; afterwards all hold them whole."""
    if divide:
        with exchanged(model, _divide):
            yield Division()
    else:
        yield Division()


@contextmanager
def exchanged(model: Any, divide: Callable[[nn.Module], nn.Module]) -> Iterator[None]:
    """Put what `divide` makes of a copy of each block in its place for a block of code.

    The model's own blocks wait empty: they come back as they were, with the weights of the moment in their own number
    format. (After an exception they don't: that needs the other ranks.)
    """
    waiting = [(stack, index, block) for stack in blocks(model) for index, block in enumerate(stack)]
    for stack, index, block in waiting:
        stack[index] = divide(_taken(block))
    yield
    for stack, index, block in waiting:
        _fill(block, stack[index])
        stack[index] = block


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def here(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be divided."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def like(local: Tensor, parameter: DTensor) -> DTensor:
    """This rank's part of something that is divided as `parameter` is, as that whole."""
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(local, mesh, placements, shape=parameter.shape, stride=parameter.stride())


def first_row(parameter: DTensor) -> int:
    """How many rows of the whole come before this rank's part; 0 if it is not cut by rows."""
    [place] = parameter.placements
    if not place.is_shard(0):
        return 0
    mesh, rows = parameter.device_mesh, len(parameter)
    return min(rows, mesh.get_local_rank() * -(-rows // mesh.size()))


def _taken(block: nn.Module) -> nn.Module:
    """A copy of the block; the block itself is left without memory."""
    # Attention is chosen in the config, which all blocks share.
    shared = {id(module.config): module.config for module in block.modules() if hasattr(module, "config")}
    twin = copy.deepcopy(block, shared)
    for mine in block.parameters():
        mine.data = mine.data.new_empty(0)
    return twin


def _divide(block: nn.Module) -> Any:
    first = next(block.parameters())
    policy = MixedPrecisionPolicy(param_dtype=first.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    part = fully_shard(block, mesh=init_device_mesh(first.device.type, (ranks.count(),)), mp_policy=policy)
    part.set_gradient_divide_factor(1.0)  # a step's gradient is a sum over its forests, wherever they are computed
    part.set_force_sum_reduction_for_comms(True)  # gloo has no other
    part.unshard()  # settles where the parts' memory is, before the masters take it
    part.reshard()
    return part


@torch.no_grad()
def _fill(block: nn.Module, part: nn.Module) -> None:
    if isinstance(part, FSDPModule):
        part.reshard()
    for mine, held in zip(block.parameters(), part.parameters(), strict=True):
        mine.data = whole(held.detach()).to(mine.dtype)

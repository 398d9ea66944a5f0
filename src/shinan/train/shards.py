"""Blocks divided between ranks by FSDP2 (Zhao et al. 2023, arXiv 2304.11277; torch's `fully_shard`).

Each rank keeps its part of a block's trained weights in fp32: they are the masters, so that gradients and moments are
parts, too. A block's whole weights exist, in the model's number format, only while it is computed. Embedding and head
stay whole on each rank: their gradients are added in place (see `models.decoder`), which a divided matrix cannot take.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from shinan.models.decoder import blocks
from shinan.train import ranks


@contextmanager
def divided(model: Any, divide: bool) -> Iterator[None]:
    """Have each rank hold its part of the blocks for a block of code, if `divide`; afterwards all hold them whole.

    The model's own blocks wait empty, while copies of them are divided: they come back as they were, with the weights
    of the moment in their own number format. (After an exception they don't: that needs the other ranks.)
    """
    if not divide:
        yield
        return
    waiting = [(stack, index, block) for stack in blocks(model) for index, block in enumerate(stack)]
    for stack, index, block in waiting:
        stack[index] = _divide(block)
    yield
    for stack, index, block in waiting:
        _fill(block, stack[index])
        stack[index] = block


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(local: Tensor, parameter: DTensor) -> DTensor:
    """This rank's part of something that is divided as `parameter` is, as that whole."""
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(local, mesh, placements, shape=parameter.shape, stride=parameter.stride())


def _divide(block: nn.Module) -> Any:
    """A copy of the block, divided; the block itself is left without memory."""
    first = next(block.parameters())
    # Attention is chosen in the config, which all blocks share.
    shared = {id(module.config): module.config for module in block.modules() if hasattr(module, "config")}
    twin = copy.deepcopy(block, shared)
    for mine, copied in zip(block.parameters(), twin.parameters(), strict=True):
        mine.data = mine.data.new_empty(0)
        if copied.requires_grad:
            copied.data = copied.data.float()
    policy = MixedPrecisionPolicy(param_dtype=first.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    part = fully_shard(twin, mesh=init_device_mesh(first.device.type, (ranks.count(),)), mp_policy=policy)
    part.set_gradient_divide_factor(1.0)  # a step's gradient is a sum over its forests, wherever they are computed
    part.set_force_sum_reduction_for_comms(True)  # gloo has no other
    part.unshard()  # settles where the parts' memory is, before the masters take it
    part.reshard()
    return part


@torch.no_grad()
def _fill(block: nn.Module, part: Any) -> None:
    part.unshard()
    for mine, gathered in zip(block.parameters(), part.parameters(), strict=True):
        mine.data = gathered.detach().clone()
    part.reshard()

"""Matrix products of a few rows, as decoding has them, on a CPU in bf16.

oneDNN takes the right factor of a bf16 product in an arrangement of its own, and makes it anew in each product: with
the weight on the right, that takes longer than the product of a few rows itself. As the left factor, the weight is read
as it lies (LOG.md has the times). The sums are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

ROWS = 64  # up to so many it pays


@contextmanager
def narrow_products(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside, the linear maps of `model` take their weight as the left factor, where so many rows gain by it."""
    turned = [module for module in model.modules() if _turns(module, rows)]
    for module in turned:
        module.__dict__["forward"] = partial(_turned, module)
    try:
        yield
    finally:
        for module in turned:
            del module.__dict__["forward"]


def _turns(module: nn.Module, rows: int) -> bool:
    if rows > ROWS or type(module) is not nn.Linear:
        return False
    return module.weight.dtype == torch.bfloat16 and module.weight.device.type == "cpu"


def turned(weight: Tensor, x: Tensor) -> Tensor:
    """`x @ weight.T` [n, out] with the weight as the left factor; the result is a view of its transpose."""
    if len(x) == 1:  # a product with one column goes a way of its own, which takes half as long again
        return (weight @ x.expand(2, -1).T.contiguous()).T[:1]
    return (weight @ x.T).T


def _turned(module: nn.Module, x: Tensor) -> Tensor:
    weight, bias = module.weight, module.bias
    found = turned(weight, x.flatten(0, -2)).contiguous()  # type: ignore[arg-type]
    return (found if bias is None else found + bias).view(*x.shape[:-1], -1)  # type: ignore[operator]

"""Linear layers whose frozen weights take four bits: QLoRA's base (Dettmers et al. 2023, arXiv 2305.14314).

Weights are stored as bitsandbytes' NormalFloat in blocks of 64, their scales quantised again (section 3), and computed
with in the model's own number format. Needs the extra `quant`; runs on CUDA and on CPUs.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from shinan.core.errors import RunError


def require() -> None:
    """Raises RunError if bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        fix = "install it: pip install 'shinan[quant]', or choose `method: lora`"
        raise RunError("`method: qlora` needs bitsandbytes", where="tune.method", fix=fix)


def quantise(model: Any) -> Any:
    """A causal LM with the linear layers of its blocks quantised, in place; the head keeps its format."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    for parent, name, layer in _children(model, nn.Linear):
        if layer is head:
            continue
        with torch.device("meta"):
            made = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, layer.weight.dtype)
        made.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
        made.bias = layer.bias
        # On some CPUs a pass without gradients, such as a validation, would pack the weights for a kernel that has no
        # backward pass and is taken from then on.
        made.support_avx512bf16_for_cpu = False
        setattr(parent, name, made.to(layer.weight.device))
    model.is_loaded_in_4bit = True  # what peft goes by
    return model


def restore(model: Any) -> Any:
    """A model with quantised layers, wrapped or not, with plain ones in their place that hold what was computed with.

    Not the weights from before: what is saved is then what was trained.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for parent, name, layer in _children(model, Linear4bit):
        with torch.device("meta"):
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(layer.compute_dtype)
        plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), layer.bias
        setattr(parent, name, plain)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.is_loaded_in_4bit = False
    return model


def size(parameter: Any) -> int:
    """Weights of a parameter, also where four bits hold one."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state else int(parameter.numel())


def _children(model: nn.Module, kind: type[nn.Module]) -> list[tuple[nn.Module, str, Any]]:
    """(parent, name in it, module) of every module of a kind."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]

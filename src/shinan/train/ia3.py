"""IA3 by peft (Liu et al. 2022, arXiv 2205.05638): learned factors on keys, values and the inside of each MLP."""

from __future__ import annotations

from typing import Any

import torch
from peft import IA3Config
from transformers.pytorch_utils import Conv1D

from shinan.train.lora import linear_layers
from shinan.train.wrapping import wrapped

# A layer that makes queries, too, is scaled as a whole, as peft does it.
_KEYS_AND_VALUES = ("k_proj", "v_proj", "query_key_value", "c_attn")
_SECOND = ("mlp.down_proj", "mlp.dense_4h_to_h", "mlp.c_proj")  # of an MLP: its inputs are scaled


def targets(model: Any) -> tuple[list[str], list[str]]:
    """(layers whose outputs are scaled, layers whose inputs are scaled) of a causal LM; empty if it has none."""
    names = [name for name, _ in linear_layers(model)]
    outputs, inputs = (
        [target for target in known if any(name.endswith(f".{target}") for name in names)]
        for known in (_KEYS_AND_VALUES, _SECOND)
    )
    return outputs, inputs


def wrap(model: Any, seed: int) -> Any:
    """`model` with factors, which begin at 1; only they require gradients."""
    outputs, inputs = targets(model)
    config = IA3Config(
        target_modules=outputs + inputs,
        feedforward_modules=inputs,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    return wrapped(model, config, seed, "ia3")


def merge(model: Any) -> Any:
    """Multiply the factors into weights and biases (in fp32, rounded once) and drop the wrapper."""
    for module in model.modules():
        if hasattr(module, "ia3_l"):
            _merge_layer(module)
    return model.unload()


@torch.no_grad()
def _merge_layer(module: Any) -> None:
    """Factors are [1, inputs] before an MLP's second layer, else [outputs, 1]; a weight is [outputs, inputs]."""
    base = module.get_base_layer()
    for name in module.active_adapters:
        factors = module.ia3_l[name].float()
        base.weight.copy_(base.weight.float() * (factors.T if module.fan_in_fan_out else factors))
        if base.bias is not None and not module.is_feedforward:
            base.bias.copy_(base.bias.float() * factors[:, 0])

"""LoRA by peft: wrap a model, and fold the adapters back into it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from shinan.core.hashing import derive_seed
from shinan.models.family import is_encoder_decoder
from shinan.train.settings import LoraSettings

_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj", "query_key_value", "c_attn", "out_proj", "q", "k", "v", "o"]


def wrap(model: Any, settings: LoraSettings, seed: int) -> Any:
    """`model` with adapters on its linear layers; only they require gradients. The start depends on `seed` alone."""
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    attention = sorted(present.intersection(_ATTENTION))
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=attention if settings.targets == "attention" else "all-linear",
        task_type="SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a renamed attribute
        torch.manual_seed(derive_seed(seed, "lora"))
        # Adapters follow the model's dtype: their fp32 masters are the engine's work.
        return get_peft_model(model, config, autocast_adapter_dtype=False)


def merge(model: Any) -> Any:
    """Fold the adapters into the weights they adapt (summed in fp32, rounded once) and drop the wrapper."""
    for module in model.modules():
        if hasattr(module, "lora_A"):
            _merge_layer(module)
    return model.unload()


@torch.no_grad()
def _merge_layer(module: Any) -> None:
    weight = module.get_base_layer().weight
    for name in module.active_adapters:
        down, up = module.lora_A[name].weight.float(), module.lora_B[name].weight.float()
        update = module.scaling[name] * (up @ down)
        if module.fan_in_fan_out:
            update = update.T
        weight.copy_(weight.float() + update)

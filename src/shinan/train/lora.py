"""Low-rank adapters by peft (LoRA, rsLoRA, DoRA): wrap a model, and fold them back into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from shinan.core.errors import Problem, nearest
from shinan.train.settings import LoraSettings
from shinan.train.wrapping import task_type, wrapped

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "query_key_value", "c_attn", "out_proj", "q", "k", "v", "o")


def wrap(model: Any, settings: LoraSettings, seed: int) -> Any:
    """`model` with adapters on its linear layers; only they require gradients. The start depends on `seed` alone."""
    targets = settings.targets
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=sorted(_present(model, _ATTENTION)) if targets == "attention" else targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        task_type=task_type(model),
    )
    return wrapped(model, config, seed, "lora")


def problems(model: Any, settings: LoraSettings) -> Iterator[Problem]:
    """Targets that name no linear layer of the model's body."""
    linear = {name for name, _ in linear_layers(model)}
    if settings.targets == "attention" and not _present(model, _ATTENTION):
        yield Problem("none of its layers has the name of an attention layer", "tune.lora.targets", _named(linear))
    if isinstance(settings.targets, str):
        return
    if not settings.targets:
        yield Problem("no layer is named", "tune.lora.targets", _named(linear))
    for target in settings.targets:
        if not any(_names(target, name) for name in linear):
            fix = nearest(target, {name.rpartition(".")[2] for name in linear})
            yield Problem(f"no linear layer of the model's blocks is named {target!r}", "tune.lora.targets", fix)


def linear_layers(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers of a causal LM below its head, by their names in it."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield name, module


def _present(model: Any, names: Iterable[str]) -> set[str]:
    return {name for name in names if any(_names(name, layer) for layer, _ in linear_layers(model))}


def _names(target: str, layer: str) -> bool:
    """Whether peft takes `target` to name the layer."""
    return layer == target or layer.endswith(f".{target}")


def _named(layers: Iterable[str]) -> str:
    return f"name some of {', '.join(sorted({name.rpartition('.')[2] for name in layers}))}"


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
        own = weight.float().T if module.fan_in_fan_out else weight.float()
        total = own + module.scaling[name] * (up @ down)
        if name in module.lora_magnitude_vector:
            total = _of_length(total, module.lora_magnitude_vector[name].weight.float())
        weight.copy_(total.T if module.fan_in_fan_out else total)


def _of_length(rows: Tensor, lengths: Tensor) -> Tensor:
    """Rows [n, m] in their directions and of these lengths [n] (DoRA, equation 5)."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return rows * (lengths / norms)[:, None]

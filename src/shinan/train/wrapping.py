"""A model wrapped by peft, from a start that depends on the seed alone."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import PeftConfig, get_peft_model

from shinan.core.hashing import derive_seed
from shinan.models.family import is_encoder_decoder


def task_type(model: Any) -> str:
    """What peft calls such a model's task."""
    return "SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM"


def wrapped(model: Any, config: PeftConfig, seed: int, purpose: str) -> Any:
    """`model` with what `config` adds to it; only that requires gradients."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a renamed attribute
        torch.manual_seed(derive_seed(seed, purpose))
        # Adapters follow the model's dtype: their fp32 masters are the engine's work.
        return get_peft_model(model, config, autocast_adapter_dtype=False)

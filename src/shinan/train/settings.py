"""What a person sets for tuning: the `tune:` section of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from shinan.core.config import Config

_RATES = {"lora": 5e-4, "full": 5e-5}


class LoraSettings(Config):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(16, gt=0)
    """Rank of the update."""
    alpha: float = Field(32.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: Literal["all-linear", "attention"] = "all-linear"
    """Linear layers that get an adapter: `attention` is the paper's choice, `all-linear` QLoRA's (arXiv 2305.14314)."""


class TuneSettings(Config):
    """How to tune. Defaults suit a small model on a small machine."""

    objective: str = "sft"
    """Registered objective."""
    method: Literal["full", "lora"] = "lora"
    """Train all weights, or low-rank adapters that are merged into the model at the end."""
    lora: LoraSettings | None = None
    """The adapters, with `method: lora`; without this key, with their defaults."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the data; the last may be partial."""
    batch_size: int = Field(16, gt=0)
    """Examples per optimiser step."""
    micro_tokens: int = Field(4096, gt=0)
    """Padded tokens per forward pass: lower it if memory runs out. The gradient does not depend on it."""
    max_tokens: int = Field(1024, gt=1)
    """Longer examples are dropped with the reason `too_long`, never cut."""
    learning_rate: float = Field(_RATES["lora"], gt=0)
    """Peak learning rate; by default 5e-4 with `lora`, 5e-5 with `full`, which diverges at LoRA's rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after warm-up; cosine and linear end at 0."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled decay (AdamW) of weight matrices; vectors (norms, biases) are not decayed."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    validation: float = Field(0.05, ge=0, lt=1)
    """Share of the rows set apart to measure validation loss and choose the best checkpoint; 0 for none."""
    validate_every: float = Field(0.5, gt=0)
    """Epochs between validations."""
    save_every: float = Field(30.0, gt=0)
    """Seconds between checkpoints to resume from. Results do not depend on it."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the computation; `auto` asks a probe. Weights and optimiser stay fp32 either way."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("method", "lora") == "lora":
            return {"lora": {}, "learning_rate": _RATES["lora"]} | data
        if data.get("lora") is not None:
            raise ValueError("`lora:` has no effect with `method: full`; remove it or choose `method: lora`")
        return {"learning_rate": _RATES["full"]} | data

    @property
    def adapter(self) -> LoraSettings:
        """The LoRA settings of a run that uses them."""
        return self.lora or LoraSettings()

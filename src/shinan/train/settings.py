"""What a person sets for tuning: the `tune:` section of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from shinan.core.config import Config

_RATES = {"lora": 5e-4, "full": 5e-5}
_OTHER_RATES = {"adafactor": 1e-3, "lomo": 0.03}  # relative to the weights; of clipped gradients (arXiv 2306.09782)


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


class SampleSettings(Config):
    """Replies written while tuning goes on, into samples.jsonl of the run folder."""

    prompts: int = Field(4, gt=0)
    """How many prompts: the first of the validation rows, else of the training rows."""
    every: float = Field(0.5, gt=0)
    """Epochs between them."""


class TuneSettings(Config):
    """How to tune. Defaults suit a small model on a small machine."""

    objective: str = "sft"
    """Registered objective: `sft`, or `dpo` for rows with a rejected reply."""
    params: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Parameters of the objective."""
    method: Literal["full", "lora"] = "lora"
    """Train all weights, or low-rank adapters that are merged into the model at the end."""
    lora: LoraSettings | None = None
    """The adapters, with `method: lora`; without this key, with their defaults."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the data; the last may be partial."""
    batch_size: int = Field(16, gt=0)
    """Examples per optimiser step."""
    instances_per_prompt: int = Field(1, gt=0)
    """Rows of a task drawn together, so that they meet in a batch and their shared beginning is computed once; 1 for a
    plain shuffle."""
    micro_tokens: int | None = Field(None, gt=0)
    """Tokens per forward pass, each shared prefix once: lower it if memory runs out. The gradient does not depend on
    it. By default a probe chooses."""
    max_tokens: int = Field(1024, gt=1)
    """Longest example, in tokens."""
    too_long: Literal["drop", "refuse", "truncate"] = "drop"
    """What happens to a longer one: dropped with the reason `too_long`, the run refused, or the beginning of its
    context left out. An answer is never cut."""
    learning_rate: float = Field(_RATES["lora"], gt=0)
    """Peak learning rate; by default 5e-4 with `lora`, 5e-5 with `full`, which diverges at LoRA's rate; 1e-3 with
    `adafactor`, 0.03 with `lomo`, whose steps have other units."""
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
    patience: int | None = Field(None, gt=0)
    """Stop after so many validations in a row without a lower loss; by default all epochs are done."""
    sample: SampleSettings | None = None
    """Sample replies while tuning goes on. Weights do not depend on it."""
    track: list[Literal["tensorboard", "trackio", "wandb"]] = Field(default_factory=list)
    """Where metrics.jsonl is written besides (`pip install 'shinan[track]'`); wandb offline unless WANDB_MODE is set.
    Results do not depend on it."""
    save_every: float = Field(30.0, gt=0)
    """Seconds between checkpoints to resume from. Results do not depend on it."""
    optimiser: Literal["adamw", "adamw8bit", "adafactor", "lomo"] = "adamw"
    """AdamW; with its moments in a byte each; Adafactor, whose second moments need hardly any memory; or LOMO, gradient
    descent in the backward pass, which keeps neither gradients nor moments, computes each step twice, and needs a step
    to be one forward pass. The last two are for `method: full`."""
    checkpoint: Literal["auto", "on", "off"] = "auto"
    """Compute activations again in the backward pass: slower, and needs less memory. `auto` only where it must."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Run the blocks through torch.compile; `auto` where a forecast says that it pays for this run."""
    shard: Literal["auto", "on", "off"] = "auto"
    """Under torchrun, divide the blocks' weights, gradients and moments between the processes (FSDP2): slower, and
    needs less memory. `auto` only where it must. A process alone divides nothing."""
    on_out_of_memory: Literal["stop", "back_off"] = "stop"
    """Stop with a sentence, or go on with forward passes of half the size."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the computation; `auto` asks a probe. Weights and optimiser stay fp32 either way."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        optimiser = data.get("optimiser")
        if data.get("method", "lora") == "lora":
            if optimiser in _OTHER_RATES:
                raise ValueError(f"`optimiser: {optimiser}` saves nothing with `method: lora`; choose `method: full`")
            return {"lora": {}, "learning_rate": _RATES["lora"]} | data
        if data.get("lora") is not None:
            raise ValueError("`lora:` has no effect with `method: full`; remove it or choose `method: lora`")
        return {"learning_rate": _OTHER_RATES.get(str(optimiser), _RATES["full"])} | data

    @model_validator(mode="after")
    def _patience_needs_validation(self) -> TuneSettings:
        if self.patience is not None and self.validation == 0:
            raise ValueError("`patience:` counts validations, and `validation: 0` has none; remove one of the two")
        return self

    @property
    def adapter(self) -> LoraSettings:
        """The LoRA settings of a run that uses them."""
        return self.lora or LoraSettings()

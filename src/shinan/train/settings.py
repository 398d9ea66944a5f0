"""What a person sets for tuning: the `tune:` section of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, ValidationInfo, field_validator, model_validator

from shinan.core.config import Config

Name = Literal["full", "lora", "qlora", "ia3", "bitfit", "prefix", "prompt"]

# Where a rate is not our own (LOG.md), it is that of the paper or of its code: QLoRA's for models of 7 and 13 billion
# weights (arXiv 2305.14314, appendix B), T-Few's (arXiv 2205.05638), the largest of BitFit's grid (arXiv 2106.10199),
# and for virtual tokens, which their papers train with other optimisers, that of peft's examples with AdamW.
RATES: dict[Name, float] = {
    "full": 5e-5,
    "lora": 5e-4,
    "qlora": 2e-4,
    "ia3": 3e-3,
    "bitfit": 1e-3,
    "prefix": 3e-2,
    "prompt": 3e-2,
}
"""The default learning rate of each method."""
_OTHER_RATES = {"adafactor": 1e-3, "lomo": 0.03}  # relative to the weights; of clipped gradients (arXiv 2306.09782)
_SECTIONS = {"lora": ("lora", "qlora"), "prefix": ("prefix",), "prompt": ("prompt",)}  # and the methods they are of


class LoraSettings(Config):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685).

    rsLoRA and DoRA are options here and no methods, as peft and LLaMA-Factory have them: they can be combined with each
    other and with quantised weights (`method: qlora`).
    """

    rank: int = Field(16, gt=0)
    """Rank of the update."""
    alpha: float = Field(32.0, gt=0)
    """The update is scaled by alpha / rank; by alpha / sqrt(rank) with `rslora`, where the default is 8, peft's: at the
    default rank both scale it by 2."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: Literal["all-linear", "attention"] | list[str] = "all-linear"
    """Linear layers that get an adapter: `attention` is the paper's choice, `all-linear` QLoRA's (arXiv 2305.14314); or
    a list of their names, such as [q_proj, v_proj]."""
    rslora: bool = False
    """Scale by the root of the rank, so that a higher rank does not learn more slowly (Kalajdzievski 2023, arXiv
    2312.03732)."""
    dora: bool = False
    """Learn the length of each row of a weight apart from its direction (Liu et al. 2024, arXiv 2402.09353)."""

    @model_validator(mode="before")
    @classmethod
    def _default_alpha(cls, data: Any) -> Any:
        return {"alpha": 8.0} | data if isinstance(data, dict) and data.get("rslora") is True else data


class PrefixSettings(Config):
    """Prefix tuning (Li & Liang 2021, arXiv 2101.00190): learned keys and values before every text, in each layer."""

    tokens: int = Field(30, gt=0)
    """How many there are in a layer."""
    projection: int | None = Field(None, gt=0)
    """Width of the hidden layer of a network through which they are learned (512 in the paper, with a learning rate of
    5e-5); by default they are learned as they are, as in P-tuning v2 (arXiv 2110.07602) and peft."""


class PromptSettings(Config):
    """Prompt tuning (Lester et al. 2021, arXiv 2104.08691): learned embeddings before every text.

    They begin as those of tokens drawn from the vocabulary: the paper finds this better than random numbers.
    """

    tokens: int = Field(20, gt=0)
    """How many there are. The paper's 100 are for models of billions of weights."""


class FreezeSettings(Config):
    """What stays as it is, of all that the method would train."""

    layers: int = Field(0, ge=0)
    """The lowest so many blocks."""
    embeddings: bool = False
    """The input embeddings, with `method: full`; a head that is tied to them stays, too."""

    @model_validator(mode="after")
    def _something(self) -> FreezeSettings:
        if not self.layers and not self.embeddings:
            raise ValueError("it freezes nothing; give a number of `layers`, or `embeddings: true`")
        return self


class ReplaySettings(Config):
    """Pre-training text mixed in, against forgetting (InstructGPT's ptx, Ouyang et al. 2022, arXiv 2203.02155)."""

    source: str = Field(alias="from")
    """Id of the build stage whose rows are the text; it has `train: false`."""
    gamma: float = Field(1.0, gt=0)
    """The mean loss over all tokens of a step's text is added to the step's loss so many times. (The paper's 27.8
    stands beside a reward.)"""
    rows: int | None = Field(None, gt=0)
    """Texts a step; by default as many as `batch_size`."""


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
    method: Name = "lora"
    """What is trained: all weights (`full`); low-rank adapters (`lora`), also over weights in 4 bits (`qlora`); factors
    (`ia3`); the biases alone (`bitfit`); or learned vectors before every text (`prefix`, `prompt`), which are saved as
    an adapter. All others end as whole weights. docs/methods.md compares them."""
    lora: LoraSettings | None = None
    """The adapters, with `method: lora` and `qlora`; without this key, with their defaults."""
    prefix: PrefixSettings | None = None
    """The prefix, with `method: prefix`."""
    prompt: PromptSettings | None = None
    """The prompt, with `method: prompt`."""
    freeze: FreezeSettings | None = None
    """What is not trained all the same."""
    loss: Literal["all", "last"] = "all"
    """Which of a row's trained turns the loss covers: all of them, or the last alone."""
    weights: dict[str, dict[str, PositiveFloat]] = Field(default_factory=dict)
    """{tag: {value: weight}}: the loss of rows with that tag is multiplied by it; a row without it keeps its weight."""
    neftune: float | None = Field(None, gt=0)
    """Noise on the embeddings while training (NEFTune, Jain et al. 2023, arXiv 2310.05914): the paper's alpha, 5 to 15.
    Rows that share a beginning in a forward pass share its noise."""
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
    learning_rate: float = Field(RATES["lora"], gt=0)
    """Peak learning rate. By default that of the method: 5e-4 with `lora`, 5e-5 with `full`, which diverges at LoRA's
    rate, 2e-4 with `qlora`, 3e-3 with `ia3`, 1e-3 with `bitfit`, 3e-2 with `prefix` and `prompt`; 1e-3 with
    `adafactor`, 0.03 with `lomo`, whose steps have other units."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after warm-up; cosine and linear end at 0."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0: over three at least, unless it is 0."""
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
    replay: ReplaySettings | None = None
    """Text of other kinds that is learned beside, not with `lomo`."""
    checkpoint: Literal["auto", "on", "off"] = "auto"
    """Compute activations again in the backward pass: slower, and needs less memory. `auto` only where it must."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Run the blocks through torch.compile; `auto` where a forecast says that it pays for this run."""
    shard: Literal["auto", "on", "off"] = "auto"
    """Under torchrun, divide the blocks' weights, gradients and moments between the processes (FSDP2): slower, and
    needs less memory. `auto` only where it must. A process alone divides nothing."""
    tensor_parallel: int = Field(1, gt=0)
    """Under torchrun, so many processes compute each forward pass together, each with its heads of attention and its
    part of every MLP, as transformers' plan for the model says; for processes that are joined by something fast."""
    on_out_of_memory: Literal["stop", "back_off"] = "stop"
    """Stop with a sentence, or go on with forward passes of half the size."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the computation; `auto` asks a probe. Weights and optimiser stay fp32 either way."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        method, optimiser = str(data.get("method", "lora")), str(data.get("optimiser"))
        rates: dict[str, float] = {**RATES} | (_OTHER_RATES if method == "full" else {})
        rate = rates.get(optimiser, rates.get(method, RATES["lora"]))
        sections: dict[str, Any] = {name: {} for name, methods in _SECTIONS.items() if method in methods}
        return {"learning_rate": rate} | sections | data

    @model_validator(mode="after")
    def _patience_needs_validation(self) -> TuneSettings:
        if self.patience is not None and self.validation == 0:
            raise ValueError("`patience:` counts validations, and `validation: 0` has none; remove one of the two")
        return self

    @field_validator(*_SECTIONS)
    @classmethod
    def _of_the_method(cls, value: Config | None, info: ValidationInfo) -> Config | None:
        method, methods = info.data.get("method"), _SECTIONS[str(info.field_name)]
        if value is not None and method and method not in methods:
            chosen = f"remove it or choose `method: {methods[0]}`"
            raise ValueError(f"`{info.field_name}:` has no effect with `method: {method}`; {chosen}")
        return value

    @field_validator("freeze")
    @classmethod
    def _freezes_what_is_trained(cls, value: FreezeSettings | None, info: ValidationInfo) -> FreezeSettings | None:
        method = info.data.get("method", "full")
        if value and method in ("prefix", "prompt"):
            raise ValueError(f"`method: {method}` trains no weight of the model; remove it")
        if value and value.embeddings and method != "full":
            raise ValueError(f"`method: {method}` leaves the embeddings as they are; take `embeddings` out")
        return value

    @field_validator("loss")
    @classmethod
    def _of_single_rows(cls, value: str, info: ValidationInfo) -> str:
        if value == "last" and info.data.get("objective") == "dpo":
            raise ValueError("`objective: dpo` compares the last turns alone; remove it")
        return value

    @field_validator("optimiser")
    @classmethod
    def _saves_something(cls, value: str, info: ValidationInfo) -> str:
        method = info.data.get("method", "full")
        if value in _OTHER_RATES and method != "full":
            raise ValueError(f"`optimiser: {value}` saves nothing with `method: {method}`; choose `method: full`")
        return value

    @field_validator("tensor_parallel")
    @classmethod
    def _can_be_cut(cls, value: int, info: ValidationInfo) -> int:
        unless = {"method": ("full",), "optimiser": ("adamw",)} | dict.fromkeys(("compile", "shard"), ("auto", "off"))
        asked = {name: info.data.get(name, fitting[0]) for name, fitting in unless.items()}
        wrong = [f"`{name}: {asked[name]}`" for name in unless if asked[name] not in unless[name]]
        if info.data.get("sample"):
            wrong.append("`sample:`")
        if value > 1 and wrong:
            raise ValueError(f"this is not tried with {', '.join(wrong)}; change that, or leave it out")
        return value

    @field_validator("replay")
    @classmethod
    def _gradients_add_up(cls, value: ReplaySettings | None, info: ValidationInfo) -> ReplaySettings | None:
        if value and info.data.get("optimiser") == "lomo":
            raise ValueError("`optimiser: lomo` keeps no gradients to add those of other text to; choose another")
        return value

"""The methods of tuning: how each makes a model ready, and how what it has learned becomes whole weights again.

Everything else (engine, forecast, evaluation) sees a model, of whose parameters some require gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from peft import PrefixTuningConfig, PromptTuningConfig

from shinan.core.errors import ConfigError, ModelError, Problem
from shinan.models.cache import Shape
from shinan.models.decoder import blocks
from shinan.models.family import is_encoder_decoder
from shinan.train import ia3, lora, quantised, tensor_parallel
from shinan.train.settings import LoraSettings, Name, PrefixSettings, PromptSettings, TuneSettings
from shinan.train.wrapping import wrapped


class Method(NamedTuple):
    """One method.

    Attributes:
        wrap: a causal LM, settings and seed -> the model to tune, whose trained parameters alone require gradients.
        merge: that model after tuning -> a whole causal LM, in place; None where there is nothing to undo.
        adapter: whether no whole weights can be made of it: the checkpoint is an adapter beside its base.
    """

    wrap: Callable[[Any, TuneSettings, int], Any]
    merge: Callable[[Any], Any] | None = None
    adapter: bool = False


def wrap(model: Any, settings: TuneSettings, seed: int) -> Any:
    """A causal LM made ready for `settings`. Its start depends on `seed` alone.

    Raises what `check` raises.
    """
    check(model, settings)
    made = METHODS[settings.method].wrap(model, settings, seed)
    if settings.freeze:
        for block in (block for stack in blocks(model) for block in stack[: settings.freeze.layers]):
            block.requires_grad_(False)
        if settings.freeze.embeddings:
            model.get_input_embeddings().requires_grad_(False)
    return made


def whole(model: Any, settings: TuneSettings) -> Any:
    """The whole causal LM that a wrapped and tuned one is; the latter stays as it is. Not for an adapter's method."""
    merge = METHODS[settings.method].merge
    return merge(copy.deepcopy(model)) if merge else model


def is_adapter(settings: TuneSettings) -> bool:
    """Whether what is saved is an adapter."""
    return METHODS[settings.method].adapter


def merges(settings: TuneSettings) -> bool:
    """Whether what is learned is merged into a copy of the model."""
    return METHODS[settings.method].merge is not None


def virtual_tokens(settings: TuneSettings) -> int:
    """How many virtual tokens stand before every text."""
    section = settings.prefix or settings.prompt
    return section.tokens if section else 0


def trains_head(model: Any, settings: TuneSettings) -> bool:
    """Whether tuning moves the weights of the model's head: only then can a token be learned that it never gave."""
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    held = settings.freeze is not None and settings.freeze.embeddings and tied
    return settings.method == "full" and not held


def check(model: Any, settings: TuneSettings) -> None:
    """Whether a loaded causal LM can be tuned so.

    Raises ConfigError with everything about the settings that does not fit the model, ModelError for an adapter,
    RunError for a missing extra.
    """
    if hasattr(model, "peft_config"):
        what = "this model is an adapter beside its base, and another method would be put on top of it"
        raise ModelError(what, fix="tune its base, or merge the adapter into it first")
    if settings.method == "qlora":
        quantised.require()
    if problems := list(_problems(model, settings)):
        raise ConfigError(problems)


def _problems(model: Any, settings: TuneSettings) -> Iterator[Problem]:
    kind, method = type(model).__name__, settings.method
    if method in ("lora", "qlora"):
        yield from lora.problems(model, settings.lora or LoraSettings())
    if method == "qlora" and not any(hasattr(layer, "in_features") for _, layer in lora.linear_layers(model)):
        yield Problem(f"{kind} has no layers that can be quantised", "tune.method", "choose `method: lora`")
    if method == "bitfit" and not _biases(model):
        yield Problem(f"{kind} has no biases, and `bitfit` trains nothing else", "tune.method", "choose `method: ia3`")
    if method == "ia3" and not all(ia3.targets(model)):
        yield Problem(f"{kind} has no layers whose names `ia3` knows", "tune.method", "choose `method: lora`")
    if settings.tensor_parallel > 1:
        yield from tensor_parallel.problems(model, settings.tensor_parallel)
    if is_encoder_decoder(model):
        yield from _for_decoders_only(settings)
    count, frozen = min(map(len, blocks(model))), settings.freeze.layers if settings.freeze else 0
    most = count if method == "full" else count - 1
    if frozen > most:
        what = f"{frozen} of {count} blocks are frozen: " + ("there are not so many" if most == count else "all")
        yield Problem(what, "tune.freeze.layers", f"freeze at most {most}")


def _for_decoders_only(settings: TuneSettings) -> Iterator[Problem]:
    """What is not done, or not checked, with an encoder-decoder."""
    for what, key, fix in (
        (settings.method in ("prefix", "prompt", "qlora"), "tune.method", "choose `method: lora`"),
        (settings.neftune is not None, "tune.neftune", "leave it out"),
        (settings.replay is not None, "tune.replay", "leave it out"),
    ):
        if what:
            yield Problem("this is for models without an encoder of their own", key, fix)


def _biases(model: Any) -> list[Any]:
    """All biases, those of the norms too."""
    return [parameter for name, parameter in model.named_parameters() if name.rpartition(".")[2] == "bias"]


def _bitfit(model: Any, settings: TuneSettings, seed: int) -> Any:
    """Ben Zaken et al. 2021, arXiv 2106.10199."""
    model.requires_grad_(False)
    for bias in _biases(model):
        bias.requires_grad_(True)
    return model


def _prefix(model: Any, settings: TuneSettings, seed: int) -> Any:
    chosen, shape = settings.prefix or PrefixSettings(), Shape.of(model)
    config = PrefixTuningConfig(
        num_virtual_tokens=chosen.tokens,
        num_layers=shape.layers,
        num_attention_heads=shape.groups,
        token_dim=shape.groups * shape.size,
        prefix_projection=chosen.projection is not None,
        encoder_hidden_size=chosen.projection,
        task_type="CAUSAL_LM",
    )
    return wrapped(model, config, seed, "prefix")


def _prompt(model: Any, settings: TuneSettings, seed: int) -> Any:
    chosen = settings.prompt or PromptSettings()
    config = PromptTuningConfig(
        num_virtual_tokens=chosen.tokens,
        prompt_tuning_init="SAMPLE_VOCAB",
        num_layers=Shape.of(model).layers,
        num_attention_heads=model.config.num_attention_heads,
        token_dim=model.get_input_embeddings().weight.shape[1],
        task_type="CAUSAL_LM",
    )
    return wrapped(model, config, seed, "prompt")


def _lora(model: Any, settings: TuneSettings, seed: int) -> Any:
    return lora.wrap(model, settings.lora or LoraSettings(), seed)


METHODS: Mapping[Name, Method] = {
    "full": Method(lambda model, settings, seed: model),
    "lora": Method(_lora, lora.merge),
    "qlora": Method(
        lambda model, settings, seed: _lora(quantised.quantise(model), settings, seed),
        lambda model: lora.merge(quantised.restore(model)),
    ),
    "ia3": Method(lambda model, settings, seed: ia3.wrap(model, seed), ia3.merge),
    "bitfit": Method(_bitfit),
    "prefix": Method(_prefix, adapter=True),
    "prompt": Method(_prompt, adapter=True),
}
"""Every method by the name that recipes give it."""

"""The models that a build asks: from what a recipe names to a generator, an identity for cache keys, and its terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from shinan.build.prompts import Prompt
from shinan.models.card import load_card
from shinan.models.generator import Generator
from shinan.models.sources import resolve

if TYPE_CHECKING:
    Model = str | Generator
else:
    Model = str
"""A model as a parameter: a recipe names it (`starter:NAME`, a folder, a hub id); code may hand over a generator."""


class Terms(NamedTuple):
    """What is known of a model without loading it.

    Attributes:
        identity: what decides its answers, for cache keys.
        licence: under which its output may be used, as far as its folder says.
    """

    identity: str
    licence: str


def terms_of(model: Model) -> Terms:
    """Raises ModelError for a reference that names nothing, RunError where it cannot be fetched."""
    if not isinstance(model, str):
        return Terms(model.name, "unknown")
    card = load_card(resolve(model))
    return Terms(card.fingerprint, card.licence)


def opened(model: Model) -> Generator:
    """The model ready to be asked. Raises ModelError, RunError."""
    if not isinstance(model, str):
        return model
    from shinan.models.chat import chat_format, default_format
    from shinan.models.checkpoint import load_model
    from shinan.models.local import LocalGenerator
    from shinan.models.precision import default_device, probe_dtype
    from shinan.models.tokenizer import Tokenizer

    folder = resolve(model)
    card, tokenizer = load_card(folder), Tokenizer.load(folder)
    chat = chat_format(card.chat, tokenizer) if card.chat else default_format(tokenizer)
    weights = load_model(folder, probe_dtype(default_device())).to(default_device())
    return LocalGenerator(card.name, weights, chat)


def content(prompts: Sequence[Prompt], *models: str) -> Callable[[Mapping[str, Any]], Any]:
    """What a component that asks models reads from outside its parameters: the identity of each model that one of the
    parameters `models` names, and the prompts. For `@register(content=...)`."""

    def read(params: Mapping[str, Any]) -> Any:
        named = {name: terms_of(params[name]).identity for name in models if params[name] is not None}
        return {"models": named, "prompts": [prompt.id for prompt in prompts]}

    return read

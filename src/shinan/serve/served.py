"""The model that is served, with all that a request has to be checked against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shinan.core.errors import ModelError
from shinan.models.card import Card, load_card
from shinan.models.chat import ChatFormat, chat_format, default_format
from shinan.models.checkpoint import load_model
from shinan.models.family import check_vocabulary, context_of
from shinan.models.precision import default_device, probe_dtype
from shinan.models.tokenizer import Tokenizer
from shinan.models.virtual import Virtual


@dataclass(frozen=True, slots=True)
class Served:
    """A loaded model.

    Attributes:
        card: its name, licence and fingerprint.
        names: what requests may call it: its name, and how it was named when the server was started.
        model: transformers model in eval mode.
        chat: how conversations are written; its stop ids end every reply.
        chats: whether the model was tuned to answer in that format, or it was asked for by name.
        context: tokens that the model can attend to, without its virtual ones.
    """

    card: Card
    names: tuple[str, ...]
    model: Any
    chat: ChatFormat
    chats: bool
    context: int

    @property
    def name(self) -> str:
        """The name under which replies come."""
        return self.card.name

    @property
    def virtual(self) -> int:
        """How many virtual tokens stand before every prompt."""
        return len(Virtual(self.model).ids)

    def notices(self) -> dict[str, str]:
        """The licence files that travel with the weights, by their paths."""
        return {name: (self.card.folder / name).read_text("utf-8", "replace") for name in self.card.notices}


def own_format(folder: Path, named: str | None = None) -> ChatFormat | None:
    """The chat format of that name for the model in `folder`; without a name the one that it was tuned with, else its
    own template; None for a base model, which has neither."""
    tokenizer = Tokenizer.load(folder)
    name = named or load_card(folder).chat or ("tokenizer" if tokenizer.chat_template else None)
    return chat_format(name, tokenizer) if name else None


def load_served(folder: Path, named: str | None = None, alias: str = "") -> Served:
    """The model of a folder, ready to be served in the chat format `named` or its own.

    Raises ModelError for what cannot be loaded, or a format that does not fit.
    """
    chat = own_format(folder, named)
    card = load_card(folder)
    device = default_device()
    model = load_model(folder, probe_dtype(device)).to(device)
    context = context_of(model)
    if context is None:
        raise ModelError("its config does not say how long its context is (max_position_embeddings)", where=str(folder))
    names = tuple(dict.fromkeys(filter(None, (card.name, alias))))
    written = chat or default_format(Tokenizer.load(folder))
    check_vocabulary(model, written.tokenizer)
    return Served(card, names, model, written, chat is not None, context - len(Virtual(model).ids))

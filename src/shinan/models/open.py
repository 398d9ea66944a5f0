"""From a model reference to a Generator: weights on this machine, or an endpoint with its ledger and budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shinan.core.calls import UNLIMITED
from shinan.core.errors import ConfigError, ModelError, Problem
from shinan.core.ledger import Ledger
from shinan.core.store import cache_root
from shinan.models.books import Books
from shinan.models.card import load_card
from shinan.models.endpoint import Endpoint, is_endpoint, parse_endpoint
from shinan.models.generator import Generator
from shinan.models.http import HttpGenerator
from shinan.models.prices import FREE, parse_budget, parse_price
from shinan.models.sending import PATIENCE
from shinan.models.sources import resolve


@dataclass(frozen=True, slots=True)
class Terms:
    """How an endpoint is asked, and what it may cost.

    Attributes:
        account: who pays; a budget counts all that its account has spent.
        price: `IN,OUT` in dollars for a million tokens, or a YAML file of them; empty if calls are free.
        budget: the most the account may spend: dollars (`2.50`) or tokens (`200000tokens`); empty for no limit.
        concurrency: the most requests in flight.
        retry_failed: whether requests whose failure is in the ledger are asked again.
        timeout: seconds that an answer may take, before its request is sent again (and perhaps paid for twice).
    """

    account: str = ""
    price: str = ""
    budget: str = ""
    concurrency: int = 16
    retry_failed: bool = False
    timeout: float = PATIENCE.answer

    def books(self, endpoint: Endpoint, ledger: Ledger) -> Books:
        """The endpoint's account in a ledger. Raises ConfigError for a price or budget that is none."""
        price = parse_price(self.price, endpoint.model) if self.price else None
        limit = parse_budget(self.budget, price) if self.budget else UNLIMITED
        return Books(ledger, endpoint.model, endpoint.revision, self.account, price or FREE, limit, self.retry_failed)


FREELY = Terms()


def open_generator(
    ref: str, *, chat: str | None = None, batch_size: int = 32, terms: Terms = FREELY, ledger: Ledger | None = None
) -> Generator:
    """The Generator of any model reference: `endpoint:MODEL@URL`, a folder, `starter:NAME`, `tiny:NAME`, or a hub id.

    Args:
        ref: the reference.
        chat: chat format of a local model; by default the one it was tuned with, else its tokenizer's own.
        batch_size: rows that a local model decodes together.
        terms: for endpoints.
        ledger: where an endpoint's calls are kept; by default the cache's.

    Raises ConfigError for a mistyped reference or terms, ModelError for a base model without `chat`, and what loading
    a model raises. torch is imported only for a local one.
    """
    if is_endpoint(ref):
        endpoint = parse_endpoint(ref)
        if chat is not None:
            what = "an endpoint writes conversations in its model's own format"
            raise ConfigError([Problem(what, ref, "leave out the chat format")])
        books = terms.books(endpoint, ledger or Ledger(cache_root()))
        patience = PATIENCE._replace(silence=terms.timeout, answer=terms.timeout)
        return HttpGenerator(endpoint, books, concurrency=terms.concurrency, patience=patience)
    if terms.price or terms.budget:
        what = "a price or a budget is for endpoints: this model runs here"
        raise ConfigError([Problem(what, ref, "leave them out")])
    return open_local(resolve(ref), chat, batch_size)


def open_local(folder: Path, chat: str | None, batch_size: int = 32) -> Generator:
    """A model folder on this machine's device, in the number format that is fastest here. See `open_generator`."""
    from shinan.models.chat import chat_format
    from shinan.models.checkpoint import load_model
    from shinan.models.local import LocalGenerator
    from shinan.models.precision import default_device, probe_dtype
    from shinan.models.tokenizer import Tokenizer

    tokenizer, card = Tokenizer.load(folder), load_card(folder)
    name = chat or card.chat or ("tokenizer" if tokenizer.chat_template else None)
    if name is None:
        what = f"{card.name} is a base model: it goes on with a text, and was not tuned to answer in any chat format"
        raise ModelError(
            what, where=str(folder), fix="tune it first, or name a chat format all the same (--format alpaca)"
        )
    format_ = chat_format(name, tokenizer)
    device = default_device()
    model = load_model(folder, probe_dtype(device)).to(device)
    return LocalGenerator(card.name, model, format_, batch_size)

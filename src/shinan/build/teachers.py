"""The models that a build asks: from what a recipe says of them to a generator, an identity for keys, and terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from shinan.build.prompts import Prompt
from shinan.core.config import Config
from shinan.core.store import cache_root
from shinan.models.card import load_card
from shinan.models.endpoint import is_endpoint, parse_endpoint
from shinan.models.generator import Generator
from shinan.models.sources import resolve


def _reference(value: object) -> object:
    if isinstance(value, str) or callable(getattr(value, "generate", None)):
        return value
    raise ValueError("expected the reference of a model, such as starter:smollm2-135m-instruct")


if TYPE_CHECKING:
    Reference = str | Generator
else:
    Reference = Annotated[Any, BeforeValidator(_reference)]
"""`starter:NAME`, a folder, a hub id, `endpoint:MODEL@URL`; or, in code, a generator."""


class Teacher(Config):
    """A model and how it is asked, where more is to be said than its name.

    Excluded from cache keys is what decides no answer.
    """

    model: Reference
    """The model."""
    raw: bool = False
    """Ask with the bare prompt, for a model that only continues text; else with a user turn."""
    chat: str | None = None
    """Chat format of a local model (default: its own, and `plain` with `raw`)."""
    licence: str | None = None
    """Terms under which its output may be used (default: those of its folder, `unknown` for an endpoint)."""
    price: str = Field("", exclude=True)
    """An endpoint's `IN,OUT` in dollars for a million tokens, or a YAML file of prices."""
    spend: str = Field("", exclude=True)
    """The most that the build may spend at an endpoint: dollars (`2.50`) or tokens (`200000tokens`)."""
    concurrency: int = Field(16, gt=0, exclude=True)
    """The most requests in flight at an endpoint."""
    retry_failed: bool = False
    """Ask again what the ledger knows to have failed."""
    timeout: float = Field(600.0, gt=0, exclude=True)
    """Seconds that an endpoint may take for an answer; later its request is sent again, and perhaps paid for twice."""

    @property
    def identity(self) -> str:
        """What decides its answers, for cache keys. Raises what `resolve` raises."""
        if not isinstance(self.model, str):
            return self.model.name
        if is_endpoint(self.model):
            endpoint = parse_endpoint(self.model)
            return f"{endpoint.model} {endpoint.revision}".rstrip()
        return load_card(resolve(self.model)).fingerprint

    @property
    def terms(self) -> str:
        """The licence of what it writes."""
        if self.licence is None and isinstance(self.model, str) and not is_endpoint(self.model):
            return load_card(resolve(self.model)).licence
        return self.licence or "unknown"

    def open(self, account: str) -> Generator:
        """The model ready to be asked, its calls kept in the ledger: none is made twice, whatever happens.

        `account` is who pays: a limit counts what it has spent. Raises ModelError, ConfigError, RunError.
        """
        if not isinstance(self.model, str):
            return self.model
        from shinan.core.ledger import Ledger
        from shinan.models.books import Books, Ledgered
        from shinan.models.open import Terms, open_generator

        terms = Terms(account, self.price, self.spend, self.concurrency, self.retry_failed, self.timeout)
        if is_endpoint(self.model):
            return open_generator(self.model, chat=self.chat, terms=terms)
        chat = self.chat or ("plain" if self.raw else None)
        local = open_generator(self.model, chat=chat, terms=Terms(price=self.price, budget=self.spend))
        return Ledgered(local, Books(Ledger(cache_root()), local.name, f"{self.identity}/{chat}", account))


Model = Reference | Teacher
"""A model as a parameter of a component: a reference, or a mapping with more."""


def as_teacher(model: Model) -> Teacher:
    """What a parameter names."""
    return model if isinstance(model, Teacher) else Teacher(model=model)


def content(prompts: Sequence[Prompt], *models: str) -> Callable[[Mapping[str, Any]], Any]:
    """What a component that asks models reads from outside its parameters: the identity of each model that one of the
    parameters `models` names, and the prompts. For `@register(content=...)`."""

    def read(params: Mapping[str, Any]) -> Any:
        named = {name: as_teacher(params[name]).identity for name in models if params[name] is not None}
        return {"models": named, "prompts": [prompt.id for prompt in prompts]}

    return read

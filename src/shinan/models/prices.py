"""What calls cost: prices that the user states (there are no built-in ones), and budgets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from shinan.core.calls import Amount, Limit
from shinan.core.config import load_yaml
from shinan.core.errors import ConfigError, Problem, nearest

_BUDGET = re.compile(r"\$?(\d+(?:\.\d+)?) *(?:usd)?|(\d+) *tokens", re.IGNORECASE)


class Price(NamedTuple):
    """US dollars for a million tokens of prompt and of reply."""

    prompt: Decimal = Decimal(0)
    reply: Decimal = Decimal(0)

    def of(self, prompt_tokens: int, new_tokens: int) -> Amount:
        """What so many tokens come to; a part of a billionth of a dollar counts as a whole one."""
        nanousd = 1000 * (prompt_tokens * self.prompt + new_tokens * self.reply)
        return Amount(prompt_tokens + new_tokens, math.ceil(nanousd))


FREE = Price()


def parse_price(text: str, model: str) -> Price:
    """A price as typed: `IN,OUT` in dollars for a million tokens, or a YAML file `model: [IN, OUT]`.

    Raises ConfigError for anything else, or for a file without the model.
    """
    if not text.endswith((".yaml", ".yml")):
        return _price(text.split(","), text, "--price")
    document = load_yaml(Path(text))
    prices = document.data if isinstance(document.data, dict) else {}
    if model not in prices:
        fix = nearest(model, map(str, prices)) or f"add a line like {model}: [0.15, 0.60]"
        raise ConfigError([Problem(f"there is no price of {model!r}", text, fix)])
    stated = prices[model]
    return _price(stated if isinstance(stated, list) else [stated], stated, document.where((model,)))


def _price(parts: Sequence[object], stated: object, where: str) -> Price:
    try:
        prompt, reply = (Decimal(str(part).strip()) for part in parts)
        if not (0 <= prompt < 10**6 and 0 <= reply < 10**6):  # NaN and infinity are neither
            raise ValueError
    except (ValueError, InvalidOperation):
        fix = "write dollars for a million tokens of prompt and of reply, like 0.15,0.60 (in a file [0.15, 0.60])"
        raise ConfigError([Problem(f"{stated!r} is no price", where, fix)]) from None
    return Price(prompt, reply)


def parse_budget(text: str, price: Price | None) -> Limit:
    """A budget as typed: dollars (`2.50`), which need a price, or tokens (`200000tokens`). Raises ConfigError."""
    found = _BUDGET.fullmatch(text.strip())
    if not found:
        fix = "write dollars like 2.50, or tokens like 200000tokens"
        raise ConfigError([Problem(f"{text!r} is no budget", "--budget", fix)])
    if found[2]:
        return Limit(tokens=int(found[2]))
    if price is None:
        fix = "add --price IN,OUT (dollars for a million tokens), or write a budget in tokens like 200000tokens"
        raise ConfigError([Problem("a budget in dollars needs a price", "--budget", fix)])
    return Limit(nanousd=int(Decimal(found[1]) * 10**9))


def dollars(nanousd: int) -> str:
    """`$1.2346`, and more digits where there would be none but zeros."""
    value = Decimal(nanousd).scaleb(-9)
    return f"${value:.4f}" if nanousd == 0 or nanousd >= 10**6 else f"${value:.9f}".rstrip("0")

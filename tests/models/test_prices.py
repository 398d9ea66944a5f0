from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.calls import Amount, Limit
from shinan.core.errors import ConfigError
from shinan.models.prices import Price, dollars, parse_budget, parse_price


def test_a_price_by_hand() -> None:
    """1,000 tokens at $0.15 and 200 at $0.60 for a million: $0.00015 + $0.00012."""
    assert parse_price("0.15, 0.60", "m").of(1000, 200) == Amount(1200, 270_000)


@given(st.decimals(0, 1000, places=6), st.decimals(0, 1000, places=6), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_price_is_exact_to_a_billionth_of_a_dollar_and_never_too_low(
    prompt: Decimal, reply: Decimal, tokens: int, new: int
) -> None:
    exact = (Fraction(prompt) * tokens + Fraction(reply) * new) * 1000
    assert 0 <= Price(prompt, reply).of(tokens, new).nanousd - exact < 1


def test_prices_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("gpt-x: [1.25, 10]\nbroken: [1]\n", "utf-8")
    assert parse_price(str(path), "gpt-x") == Price(Decimal("1.25"), Decimal(10))
    with pytest.raises(ConfigError, match=r"no price of 'gpt-y'\n  do this: did you mean 'gpt-x'"):
        parse_price(str(path), "gpt-y")
    with pytest.raises(ConfigError, match=r"prices.yaml:2: broken: \[1\] is no price"):
        parse_price(str(path), "broken")
    path.write_text("", "utf-8")
    with pytest.raises(ConfigError, match=r"add a line like gpt-x: \[0.15, 0.60\]"):
        parse_price(str(path), "gpt-x")


@pytest.mark.promise10
@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "-1,2", "nan,1", "inf,1", "1e9,1"])
def test_what_is_no_price(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--price: .* is no price\n  do this: write dollars"):
        parse_price(text, "m")


def test_budgets() -> None:
    price = Price(Decimal(1), Decimal(1))
    assert parse_budget("2.50", price) == parse_budget("$2.5", price) == parse_budget("2.50 USD", price)
    assert parse_budget("2.50", price) == Limit(nanousd=2_500_000_000)
    assert parse_budget("200000tokens", None) == parse_budget("200000 tokens", price) == Limit(tokens=200_000)
    assert parse_budget("0", price) == Limit(nanousd=0)


@pytest.mark.promise10
def test_what_is_no_budget() -> None:
    for text in ("", "lots", "-1", "1,5", "2.5tokens", "1e5"):
        with pytest.raises(ConfigError, match=r"is no budget\n  do this: write dollars like 2.50"):
            parse_budget(text, Price())
    with pytest.raises(ConfigError, match="a budget in dollars needs a price\n  do this: add --price IN,OUT"):
        parse_budget("2.50", None)


def test_small_amounts_are_not_shown_as_nothing() -> None:
    assert [dollars(n) for n in (0, 1, 270_000, 1_234_567_890, 25 * 10**11)] == [
        "$0.0000",
        "$0.000000001",
        "$0.00027",
        "$1.2346",
        "$2500.0000",
    ]

"""Recompute the answers of the starter tasks of writer en_a that code can derive from the input text."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

_TO_BASE: dict[str, tuple[str, Fraction]] = {
    "g": ("g", Fraction(1)),
    "kg": ("g", Fraction(1000)),
    "ml": ("ml", Fraction(1)),
    "l": ("ml", Fraction(1000)),
    "cm": ("cm", Fraction(1)),
    "m": ("cm", Fraction(100)),
    "min": ("min", Fraction(1)),
    "h": ("min", Fraction(60)),
}


def _measure(text: str) -> tuple[str, Fraction]:
    """The base unit and the total of a measurement such as '1.2 kg' or '2 h 45 min'."""
    total = Fraction(0)
    unit = ""
    parts = text.split()
    for number, name in zip(parts[::2], parts[1::2], strict=True):
        base, factor = _TO_BASE[name]
        if unit not in ("", base):
            raise ValueError(f"mixed units in {text!r}")
        unit = base
        total += Fraction(number) * factor
    return unit, total


def unit_price_better_buy(text: str, output: str) -> bool:
    prices: dict[str, Fraction] = {}
    units: set[str] = set()
    products: set[str] = set()
    for line in text.splitlines():
        match = re.fullmatch(r"([AB]): ([\d.]+) (?:(kg|g|l|ml|m|cm) of )?([a-z ]+) for (\d+\.\d\d)", line)
        if match is None:
            return False
        pack, number, unit, product, price = match.groups()
        base, amount = _measure(f"{number} {unit}") if unit else ("piece", Fraction(number))
        units.add(base)
        products.add(product)
        prices[pack] = Fraction(price) / amount
    if set(prices) != {"A", "B"} or len(units) != 1 or len(products) != 1:
        return False
    if prices["A"] == prices["B"]:
        return output == "equal"
    return output == min(prices, key=lambda pack: prices[pack])


def larger_of_two_and_difference(text: str, output: str) -> bool:
    head, *rows = text.splitlines()
    match = re.fullmatch(r"(?:heavier|longer|lasts longer|holds more) \((g|cm|min|ml)\)", head)
    if match is None or len(rows) != 2:
        return False
    sizes: list[tuple[Fraction, str]] = []
    for row in rows:
        name, amount = row.split(": ")
        unit, size = _measure(amount)
        if unit != match[1]:
            return False
        sizes.append((size, name))
    (small, _), (large, winner) = sorted(sizes)
    return small != large and output == f"{winner}, {large - small} {match[1]}"


def two_versions_one_changed_word(text: str, output: str) -> bool:
    old_line, new_line = text.splitlines()
    old = old_line.removeprefix("OLD: ").split()
    new = new_line.removeprefix("NEW: ").split()
    if len(old) != len(new):
        return False
    changes = [(a.strip(".,;:!?"), b.strip(".,;:!?")) for a, b in zip(old, new, strict=True) if a != b]
    return len(changes) == 1 and output == f"{changes[0][0]} -> {changes[0][1]}"


_RANKS = (
    "is older than|is taller than|is heavier than|lies north of|arrived before|finished before"
    "|costs more than|flew higher than"
)


def ranking_statements_and_claim(text: str, output: str) -> bool:
    statements, claim = text.split(" Claim: ")
    pattern = re.compile(rf"((?:[Tt]he )?[\w ]+?) ({_RANKS}) ((?:the )?[\w ]+)")
    above: set[tuple[str, str]] = set()
    relations: set[str] = set()

    def parse(sentence: str) -> tuple[str, str]:
        match = pattern.fullmatch(sentence.strip())
        if match is None:
            raise ValueError(sentence)
        relations.add(match[2])
        return match[1].lower(), match[3].lower()

    for sentence in statements.rstrip(".").split(". "):
        above.add(parse(sentence))
    first, second = parse(claim.rstrip("."))
    while True:
        more = {(a, d) for a, b in above for c, d in above if b == c} - above
        if not more:
            break
        above |= more
    if len(relations) != 1 or any(a == b for a, b in above):
        return False
    if (first, second) in above:
        return output == "follows"
    if (second, first) in above:
        return output == "impossible"
    return output == "undetermined"


_SMALL = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBERS: dict[str, int] = {word: number for number, word in enumerate(_SMALL, start=1)}
_NUMBERS |= {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
_VOLUMES = ("cups", "ounces", "grams", "pints", "litres", "millilitres", "tablespoons")


def home_assistant_intent_and_value(text: str, output: str) -> bool:
    words = re.findall(r"[a-z']+", text.lower())
    pairs = [(_NUMBERS[a], b) for a, b in pairwise(words) if a in _NUMBERS]
    for number, unit in pairs:
        if unit in ("seconds", "minutes", "hours"):
            return output == f"set_timer: {number} {unit}"
        targets = [word for word in words if word in _VOLUMES and word != unit]
        if unit in _VOLUMES and len(targets) == 1:
            return output == f"convert_unit: {number} {unit} to {targets[0]}"
    shopping = {"list", "note", "buy", "market"} & set(words)
    intent, _, value = output.partition(": ")
    return intent == ("add_item" if shopping else "play_sound") and value in words


RECOMPUTE: dict[str, Callable[[str, str], bool]] = {
    "unit_price_better_buy": unit_price_better_buy,
    "larger_of_two_and_difference": larger_of_two_and_difference,
    "two_versions_one_changed_word": two_versions_one_changed_word,
    "ranking_statements_and_claim": ranking_statements_and_claim,
    "home_assistant_intent_and_value": home_assistant_intent_and_value,
}

"""How the report writes text and numbers. Scores lie between 0 and 1 and are shown times 100."""

from __future__ import annotations

import math
import re

_METRICS = {"rouge_l": "ROUGE-L", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2"}

# Controls except newline and tab, bidirectional overrides (they reorder the text around them), lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """The text with every character that could deceive or break a page or a terminal made visible.

    >>> printable("a\\x1b[2Jb")
    'a␛[2Jb'
    """
    return _UNPRINTABLE.sub(_visible, text.replace("\r\n", "\n"))


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)  # the block of control pictures
    if 0xD800 <= code <= 0xDFFF or code >= 0xFFFE:
        return "\ufffd"
    return f"⟨U+{code:04X}⟩"


def excerpt(text: str, limit: int) -> str:
    """The first `limit` characters; says how many more there are."""
    rest = len(text) - limit
    return text if rest <= 0 else f"{text[:limit].rstrip()} … [{count(rest)} more characters]"


def metric_name(metric: str) -> str:
    """`rouge_l` -> `ROUGE-L`; other names lose their underscores."""
    return _METRICS.get(metric, metric.replace("_", " "))


def count(number: float) -> str:
    """A whole number with thousands separated."""
    return f"{number:,.0f}"


def points(value: float | None) -> str:
    """A score times 100 with one decimal, `–` for None."""
    return "–" if value is None else _sign(f"{100 * value:.1f}")


def change(value: float | None) -> str:
    """A difference of scores times 100, with its sign."""
    return "–" if value is None else _sign(f"{100 * value:+.1f}")


def _sign(text: str) -> str:
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def interval(bounds: tuple[float, float] | None) -> str:
    """`+17.1 to +25.6`."""
    return "–" if bounds is None else f"{change(bounds[0])} to {change(bounds[1])}"


def p_value(p: float | None) -> str:
    """`< 0.001`, `0.012`, `0.51`."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def share(part: float, whole: float) -> str:
    """`12 %`, and never `0 %` or `100 %` for what is not quite that; `–` of nothing."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "< 1 %"
    return f"{math.floor(percent) if percent > 99 else percent:.0f} %"

"""What can be wrong with the collection's texts, whatever their kind. A failure lists every offender with its place."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations
from typing import cast

import pytest

from shinan.core.text import normalise, words
from shinan.scorers.language import Language, language_fault


def fail_with(offenders: list[str]) -> None:
    """Fail and list the offenders, if there are any."""
    if offenders:
        pytest.fail(f"{len(offenders)} offenders:\n" + "\n".join(offenders), pytrace=False)


def size(text: str, language: str) -> int:
    """Words, or characters of a language written without spaces."""
    return len(text) if language in ("ja", "zh") else len(text.split())


def foreign(text: str, language: str) -> str:
    """Why the text is not in the language; empty if it may be, as a bare list in Latin letters may be in any."""
    fault = language_fault(text, cast(Language, language))
    return "" if fault == language_fault("", "en") else fault


def repeated(texts: Mapping[str, str]) -> list[str]:
    """The places whose texts are equal but for case, width and blanks."""
    found = defaultdict(list)
    for where, text in texts.items():
        found[normalise(text)].append(where)
    return [", ".join(places) for places in found.values() if len(places) > 1]


def alike(
    texts: Mapping[str, str], excused: Callable[[str, str], bool], *, length: int = 5, share: float = 0.6
) -> list[str]:
    """Pairs of places whose texts share more than `share` of their runs of `length` words (Jaccard)."""
    grams = {where: set(_windows(words(text), length)) for where, text in texts.items()}
    having = defaultdict(list)
    for where, mine in grams.items():
        for gram in mine:
            having[gram].append(where)
    shared = Counter(pair for places in having.values() for pair in combinations(places, 2))
    offenders = []
    for (a, b), common in shared.items():
        jaccard = common / (len(grams[a]) + len(grams[b]) - common)
        if jaccard > share and not excused(a, b):
            offenders.append(f"{jaccard:.2f} {a} and {b}")
    return sorted(offenders, reverse=True)


def _windows(items: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(items[i : i + n]) for i in range(len(items) - n + 1))


_NOBODYS = r"(?!(?:[\w-]+\.)*example(?:\.(?:org|com|net))?\b)"
_TELEPHONE = r"\+\d{1,3}[ -]?\(?\d[\d ()-]{6,}\d|\(?0\d{1,4}\)?[ -]\d{1,4}[ -]\d{3,4}|\d{3}[ .-]\d{3}[ .-]\d{4}"
_PERSONAL = {
    "an e-mail address": re.compile(rf"[\w.+-]+@{_NOBODYS}[\w-]+\.\w+"),
    "a telephone number": re.compile(rf"(?<![\d.,])(?:{_TELEPHONE})(?![\d.,])"),
    "a web address": re.compile(rf"\b(?:https?://|www\.){_NOBODYS}[\w-]+", re.IGNORECASE),
}


def personal(texts: Iterable[tuple[str, str]]) -> list[str]:
    """Places of texts that hold what looks like personal data; `example.org` and the like are nobody's."""
    return [
        f"{where}: {what}: {match[0]!r}"
        for where, text in texts
        for what, pattern in _PERSONAL.items()
        if (match := pattern.search(text))
    ]

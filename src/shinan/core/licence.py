"""Licences of data: what the common ones ask of whoever uses the rows. A table, no legal advice, and never a guess."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

Term = Literal["unknown", "no_derivatives", "non_commercial", "model_terms", "use_limits", "share_alike", "attribution"]
"""What a licence asks for, the strictest first. `unknown` is a licence that the table does not have."""

MEANINGS: Mapping[Term, str] = {
    "unknown": "nobody has said, or the table does not know: read the source's own words before any use",
    "no_derivatives": "no changed versions may be passed on",
    "non_commercial": "no commercial use",
    "model_terms": "the terms of the model that wrote the rows hold, for instance on training other models",
    "use_limits": "some uses are forbidden, and who passes the data on must forbid them too",
    "share_alike": "what is made from it is passed on under the same terms",
    "attribution": "name the source and keep its notice",
}

_CREATIVE_COMMONS = re.compile(r"CC-BY(?P<nc>-NC)?(?P<last>-SA|-ND)?(?:-\d\.\d(?:-[A-Z]+)?)?")
_TABLE: tuple[tuple[str, tuple[Term, ...]], ...] = (
    ("CC0-1.0|CC0|PDDL-1.0|UNLICENSE|0BSD|WTFPL|CC-PDDC|PUBLIC-DOMAIN|MIT-0", ()),
    ("MIT|APACHE-2.0|BSD-*|ISC|ZLIB|AFL-3.0|ARTISTIC-2.0|PSF-2.0|BSL-1.0|UPL-1.0|ECL-2.0|NCSA", ("attribution",)),
    ("ODC-BY|ODC-BY-1.0|CDLA-PERMISSIVE-*|ETALAB-2.0|OGL-UK-*|DL-DE-BY-2.0", ("attribution",)),
    ("ODBL|ODBL-1.0|CDLA-SHARING-1.0|GFDL|GFDL-*|LAL-1.3", ("share_alike", "attribution")),
    ("GPL-*|LGPL-*|AGPL-*|MPL-2.0|EPL-*|EUPL-*", ("share_alike", "attribution")),
    ("C-UDA|C-UDA-1.0|*OPENRAIL*", ("use_limits", "attribution")),
    ("GEMMA|GEMMA-TERMS*|LICENSEREF-GEMMA*|LLAMA*|LICENSEREF-LLAMA*", ("model_terms", "use_limits", "attribution")),
    ("OPENAI*|LICENSEREF-OPENAI*", ("model_terms",)),
)


def terms_of(licence: str) -> frozenset[Term]:
    """What a licence asks for, by its SPDX id (blanks for hyphens and small letters will do).

    Of several licences joined by AND or OR all terms are given: who chooses one of them may strike the others out.

    >>> sorted(terms_of("CC BY-NC-SA 4.0"))
    ['attribution', 'non_commercial', 'share_alike']
    >>> sorted(terms_of("see the web site"))
    ['unknown']
    """
    return frozenset(term for part in _parts(licence) for term in _terms(part))


def _parts(licence: str) -> list[str]:
    """The ids of an expression, in capitals and with hyphens."""
    alternatives = re.split(r" (?:AND|OR) ", licence.strip("() \t\n"))
    return [re.sub(r"[\s_]+", "-", part.strip("() \t\n")).upper() for part in alternatives]


def _terms(part: str) -> tuple[Term, ...]:
    if found := _CREATIVE_COMMONS.fullmatch(part):
        last: dict[str | None, tuple[Term, ...]] = {None: (), "-SA": ("share_alike",), "-ND": ("no_derivatives",)}
        limits: tuple[Term, ...] = ("non_commercial",) if found["nc"] else ()
        return (*limits, *last[found["last"]], "attribution")
    for patterns, terms in _TABLE:
        if any(fnmatchcase(part, pattern) for pattern in patterns.split("|")):
            return terms
    return ("unknown",)


def matches(licence: str, pattern: str) -> bool:
    """Whether a pattern means a licence: its id, one with `*` for any letters, or a term such as `non_commercial`."""
    if pattern in get_args(Term):
        return pattern in terms_of(licence)
    wanted = re.sub(r"[\s_]+", "-", pattern.strip()).upper()
    return any(fnmatchcase(part, wanted) for part in _parts(licence))


def meant(pattern: str) -> str:
    """The term that a pattern means to say and doesn't; empty if it is one, or a licence.

    >>> meant("Non-Commercial")
    'non_commercial'
    """
    if pattern in get_args(Term) or "*" in pattern or terms_of(pattern) != {"unknown"}:
        return ""
    said = re.sub(r"[^a-z]+", "_", pattern.lower())
    return next(iter(get_close_matches(said, get_args(Term), n=1, cutoff=0.8)), "")


def describe(counts: Mapping[str, int]) -> dict[str, Any]:
    """What rows of these licences (rows by licence) ask for together.

    Returns {rows: {licence: n, most first}, terms: {term: n rows that ask for it, strictest first}}.
    """
    asked: Counter[str] = Counter()
    for licence, n in counts.items():
        asked.update(dict.fromkeys(terms_of(licence), n))
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"rows": dict(rows), "terms": {term: asked[term] for term in get_args(Term) if asked[term]}}

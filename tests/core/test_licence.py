"""Licences: the terms that their own texts ask for, and nothing said of those that are not known."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.licence import MEANINGS, Term, describe, matches, meant, terms_of


@pytest.mark.parametrize(
    ("licence", "terms"),
    [
        ("CC0-1.0", ""),
        ("MIT-0", ""),
        ("MIT", "attribution"),
        ("Apache-2.0", "attribution"),
        ("BSD-3-Clause", "attribution"),
        ("CC-BY-4.0", "attribution"),
        ("CC BY 4.0", "attribution"),
        ("cc_by_4.0", "attribution"),
        ("CC-BY-3.0-IGO", "attribution"),
        ("CC-BY-SA-3.0", "attribution share_alike"),
        ("CC-BY-NC-4.0", "attribution non_commercial"),
        ("CC-BY-NC-SA-4.0", "attribution non_commercial share_alike"),
        ("CC-BY-NC-ND-4.0", "attribution no_derivatives non_commercial"),
        ("CC-BY-ND-2.0", "attribution no_derivatives"),
        ("ODC-By-1.0", "attribution"),
        ("ODbL-1.0", "attribution share_alike"),
        ("GPL-3.0-only", "attribution share_alike"),
        ("GFDL-1.3", "attribution share_alike"),
        ("CDLA-Sharing-1.0", "attribution share_alike"),
        ("CDLA-Permissive-2.0", "attribution"),
        ("bigscience-openrail-m", "attribution use_limits"),
        ("gemma", "attribution model_terms use_limits"),
        ("LicenseRef-Gemma", "attribution model_terms use_limits"),
        ("llama3.1", "attribution model_terms use_limits"),
        ("OpenAI terms of use", "model_terms"),
        ("LicenseRef-OpenAI", "model_terms"),
        ("MIT AND CC-BY-SA-4.0", "attribution share_alike"),
        ("(MIT OR CC-BY-NC-4.0)", "attribution non_commercial"),
        ("CC-BY-4.0 AND see the web site", "attribution unknown"),
        ("unknown", "unknown"),
        ("", "unknown"),
        ("CC-BY-NC-XX-9", "unknown"),
        ("see the web site", "unknown"),
        ("自由に使えます", "unknown"),
        ("MITx", "unknown"),
    ],
)
def test_terms(licence: str, terms: str) -> None:
    assert sorted(terms_of(licence)) == terms.split()


def test_every_term_has_its_meaning() -> None:
    assert list(MEANINGS) == list(get_args(Term))


@pytest.mark.parametrize(
    ("licence", "pattern", "meant"),
    [
        ("CC-BY-NC-4.0", "*-NC-*", True),
        ("cc by-nc 4.0", "*-NC-*", True),
        ("CC-BY-4.0", "*-NC-*", False),
        ("MIT", "mit", True),
        ("MIT-0", "MIT", False),
        ("MIT AND CC-BY-NC-4.0", "*-NC-*", True),
        ("CC-BY-NC-SA-4.0", "non_commercial", True),
        ("CC-BY-SA-4.0", "non_commercial", False),
        ("unknown", "unknown", True),
        ("ask the author", "unknown", True),
        ("MIT", "unknown", False),
        ("ask the author", "Ask the*", True),
        ("CC0-1.0", "*", True),
    ],
)
def test_patterns(licence: str, pattern: str, meant: bool) -> None:
    assert matches(licence, pattern) is meant


def test_a_mixture_has_the_terms_of_all_its_rows() -> None:
    found = describe({"CC-BY-4.0": 3, "CC-BY-NC-4.0": 5, "unknown": 2, "CC0-1.0": 5})
    assert found["rows"] == {"CC-BY-NC-4.0": 5, "CC0-1.0": 5, "CC-BY-4.0": 3, "unknown": 2}
    assert list(found["terms"].items()) == [("unknown", 2), ("non_commercial", 5), ("attribution", 8)]
    assert describe({}) == {"rows": {}, "terms": {}}


@given(st.text(max_size=30), st.text(max_size=10))
def test_any_text_is_judged(licence: str, pattern: str) -> None:
    """No text breaks it, and what is not in the table stays unknown."""
    assert isinstance(matches(licence, pattern), bool)
    assert matches(licence, "*")
    if not licence.isascii():
        assert "unknown" in terms_of(licence)


@pytest.mark.parametrize(
    ("pattern", "term"),
    [
        ("noncommercial", "non_commercial"),
        ("NON-COMMERCIAL", "non_commercial"),
        ("sharealike", "share_alike"),
        ("unkown", "unknown"),
        ("no derivatives", "no_derivatives"),
        ("non_commercial", ""),
        ("Unlicense", ""),
        ("CC-BY-NC-4.0", ""),
        ("*-NC-*", ""),
        ("LicenseRef-Ours", ""),
        ("", ""),
    ],
)
def test_a_mistyped_term_is_told_from_a_licence(pattern: str, term: str) -> None:
    assert meant(pattern) == term

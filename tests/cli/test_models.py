from __future__ import annotations

from pathlib import Path

from shinan.models.catalogue import _ABOUT, _TINY_KINDS, offers
from shinan.models.sources import STARTERS, TINY
from tests.cli.conftest import Shinan


def test_every_model_is_described(place: Path) -> None:
    assert _ABOUT.keys() == STARTERS.keys()
    assert _TINY_KINDS.keys() == set(TINY)
    assert [offer.ref for offer in offers()][:1] == ["starter:gemma-3-270m"]


def test_the_table_says_what_is_here(place: Path, shinan: Shinan) -> None:
    before = shinan("models")
    assert before.code == 0
    for offer in offers():
        assert offer.ref in before.out
        assert offer.licence in before.out
    assert "238 MB to fetch" in before.out
    got = shinan("models", "get", "tiny:llama")
    assert got == (0, f"tiny-llama, licence CC0-1.0: {place / 'cache/models/tiny-llama'}\n", "")
    assert f"tiny:llama: {place / 'cache/models/tiny-llama'}\n" in shinan("models").out


def test_what_cannot_be_had_is_explained(shinan: Shinan) -> None:
    unknown = shinan("models", "get", "starter:gemma")
    assert unknown.code == 1
    assert "no starter model is named 'gemma'" in unknown.err
    offline = shinan("models", "get", "starter:gemma-3-270m")
    assert offline.code == 1
    assert "SHINAN_OFFLINE forbids downloads" in offline.err

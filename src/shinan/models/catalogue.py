"""The models that can be had without a hub: what they are, and whether they are in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from shinan.core.store import cache_root
from shinan.models.card import CARD
from shinan.models.sources import STARTERS, TINY

_TINY_KINDS = {"decoder": "Gemma 3", "llama": "Llama", "seq2seq": "T5"}
_ABOUT = {
    "gemma-3-270m": ("base model, 268 M parameters: to be tuned", 238),
    "smollm2-135m-instruct": ("instruct model, 135 M: to chat with, teacher, judge", 93),
}


class Offer(NamedTuple):
    """A model to be had.

    Attributes:
        ref: how a recipe names it.
        what: what it is, for people.
        licence: the licence of its weights.
        download_mb: megabytes to fetch; 0 for one that is made on the spot.
        folder: where it lies in the cache, None if it is not there.
    """

    ref: str
    what: str
    licence: str
    download_mb: int
    folder: Path | None


def offers() -> list[Offer]:
    """Every starter, then the tiny models of the tests."""
    found = [
        Offer(f"starter:{name}", _ABOUT[name][0], starter.licence, _ABOUT[name][1], _cached(name))
        for name, starter in STARTERS.items()
    ]
    for name in TINY:
        found.append(
            Offer(
                f"tiny:{name}", f"a small random {_TINY_KINDS[name]}, for tests", "CC0-1.0", 0, _cached(f"tiny-{name}")
            )
        )
    return found


def _cached(name: str) -> Path | None:
    folder = cache_root() / "models" / name
    return folder if (folder / CARD).is_file() else None

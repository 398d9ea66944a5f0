"""Lists of possible answers, each time in another dress, as FLAN 2022 shows them (`format_options_non_deterministic`).

A head (`OPTIONS:`, `Pick one:`, none), a marker for each option (`- `, `(A) `, `iii. `), an end (none, `;`, `.`), on
lines of their own or in one. Where the markers tell the options apart, the right one's is the answer, else its words.
FLAN draws each of these for each exemplar; here a prompt's demonstrations list their options as its question does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import Field, RootModel, field_validator

from shinan.core.config import Config, load_yaml
from shinan.core.hashing import derive_seed

_FILE = Path(__file__).with_name("options.yaml")
_ROMAN = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv"]
_SERIES: dict[str, Sequence[str]] = {
    "A": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "a": "abcdefghijklmnopqrstuvwxyz",
    "1": [str(number) for number in range(1, 100)],
    "i": _ROMAN,
    "I": [numeral.upper() for numeral in _ROMAN],
    "ア": "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホ",
    "①": "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳",
}
_BRACKETS, _STOPS = "([（【", ".):．："
_CLOSED = tuple(".;:!?。！？…")


class Wording(Config):
    """How options may be listed in one language."""

    heads: list[str] = Field(min_length=1)
    """What stands before them; empty for nothing."""
    markers: list[str] = Field(min_length=1)
    """What stands before each, written for the first: `(A) ` is followed by `(B) `. The first marker is a bullet."""
    ends: list[str] = Field(min_length=1)
    """What stands after each."""
    between: str
    """What stands between two in one line."""

    @field_validator("markers")
    @classmethod
    def _begins_with_a_bullet(cls, markers: list[str]) -> list[str]:
        if _series(markers[0]):
            raise ValueError("the first marker must be a bullet, for lists that are longer than a series")
        return markers


class _Wordings(RootModel[dict[str, Wording]]):
    pass


def _series(marker: str) -> str:
    """The first member of the series that a marker belongs to; empty for a bullet."""
    return next((first for first in _SERIES if first in marker), "")


@cache
def _wordings() -> dict[str, Wording]:
    return _Wordings.model_validate(load_yaml(_FILE).data).root


@dataclass(frozen=True, slots=True)
class Look:
    """How one prompt lists its options.

    Attributes:
        head: what stands before them.
        marker: the first option's marker.
        bullet: the marker where there are more options than the marker's series has.
        end: what stands after each.
        between: what stands between two.
    """

    head: str
    marker: str
    bullet: str
    end: str
    between: str

    def block(self, words: Sequence[str]) -> str:
        """The list, without a line break before it."""
        items = [
            self._marker(index, len(words)) + word + ("" if word.endswith(_CLOSED) else self.end)
            for index, word in enumerate(words)
        ]
        return "\n".join([*filter(None, [self.head]), self.between.join(items)])

    def answer(self, words: Sequence[str], right: int) -> str:
        """How the reply names the right option: `(B)`, `B` where the marker is `B. `, or the option itself."""
        named = _series(self.marker) and len(words) <= len(_SERIES[_series(self.marker)])
        marker = self._marker(right, len(words)).strip()
        return (marker if marker[0] in _BRACKETS else marker.rstrip(_STOPS)) if named else words[right]

    def _marker(self, index: int, count: int) -> str:
        first = _series(self.marker)
        if not first:
            return self.marker
        return self.marker.replace(first, _SERIES[first][index]) if count <= len(_SERIES[first]) else self.bullet


def draw_look(seed: int, row: int, language: str) -> Look:
    """The look of a row's options. In languages without wordings of their own it is the English one."""
    wording = _wordings().get(language, _wordings()["en"])

    def draw(what: str, among: Sequence[str]) -> str:
        return among[derive_seed(seed, f"flan/options/{what}", row) % len(among)]

    marker = draw("marker", wording.markers)
    # Bullets in one line (`- yes - no`) would not show where an option ends.
    between = draw("between", ["\n", wording.between]) if _series(marker) else "\n"
    return Look(draw("head", wording.heads), marker, wording.markers[0], draw("end", wording.ends), between)

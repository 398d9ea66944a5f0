"""Novelty as Self-Instruct asks for it: a text is new if its ROUGE-L with every text of a pool is at most 0.7.

The rule is that of Wang et al. 2022 (arXiv 2212.10560, section 2.2, and their code): the F measure of the longest
common subsequence of words, unstemmed. Words are `core.text.words`: of ASCII text exactly the words that `rouge_score`
finds, and words of any other script too, where that package finds none and so takes every text for new.

Three exact steps in place of a comparison with the whole pool: an index of words counts what each text can share with
the candidate, the best ROUGE-L that this allows turns away nearly all of them, and the rest are compared bit-parallel.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from shinan.core.errors import DataError
from shinan.core.text import words

LIMIT = 0.7
"""Texts that are more alike than this say the same (arXiv 2212.10560, section 2.2)."""

_COMMON = 512  # texts that have a word before it is worth leaving the word out of the count
_UNKNOWN = "\0"  # stands for every word that the pool lacks

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.integer[Any]]


class Similar(NamedTuple):
    """A text of the pool and its ROUGE-L (F measure, 0 to 1) with the text in question."""

    text: str
    f: float


class Novelty:
    """A pool of texts that grows, and the question whether a text is new to it.

    Decisions are exact: the same as comparing with every text. A text without words is new to every pool. Memory: the
    texts, and some 10 bytes a word.

    >>> pool = Novelty(["Write a poem about the sea."])
    >>> pool.admit("Write a poem about the sky.")
    Similar(text='Write a poem about the sea.', f=0.8333333333333334)
    >>> pool.admit("海についての詩を書いてください。"), len(pool)
    (None, 2)
    """

    def __init__(self, texts: Iterable[str] = (), *, limit: float = LIMIT) -> None:
        """A pool of `texts`, alike or not. A text that is more alike to one of the pool than `limit` is not new."""
        self._limit = limit
        self._texts: list[str] = []
        self._coded: list[str] = []  # each word as one character, which is what rapidfuzz compares fastest
        self._codes: dict[str, str] = {}
        self._lengths = array("I")
        self._having: dict[str, array[int]] = {}  # character -> the places of the texts that have it, rising
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        """The number of texts."""
        return len(self._texts)

    def add(self, text: str) -> None:
        """Put a text into the pool, new or not. Raises DataError after 1.1 million different words."""
        coded = "".join(self._code(word) for word in words(text))
        for character in set(coded):
            self._having.setdefault(character, array("I")).append(len(self._texts))
        self._texts.append(text)
        self._coded.append(coded)
        self._lengths.append(len(coded))

    def _code(self, word: str) -> str:
        if word not in self._codes:
            if len(self._codes) == sys.maxunicode:
                what = f"the pool has more than {sys.maxunicode} different words"
                raise DataError(what, where="novelty", fix="compare with a part of the pool at a time")
            self._codes[word] = chr(len(self._codes) + 1)
        return self._codes[word]

    def rival(self, text: str) -> Similar | None:
        """The text of the pool that keeps this one from being new: of those above the limit the most similar, the
        first among equals. None if it is new."""
        coded = self._encode(text)
        places = self._possible(coded)
        if not len(places):
            return None
        f = self._compare(coded, places)
        best = int(np.argmax(f))
        return Similar(self._texts[places[best]], float(f[best])) if f[best] > self._limit else None

    def admit(self, text: str) -> Similar | None:
        """`rival`, and the text is added if there is none: a later one is held against it too."""
        found = self.rival(text)
        if found is None:
            self.add(text)
        return found

    def similarities(self, text: str) -> Floats:
        """ROUGE-L with every text of the pool, in order: an array of `len(self)`. Takes time for each of them."""
        return self._compare(self._encode(text), np.arange(len(self)))

    def most_similar(self, text: str, n: int = 10) -> list[Similar]:
        """The `n` most similar texts of the pool, the most similar first; the one added first among equals."""
        f = self.similarities(text)
        return [Similar(self._texts[place], float(f[place])) for place in np.argsort(-f, kind="stable")[:n]]

    def _encode(self, text: str) -> str:
        return "".join(self._codes.get(word, _UNKNOWN) for word in words(text))

    def _possible(self, coded: str) -> Places:
        """The places of all texts that may be above the limit: what they can share with this one at best is enough.

        Words that very many texts have are not counted but taken for shared, as long as a text that shares no other
        would still be below the limit.
        """
        sizes = np.arange(len(coded) + 1)
        spare = np.count_nonzero(_f(sizes, len(coded), sizes) <= self._limit) - 1  # sharing so many is not enough
        assumed, counted = 0, list[tuple[Places, int]]()
        for character, times in sorted(Counter(coded).items(), key=lambda item: -self._frequency(item[0])):
            if self._frequency(character) > _COMMON and assumed + times <= spare:
                assumed += times
            elif character in self._having:
                counted.append((np.frombuffer(self._having[character], dtype=np.uint32), times))
        if not counted:
            return np.empty(0, dtype=np.uint32)
        weights = np.repeat([times for _, times in counted], [len(places) for places, _ in counted])
        shared = np.bincount(np.concatenate([places for places, _ in counted]), weights)
        places = np.flatnonzero(shared > spare - assumed)
        lengths = self._lengths_of(places)
        best = np.minimum(shared[places] + assumed, np.minimum(lengths, len(coded)))
        return places[_f(best, len(coded), lengths) > self._limit]

    def _frequency(self, character: str) -> int:
        return len(self._having.get(character, ()))

    def _lengths_of(self, places: Places) -> Places:
        return np.frombuffer(self._lengths, dtype=np.uint32)[places]

    def _compare(self, coded: str, places: Places) -> Floats:
        """ROUGE-L with the texts at these places."""
        others = [self._coded[place] for place in places]
        common = cdist([coded], others, scorer=LCSseq.similarity)[0]
        return _f(common, len(coded), self._lengths_of(places))


def _f(common: npt.NDArray[Any], length: int, lengths: Places) -> Floats:
    """The F measure, rounded as `rouge_score` rounds it, which decides what lies on the limit; 0 without words."""
    precision, recall = common / np.maximum(lengths, 1), common / max(length, 1)
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros(len(total)), where=total > 0)

"""How much of a held-out text stands in another: n-gram overlap with exact recall, for decontamination.

After Tulu 3 (Lambert et al. 2024, arXiv 2411.15124, section 3.2): a training row is held against one reference item at
a time, and what counts is the share of that item's words that stand in an n-gram which the row has too. So no row is
excused by its length, nor by a word that was changed: one in the middle breaks n n-grams, but hides itself alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from shinan.core.hashing import hash64
from shinan.core.text import words
from shinan.scorers.shingles import Hashes, Integers


@dataclass(frozen=True, slots=True)
class Match:
    """The reference that a text covers most; the first one given, among equals.

    Attributes:
        share: of the reference's words, how many stand in an n-gram that the text has too, 0 to 1.
        reference_id: its id, empty if no reference shares an n-gram.
        span_text: the longest run of the text's words that such n-grams cover, joined by blanks.
    """

    share: float
    reference_id: str
    span_text: str


NO_MATCH = Match(0.0, "", "")


class Overlap:
    """An index of the n-grams of reference texts, given as (id, text).

    Words are `core.text.words`. A reference shorter than n words is one gram, its whole word sequence: found wholly or
    not at all. A reference without words is never found. Equal grams are always found; two different ones pass
    for equal with a chance near 2**-64. Memory: about 60 bytes for each n-gram of each reference.
    """

    def __init__(self, references: Iterable[tuple[str, str]], n: int = 8) -> None:
        self._factors = np.array([hash64(f"position {i}".encode()) | 1 for i in range(n)], dtype=np.uint64)
        self._codes: dict[str, int] = {}
        self._ids: list[str] = []
        grams: list[Hashes] = []
        sizes = []
        for reference_id, text in references:
            tokens = words(text)
            self._codes.update({word: hash64(word.encode()) for word in tokens if word not in self._codes})
            grams.append(self._grams(self._encode(tokens), min(n, len(tokens))))
            sizes.append(len(tokens))
            self._ids.append(reference_id)
        self._sizes = np.array(sizes, dtype=np.int64)
        self._spans = np.minimum(self._sizes, n)
        self._lengths = sorted({*self._spans.tolist()} - {0})
        self._index(grams)

    def _index(self, grams: Sequence[Hashes]) -> None:
        """Every distinct gram in rising order; gram k begins at the words places[starts[k]:starts[k + 1]] of the
        references owners[starts[k]:starts[k + 1]]."""
        counts = np.array([len(each) for each in grams], dtype=np.int64)
        owners = np.repeat(np.arange(len(grams)), counts)
        flat = np.concatenate(grams) if grams else np.empty(0, dtype=np.uint64)
        order = np.argsort(flat, kind="stable")
        self._keys, first = np.unique(flat[order], return_index=True)
        self._owners = owners[order]
        self._places = (np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts))[order]
        self._starts = np.append(first, len(flat))
        # Nearly every gram of an unrelated text is turned away here, by its high bits, at a quarter of a search's cost.
        bits = max(8, len(self._keys).bit_length() + 4)
        self._shift = np.uint64(64 - bits)
        self._sieve = np.zeros(1 << bits, dtype=bool)
        self._sieve[self._keys >> self._shift] = True

    def coverage(self, text: str) -> Match:
        """The reference of which the text has the greatest share, or NO_MATCH."""
        tokens = words(text)
        keys, places = self._find(self._encode(tokens))
        if not len(keys):
            return NO_MATCH
        distinct = np.unique(keys)
        owned = [slice(self._starts[key], self._starts[key + 1]) for key in distinct]
        shares = self._shares(
            *(np.concatenate([column[hit] for hit in owned]) for column in (self._owners, self._places))
        )
        best = int(np.argmax(shares))
        evidence = [key for key, hit in zip(distinct, owned, strict=True) if best in self._owners[hit]]
        span = _longest_run(tokens, places[np.isin(keys, evidence)])
        return Match(float(shares[best]), self._ids[best], span)

    def _shares(self, owners: Integers, places: Integers) -> npt.NDArray[np.float64]:
        """Of each reference's words, the share that lies in one of the grams that begin at these places of theirs."""
        order = np.lexsort((places, owners))
        owners, places = owners[order], places[order]
        covered = self._spans[owners]  # a gram's words, as far as the next gram of the same reference leaves them
        same = owners[1:] == owners[:-1]
        covered[:-1][same] = np.minimum(np.diff(places), covered[:-1])[same]
        return np.bincount(owners, covered, minlength=len(self._ids)) / np.maximum(self._sizes, 1)

    def _encode(self, tokens: Sequence[str]) -> Hashes:
        """One code a word; words that no reference has share one, which no word has."""
        codes = self._codes
        return np.array([codes.get(token, _UNKNOWN) for token in tokens], dtype=np.uint64)

    def _grams(self, codes: Hashes, length: int) -> Hashes:
        """The hash of every run of `length` words: the sum of code times the factor of its position, modulo 2**64."""
        if not 0 < length <= len(codes):
            return np.empty(0, dtype=np.uint64)
        return np.correlate(codes, self._factors[:length], mode="valid")

    def _find(self, codes: Hashes) -> tuple[Integers, Integers]:
        """Every gram of the text that a reference has: its key (hits), first word and end (hits, 2)."""
        keys, places = [np.empty(0, dtype=np.int64)], [np.empty((0, 2), dtype=np.int64)]
        for length in self._lengths:
            grams = self._grams(codes, length)
            start = np.flatnonzero(self._sieve[grams >> self._shift])
            if len(start):
                at = np.minimum(np.searchsorted(self._keys, grams[start]), len(self._keys) - 1)
                same = self._keys[at] == grams[start]
                keys.append(at[same])
                places.append(np.stack([start[same], start[same] + length], axis=1))
        return np.concatenate(keys), np.concatenate(places)


def _longest_run(tokens: Sequence[str], places: Integers) -> str:
    """The longest run of words inside the union of the places, the first among equals."""
    covered = np.zeros(len(tokens), dtype=bool)
    for start, end in places:
        covered[start:end] = True
    by_covered = groupby(zip(tokens, covered, strict=True), itemgetter(1))
    runs = [[token for token, _ in run] for inside, run in by_covered if inside]
    longest = max(runs, key=len)
    return " ".join(longest)


_UNKNOWN = hash64(b"")

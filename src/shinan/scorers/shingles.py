"""The n-grams of words ("shingles", Broder 1997) of many texts at once, as 64-bit numbers.

Words are `core.text.words`, but they never become Python objects: they are found and hashed in one buffer of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shinan.core.hashing import hash64
from shinan.core.text import normalise, spelt

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

_BLANK, _LINE = 32, 10
_LONG = 64  # bytes of a word from which on it is hashed alone
# The bytes of a word that a load of eight brings along, by the number of those that are the word's.
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)


class Shingles(NamedTuple):
    """Text i has the next counts[i] of the hashes, at least one; a shingle that it has twice is there twice."""

    hashes: Hashes
    counts: Integers


def shingles(texts: Sequence[str], n: int) -> Shingles:
    """The hash of every run of n words of each text.

    A text of fewer than n words has one shingle, its normal form with all signs. Equal shingles have equal hashes; two
    different ones have the same with a chance near 2**-64.

    >>> one, other, short = (shingles([text], 2).hashes for text in ("A, b c", "a b. C!", "c?"))
    >>> (one == other).all(), one.size, short.size
    (np.True_, 2, 1)
    """
    words, sizes = _words(texts)
    counts = np.maximum(sizes - n + 1, 1)
    hashes = np.empty(counts.sum(), dtype=np.uint64)
    runs = max(len(words) - n + 1, 0)
    whole = np.ones(runs, dtype=bool)
    over = (np.cumsum(sizes)[:, None] - np.arange(1, n)).ravel()  # runs that begin here reach into the next text
    whole[over[(over >= 0) & (over < runs)]] = False
    total = sum((words[i : i + runs] * _factor(i) for i in range(n)), np.zeros(runs, dtype=np.uint64))
    long = sizes >= n
    hashes[np.repeat(long, counts)] = total[whole]
    hashes[(np.cumsum(counts) - 1)[~long]] = [hash64(_form(texts[i])) for i in np.flatnonzero(~long).tolist()]
    return Shingles(hashes, counts)


def _words(texts: Sequence[str]) -> tuple[Hashes, Integers]:
    """The hashes of all words, text after text, and how many words each text has."""
    # One line a text, a line break at each end; then a word can be loaded eight bytes at a time, past its end too.
    joined = b"\n".join([b"", *map(spelt, texts), b" " * 8])
    buffer = np.frombuffer(joined, dtype=np.uint8)
    inside = buffer > _BLANK
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, sizes = edges[0::2], edges[1::2] - edges[0::2]
    eights = np.ndarray(len(buffer) - 7, dtype="<u8", buffer=buffer, strides=(1,))
    hashes = _mixed(eights[starts] & _MASKS[np.minimum(sizes, 8)])
    for done in range(8, _LONG, 8):
        rest = np.flatnonzero(sizes > done)
        loaded = eights[starts[rest] + done] & _MASKS[np.minimum(sizes[rest] - done, 8)]
        hashes[rest] = _mixed(hashes[rest] + loaded)
    for word in np.flatnonzero(sizes > _LONG).tolist():
        hashes[word] = hash64(joined[starts[word] : starts[word] + sizes[word]])
    breaks = np.flatnonzero(buffer == _LINE)
    return hashes, np.diff(np.searchsorted(starts, breaks))


def _mixed(values: Hashes) -> Hashes:
    """Every bit of a value spread over all bits, one to one: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _form(text: str) -> bytes:
    """A short text as what it is compared by."""
    return normalise(text).encode("utf-8", "surrogatepass")


def _factor(place: int) -> np.uint64:
    """An odd number for each place in a shingle: the order of its words counts."""
    return np.uint64(hash64(f"place {place}".encode()) | 1)

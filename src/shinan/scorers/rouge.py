"""ROUGE-L as Super-NaturalInstructions reports it (Wang et al. 2022, arXiv 2204.07705), for every script.

The published tokeniser knows only a-z and 0-9: a Japanese reply has no token and scores 0 whatever it says. By default
it is therefore used only where neither side has a letter or digit beyond ASCII, which is where it is defined and where
scores equal the published ones; elsewhere words are Unicode words, and unspaced scripts count by character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rapidfuzz.distance import LCSseq

from shinan.core.example import Example
from shinan.core.registry import register
from shinan.core.score import Score, Scorer
from shinan.core.text import words
from shinan.scorers.porter import stem

Tokens = Literal["auto", "published", "unicode"]


class RougeL(NamedTuple):
    """Longest common subsequence of a prediction and a reference, as shares of each and their harmonic mean."""

    f: float
    precision: float
    recall: float


def published_tokens(text: str) -> list[str]:
    """Runs of a-z and 0-9 in the lower-cased text, Porter-stemmed when longer than three characters."""
    return _stemmed(re.findall("[a-z0-9]+", text.lower()))


def unicode_tokens(text: str) -> list[str]:
    """`core.text.words` with the same stemming of ASCII words: equals `published_tokens` on ASCII text."""
    return _stemmed(words(text))


def _stemmed(tokens: list[str]) -> list[str]:
    return [stem(token) if len(token) > 3 and token.isascii() else token for token in tokens]


def rouge_of(prediction: Sequence[str], reference: Sequence[str]) -> RougeL:
    """ROUGE-L of two token lists: order counts, gaps do not. All zero if either list is empty."""
    if not prediction or not reference:
        return RougeL(0.0, 0.0, 0.0)
    common = LCSseq.similarity(prediction, reference)
    if not common:
        return RougeL(0.0, 0.0, 0.0)
    precision, recall = common / len(prediction), common / len(reference)
    return RougeL(2 * precision * recall / (precision + recall), precision, recall)


@register("scorer", "rouge_l")
def rouge_l(*, tokens: Tokens = "auto") -> Scorer:
    """ROUGE-L: the F measure of the longest common subsequence of words, best over the targets.

    `tokens`: `published` is Super-NaturalInstructions' tokeniser (0 for any text without a-z or 0-9), `unicode` words
    of every script, `auto` the published one for pairs of texts whose letters and digits are all ASCII, else `unicode`.
    The value is None if the example has no target; `parts` has the precision and recall against the best one.
    """

    def score(example: Example, reply: str) -> Score:
        if not example.targets:
            return Score(None, explanation="the example has no target to compare with", by="rouge_l")
        best = max(_compare(tokens, reply, target) for target in example.targets)
        return Score(best.f, by="rouge_l", parts={"precision": best.precision, "recall": best.recall})

    return score


def _compare(tokens: Tokens, reply: str, target: str) -> RougeL:
    published = tokens == "published" or (tokens == "auto" and not _beyond_ascii(reply + target))
    tokenise = published_tokens if published else unicode_tokens
    return rouge_of(tokenise(reply), tokenise(target))


def _beyond_ascii(text: str) -> bool:
    """Whether a letter or a digit is not ASCII. Typographic quotes and other symbols don't count."""
    return not text.isascii() and any(c > "\x7f" and (c.isalpha() or c.isdecimal()) for c in text)

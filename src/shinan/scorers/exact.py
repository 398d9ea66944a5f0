"""Exact match as Super-NaturalInstructions counts it, and SQuAD's token F1.

Both publish rules for ASCII text: lower case, without `string.punctuation`, blanks collapsed. Here other text is first
brought to NFKC and loses all of Unicode's punctuation, so that 「東京」。 equals 東京; on ASCII text nothing changes.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from typing import Literal

from shinan.core.example import Example
from shinan.core.registry import register
from shinan.core.score import Score, Scorer
from shinan.core.text import unspaced

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_TARGET = "the example has no target to compare with"


def plain(text: str) -> str:
    """NFKC, lower case, no punctuation, single blanks; articles stay (Super-NaturalInstructions, compute_metrics).

    >>> plain(" The answer:  B. ")
    'the answer b'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
    return " ".join(text.lower().translate(_ASCII_PUNCTUATION).split())


def squad_plain(text: str) -> str:
    """`plain` without the words a, an, the (Rajpurkar et al. 2018, arXiv 1806.03822, evaluation script 2.0)."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain(text)).split())


@register("scorer", "exact_match")
def exact_match() -> Scorer:
    """Exact match: 1 if the reply equals a target but for case, punctuation and blanks, else 0.

    Articles count, unlike in SQuAD. The value is None if the example has no target.
    """

    def score(example: Example, reply: str) -> Score:
        if not example.targets:
            return Score(None, explanation=_NO_TARGET, by="exact_match")
        answer = plain(reply)
        return Score(float(any(answer == plain(target) for target in example.targets)), answer, by="exact_match")

    return score


@register("scorer", "squad_f1")
def squad_f1(*, tokens: Literal["auto", "words", "characters"] = "auto") -> Scorer:
    """SQuAD F1: shared words of reply and target, without articles and punctuation, best over the targets.

    `tokens`: `words` are separated by blanks, as published; `characters` suit scripts without spaces; `auto` takes
    characters for a pair where the target has such a script. An empty target is the right answer to a question
    that has none. The value is None if the example has no target. `parts` has SQuAD's exact match.
    """

    def score(example: Example, reply: str) -> Score:
        if not example.targets:
            return Score(None, explanation=_NO_TARGET, by="squad_f1")
        answer = squad_plain(reply)
        golds = [squad_plain(target) for target in example.targets]
        best = max(
            _bag_f1(answer, gold, characters=tokens == "characters" or (tokens == "auto" and unspaced(gold)))
            for gold in golds
        )
        return Score(best, answer, by="squad_f1", parts={"exact": float(answer in golds)})

    return score


def _bag_f1(answer: str, gold: str, *, characters: bool) -> float:
    """F1 of the two bags of tokens; if either is empty, 1 when both are, else 0."""
    mine, theirs = (Counter(text.replace(" ", "") if characters else text.split()) for text in (answer, gold))
    if not mine or not theirs:
        return float(mine == theirs)
    common = (mine & theirs).total()
    precision, recall = common / mine.total(), common / theirs.total()
    return 2 * precision * recall / (precision + recall) if common else 0.0

"""The Porter stemmer, with the extensions that published ROUGE scores rest on.

M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980, with its author's later changes and those of
NLTK's default mode: irregular forms, ties -> tie, y -> i after a consonant only, -alli, -fulli, -logi.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache


def _table(rules: str) -> dict[str, str]:
    return {old: new for old, _, new in (rule.partition(">") for rule in rules.split())}


_IRREGULAR = _table(
    "skies>sky sky>sky dying>die lying>lie tying>tie innings>inning inning>inning outings>outing outing>outing "
    "cannings>canning canning>canning news>news howe>howe proceed>proceed exceed>exceed succeed>succeed"
)
# Suffix > replacement. The first suffix that the word ends with decides, so a longer one stands before its own ending.
_STEP_2 = _table(
    "ational>ate tional>tion enci>ence anci>ance izer>ize bli>ble alli>al entli>ent eli>e ousli>ous ization>ize "
    "ation>ate ator>ate alism>al iveness>ive fulness>ful ousness>ous aliti>al iviti>ive biliti>ble fulli>ful"
)
_STEP_3 = _table("icate>ic ative> alize>al iciti>ic ical>ic ful> ness>")
_STEP_4 = _table("al> ance> ence> er> ic> able> ible> ant> ement> ment> ent> ou> ism> ate> iti> ous> ive> ize>")


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of a lower-case word; words of one or two letters are left alone.

    >>> stem("generalisations"), stem("flies")
    ('generalis', 'fli')
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    for step in (_plural, _past, _final_y, _double_suffix, _suffix, _last_suffix, _final_e):
        word = step(word)
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _shape(word: str) -> str:
    """`c` for each consonant, `v` for each vowel; y is a vowel after a consonant."""
    shape = ""
    for letter in word:
        shape += "v" if letter in "aeiou" or (letter == "y" and shape.endswith("c")) else "c"
    return shape


def _measure(word: str) -> int:
    """Porter's m: how often a vowel is followed by a consonant."""
    return _shape(word).count("vc")


def _short(word: str) -> bool:
    """Whether the word ends consonant, vowel, consonant other than w, x, y (*o), or is a vowel and a consonant."""
    shape = _shape(word)
    return shape == "vc" or (shape.endswith("cvc") and word[-1] not in "wxy")


def _replace(word: str, rules: Mapping[str, str], least: int) -> str:
    """Apply the first rule whose suffix the word has, if what stands before it measures at least `least`."""
    for suffix, replacement in rules.items():
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            return base + replacement if _measure(base) >= least else word
    return word


def _plural(word: str) -> str:
    """Step 1a."""
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    """Step 1b: -ed and -ing, and the repair of what they leave."""
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    base = word.removesuffix("ed") if word.endswith("ed") else word.removesuffix("ing")
    shape = _shape(base)
    if base == word or "v" not in shape:
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if shape.endswith("c") and base[-2:-1] == base[-1]:
        return base if base[-1] in "lsz" else base[:-1]
    return base + "e" if _measure(base) == 1 and _short(base) else base


def _final_y(word: str) -> str:
    """Step 1c: y becomes i after a consonant that is not the word's first letter."""
    base = word[:-1]
    return base + "i" if word.endswith("y") and len(base) > 1 and _shape(base).endswith("c") else word


def _double_suffix(word: str) -> str:
    """Step 2."""
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        word = word[:-2]
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _replace(word, _STEP_2, least=1)


def _suffix(word: str) -> str:
    """Step 3."""
    return _replace(word, _STEP_3, least=1)


def _last_suffix(word: str) -> str:
    """Step 4; -ion goes only after s or t."""
    if word.endswith("ion"):
        return word[:-3] if word[:-3].endswith(("s", "t")) and _measure(word[:-3]) > 1 else word
    return _replace(word, _STEP_4, least=2)


def _final_e(word: str) -> str:
    """Step 5a."""
    base = word.removesuffix("e")
    measure = _measure(base)
    return base if base != word and (measure > 1 or (measure == 1 and not _short(base))) else word

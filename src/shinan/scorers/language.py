"""Whether a text is in a language, judged coarsely by script and by its commonest words; never by a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from shinan.core.text import words

Language = Literal["en", "ja", "es", "fr", "de", "zh"]

_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
# A word that several languages share stands with each of them, and so decides nothing.
_COMMON: Mapping[str, str] = {
    "en": "the of and is to with for that it was in a an are be this from not by on you what how they has at as or "
    "if me can will your we i my he she his her its but have do so no when which there than",
    "es": "el la los las de del que y en un una por para con se no su sus al lo le como más es son está hay pero si "
    "este esta muy a o cuando me te mi tu ya qué ser",
    "fr": "le la les de des et une un du est dans pour qui sur au aux en il elle ne pas avec vous ce que son sont "
    "je tu nous par plus mais ou si cette se sa ses on à a me te",
    "de": "der die das und ist nicht ein eine einen einem mit den dem des zu auf im von für sich es er sie wird am "
    "bei um auch in an ich wir als aus oder wenn aber wie was noch nur so hat sind",
}
_STOP_WORDS = {code: frozenset(listed.split()) for code, listed in _COMMON.items()}


def language_fault(text: str, language: Language) -> str:
    """Why the text is not in this language; empty if it may be.

    Japanese: at least a quarter of the letters are kana. Chinese: no kana, and at least half of the letters are Chinese
    characters. The others: neither kana nor Chinese characters, and of their own commonest words at least one, and no
    fewer than of another of these languages.
    """
    letters = sum(c.isalpha() for c in text)
    kana, han = len(_KANA.findall(text)), len(_HAN.findall(text))
    if language == "ja":
        return "" if 0 < letters <= 4 * kana else f"{kana} kana among {letters} letters"
    if language == "zh":
        right = not kana and 0 < letters <= 2 * han
        return "" if right else f"{kana} kana and {han} Chinese characters among {letters} letters"
    if kana or han:
        return "Japanese or Chinese characters"
    votes = _votes(text)
    return "" if 0 < votes[language] == max(votes.values()) else f"common words: {votes}"


def other_language(text: str, language: Language) -> str:
    """What shows that the text is in another language; empty if it may be in this one, or says too little to tell.

    Unlike `language_fault` it lets pass what has none of the common words, or some words of another script.
    """
    letters, asian = sum(c.isalpha() for c in text), len(_KANA.findall(text)) + len(_HAN.findall(text))
    if language in ("ja", "zh"):
        return language_fault(text, language) if letters else ""
    if 2 * asian > letters:
        return f"{asian} Japanese or Chinese characters among {letters} letters"
    votes = _votes(text)
    return "" if votes[language] == max(votes.values()) else f"common words: {votes}"


def only_common_words(text: str) -> bool:
    """Whether a text has no word but the commonest of these languages: punctuation and stop words alone."""
    return all(any(word in stop for stop in _STOP_WORDS.values()) for word in words(text))


def _votes(text: str) -> dict[str, int]:
    found = words(text)
    return {code: sum(word in stop for word in found) for code, stop in _STOP_WORDS.items()}

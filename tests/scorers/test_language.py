"""The coarse language check, on sentences of each language and on what lies between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest

from shinan.scorers.language import Language, language_fault, other_language

SENTENCES: Mapping[Language, str] = {
    "en": "The train to the coast is late, so we are waiting at the station with our bags.",
    "ja": "海へ行く電車が遅れているので、荷物を持って駅で待っています。",
    "es": "El tren de la costa llega tarde, así que esperamos en la estación con las maletas.",
    "fr": "Le train pour la côte est en retard, nous attendons donc à la gare avec nos valises.",
    "de": "Der Zug an die Küste hat Verspätung, und wir warten mit dem Gepäck auf dem Bahnsteig.",
    "zh": "去海边的火车晚点了，我们带着行李在车站等着。",
}


@pytest.mark.parametrize("language", get_args(Language))
def test_each_sentence_is_in_its_language_and_no_other(language: Language) -> None:
    assert [code for code, text in SENTENCES.items() if not language_fault(text, language)] == [language]


@pytest.mark.parametrize(
    ("text", "language", "fault"),
    [
        ("Paris!", "fr", "common words: {'en': 0, 'es': 0, 'fr': 0, 'de': 0}"),
        ("The 猫 is on the mat.", "en", "Japanese or Chinese characters"),
        ("東京都千代田区", "ja", "0 kana among 7 letters"),
        ("東京の雨", "zh", "1 kana and 3 Chinese characters among 4 letters"),
        ("12:30", "ja", "0 kana among 0 letters"),
    ],
)
def test_the_fault_is_told(text: str, language: Language, fault: str) -> None:
    assert language_fault(text, language) == fault


@pytest.mark.parametrize("language", get_args(Language))
def test_a_sentence_is_surely_in_no_other_language(language: Language) -> None:
    assert [code for code, text in SENTENCES.items() if not other_language(text, language)] == [language]


@pytest.mark.parametrize(
    ("text", "language", "fault"),
    [
        ("Summarise Hamlet.", "en", ""),
        ("What does 猫 mean?", "en", ""),
        ("猫とは何ですか, what?", "en", "7 Japanese or Chinese characters among 11 letters"),
        ("12 + 30 = ?", "ja", ""),
        ("Was ist das?", "en", "common words: {'en': 1, 'es': 0, 'fr': 0, 'de': 3}"),
    ],
)
def test_what_may_be_in_the_language_passes(text: str, language: Language, fault: str) -> None:
    assert other_language(text, language) == fault

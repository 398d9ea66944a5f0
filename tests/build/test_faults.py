"""Judges of what a model wrote: each reason is found, and ordinary replies pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shinan.build.author import Ask, Reply
from shinan.build.faults import copy, foreign, loop, refusal, truncated, unanswered, unusable, wordless
from shinan.build.improve.self_instruct import TASKS
from shinan.core.verdict import Verdict
from shinan.models.generator import Completion, Request

ASKED = "Name the capital of every country that has a coast on the Baltic Sea, from north to south."
PLAIN = "Helsinki, Tallinn, Stockholm, Riga, Copenhagen, Vilnius and Berlin; Warsaw and Moscow lie far inland."


def reply(text: str, asked: str = ASKED) -> Reply:
    return Reply(Ask(TASKS, Request(prompt=asked)), Completion(text))


def test_an_ordinary_reply_passes() -> None:
    assert unusable(reply(PLAIN)) is None
    assert unusable(reply("Yes")) is None


def test_no_answer_an_empty_one_and_one_without_an_end() -> None:
    failed = Reply(reply("").ask, Completion("", finish="failed", error="the server answers 500"))
    cut = Reply(reply("").ask, Completion("on and on", finish="length", new_tokens=2))
    assert unanswered(failed) == Verdict.drop("failed", "the server answers 500")
    assert [unanswered(reply(text)) for text in (" \n", "**", "****\n\n** **")] == [Verdict.drop("empty")] * 3
    assert truncated(cut) == unusable(cut) == Verdict.drop("truncated", "no end after 2 tokens")
    assert unusable(cut, whole=False) is None
    assert truncated(reply(PLAIN)) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m very sorry, I cannot do this.",
        "As an AI language model, I have no opinions.",
        "Unfortunately, I am unable to open links.",
        "申し訳ありませんが、お答えできません。",
        "抱歉，我不能这样做。",
    ],
)
def test_refusals(text: str) -> None:
    found = refusal(reply(text))
    assert found is not None
    assert found.reason == "refusal"
    assert unusable(reply(text), guard=False) is None


@pytest.mark.parametrize("text", ["Sorry is a song of 2015.", "The AI said no.", f"{PLAIN * 3} I'm sorry.", "謝る"])
def test_what_only_looks_like_a_refusal(text: str) -> None:
    assert refusal(reply(text)) is None


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("no " * 12, "12 times: no"),
        ("I like it. I like it. I like it! I like it.", "4 times: i like it"),
        (PLAIN + " and so on" * 9, "9 times: and so on"),
        ("はい、" * 6, "6 times: は い"),
    ],
)
def test_loops(text: str, times: str) -> None:
    assert loop(reply(text)) == Verdict.drop("loop", times)


@pytest.mark.parametrize("text", ["no " * 11, "a b c d " * 2, PLAIN * 3, "ha ha ha ha " + PLAIN, ""])
def test_what_is_no_loop(text: str) -> None:
    assert loop(reply(text)) is None


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), st.integers(1, 8), st.text("xyz ", max_size=30))
def test_a_loop_is_found_if_and_only_if_its_end_repeats(period: list[str], times: int, before: str) -> None:
    """A run of at least four periods, a dozen words and half of the text. A shorter period may repeat oftener."""
    size, total = len(period) * times, len(before.split()) + len(period) * times
    found = loop(reply(f"{before} {' '.join(period * times)}"))
    if times >= 4 and size >= 12 and 2 * size >= total:
        assert found is not None
    if times == 1 and len(set(period)) == len(period):
        assert found is None


def test_copies_of_the_prompt() -> None:
    assert copy(reply(ASKED)) == Verdict.drop("copy", "11 of 11 runs of words")
    assert copy(reply(f"{ASKED} {PLAIN}")) is None  # 11 of 27
    assert copy(reply("Name the capital of every country")) is None  # too short to tell
    asked = "次の文章を英語に翻訳してください。"
    assert copy(reply(asked, asked)) is not None


def test_other_languages() -> None:
    assert foreign("Nenne die Hauptstadt von Schweden und sage, wie viele Menschen dort wohnen.", "en") is not None
    assert foreign("Name a bird.", "ja") == Verdict.drop("other_language", "0 kana among 9 letters")
    assert foreign("Name a bird.", "en") is None


@given(st.text(max_size=60))
def test_any_text_gets_a_verdict(text: str) -> None:
    for guard in (True, False):
        found = unusable(reply(text, text), guard=guard)
        assert found is None or not found.keep


def test_counting_on_is_no_instruction() -> None:
    assert wordless("1. 2. 3. 4. 5.") == Verdict.drop("no_words", "1. 2. 3. 4. 5.")
    assert wordless("1. 2. 橋") is None

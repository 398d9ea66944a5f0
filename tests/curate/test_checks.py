"""The structure check: each fault by its reason, and rows without a fault kept."""

from __future__ import annotations

import pytest

from shinan.core.example import Example, Message, assistant, system, user
from shinan.core.verdict import KEEP, Verdict
from shinan.curate.checks import structure


def verdict(*messages: Message, max_words: int = 2048, rejected: tuple[Message, ...] = ()) -> Verdict:
    (only,) = structure(max_words=max_words)([Example(messages, rejected=rejected)])
    return only


@pytest.mark.parametrize(
    "messages",
    [
        (user("Say hello."), assistant("Hello.")),
        (system("Be brief."), user("One?"), assistant("1"), user("Two?"), assistant("2")),
        (user("タブ\tと\r\n改行"), assistant("はい")),
        (user("emoji 👩‍👩‍👧 and ümlaut"), assistant("fine")),
    ],
)
def test_a_sound_row_is_kept(messages: tuple[Message, ...]) -> None:
    assert verdict(*messages) is KEEP


@pytest.mark.promise5
@pytest.mark.parametrize(
    ("messages", "reason", "detail"),
    [
        ((), "no_messages", ""),
        ((user("a"),), "no_reply", "the last turn is user"),
        ((user("a"), assistant("b"), user("c")), "no_reply", "the last turn is user"),
        ((assistant("b"),), "role_order", "turn 1 is assistant, expected user"),
        ((user("a"), user("b"), assistant("c")), "role_order", "turn 2 is user, expected assistant"),
        ((user("a"), system("b"), assistant("c")), "role_order", "turn 2 is system, expected assistant"),
        ((system("a"), system("b"), user("c"), assistant("d")), "role_order", "turn 2 is system, expected user"),
        ((system("a"), assistant("d")), "role_order", "turn 2 is assistant, expected user"),
        ((user("a"), assistant(" \n\u3000")), "empty_turn", "turn 2 (assistant)"),
        ((system(""), user("a"), assistant("b")), "empty_turn", "turn 1 (system)"),
        ((user("Hello  World"), assistant("hello world\n")), "reply_is_prompt", ""),
        ((user("a\x00b"), assistant("c")), "control_character", "turn 1 (user): U+0000 at character 1"),
        ((user("a"), assistant("c\x85")), "control_character", "turn 2 (assistant): U+0085 at character 1"),
        ((user("a\ud800"), assistant("c")), "control_character", "turn 1 (user): U+D800 at character 1"),
        ((user("a"), assistant("caf\ufffd")), "replacement_character", "turn 2 (assistant): U+FFFD at character 3"),
    ],
)
def test_each_fault_has_its_reason(messages: tuple[Message, ...], reason: str, detail: str) -> None:
    assert verdict(*messages) == Verdict.drop(reason, detail)


def test_length_counts_words_of_all_turns_and_characters_of_japanese() -> None:
    row = (system("be brief"), user("三つの文字"), assistant("yes"))
    assert verdict(*row, max_words=8) is KEEP
    assert verdict(*row, max_words=7) == Verdict.drop("too_long", "8 words, more than 7")


@pytest.mark.promise5
def test_a_rejected_reply_is_examined_too() -> None:
    row = (user("a"), assistant("b"))
    assert verdict(*row, rejected=(assistant(""),)) == Verdict.drop("empty_turn", "turn 3 (assistant)")
    assert verdict(*row, rejected=(assistant("c"),)) is KEEP


@pytest.mark.promise1
def test_one_verdict_a_row_in_order() -> None:
    good, bad = Example((user("a"), assistant("b"))), Example((user("a"),))
    assert [found.keep for found in structure()([bad, good, bad])] == [False, True, False]

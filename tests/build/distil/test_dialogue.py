"""Conversations written by one model, and by two."""

from __future__ import annotations

import pytest

from shinan.build.distil.dialogue import dialogue, self_chat, transcript
from shinan.core.errors import ConfigError
from shinan.core.example import Message, assistant, user
from shinan.core.registry import bind
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Request
from tests.build.rows import asked, kept, reasons, task

SEEDS = [task(0, "Why do cats purr?"), task(1, "ねこはなぜ鳴くの?")]
TALK = "[Human] Why?\n[AI] To calm down.\nAnd to be heard.\n\n[Human]: Really?\n[AI]: Yes."


def said(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages]


def test_both_sides_of_a_transcript() -> None:
    messages, verdict = transcript(TALK)
    assert verdict is None
    assert said(messages) == [
        ("user", "Why?"),
        ("assistant", "To calm down.\nAnd to be heard."),
        ("user", "Really?"),
        ("assistant", "Yes."),
    ]


@pytest.mark.parametrize(
    ("text", "cut", "turns"),
    [
        (TALK + "\n[Human] Thanks!", False, 4),
        (TALK + "\n[Human] And how do they", True, 4),
        (TALK + "\n[Human] How?\n[AI] With their", True, 4),
        ("Sure, here it is:\n" + TALK, False, 4),
    ],
)
def test_what_is_left_out_at_the_ends(text: str, cut: bool, turns: int) -> None:
    messages, verdict = transcript(text, cut=cut)
    assert (len(messages), verdict) == (turns, None)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "0 turns"),
        ("Cats purr to calm down.", "0 turns"),
        ("[Human] Why?", "0 turns"),
        ("[AI] Hello.\n[AI] There.", "turn 1: out of order"),
        ("[Human] Why?\n[Human] Why?\n[AI] So.", "turn 2: out of order"),
        ("[Human] Why?\n[AI]\n[Human] Hm?\n[AI] So.", "turn 2: empty"),
    ],
)
def test_what_is_no_conversation(text: str, detail: str) -> None:
    _, verdict = transcript(text)
    assert verdict is not None
    assert (verdict.reason, verdict.detail) == ("unparsable", detail)


def test_a_model_writes_both_sides_in_one_call() -> None:
    fake = FakeGenerator(lambda _: TALK)
    rows = kept(self_chat(1, SEEDS, teacher=fake))
    assert len(fake.requests) == 2
    assert 'about "ねこはなぜ鳴くの?"' in asked(fake.requests[1])
    assert [len(row.messages) for row in rows] == [4, 4]
    assert [row.provenance.parents for row in rows] == [(seed.id,) for seed in SEEDS]


def test_a_transcript_that_fails_is_counted() -> None:
    assert reasons(self_chat(1, SEEDS, teacher=FakeGenerator(lambda _: "I like cats."))) == ["unparsable"] * 2
    assert reasons(self_chat(1, SEEDS[:1], teacher=FakeGenerator(lambda _: ""))) == ["empty"]


class Sides:
    """An asker that doubts, and a teacher that insists; both count their turns."""

    def __init__(self) -> None:
        self.teacher = FakeGenerator(lambda request: f"Answer {len(request.messages)}.", name="teacher")
        self.asker = FakeGenerator(lambda request: f"Doubt {len(request.messages)}?", name="asker")


def test_two_models_talk_for_three_to_seven_rounds() -> None:
    sides = Sides()
    seeds = [task(n, f"Question {n}?") for n in range(60)]
    rows = kept(dialogue(1, seeds, teacher=sides.teacher, asker=sides.asker))
    assert {len(row.messages) // 2 for row in rows} == {3, 4, 5, 6, 7}
    assert all(row.messages[-1].role == "assistant" for row in rows)
    assert {row.provenance.maker for row in rows} == {"model:teacher"}
    assert {row.tags["asker"] for row in rows} == {"asker"}


def test_each_side_sees_the_conversation_from_its_own() -> None:
    sides = Sides()
    [row] = kept(dialogue(1, SEEDS[:1], teacher=sides.teacher, asker=sides.asker, fewest=3, most=3))
    assert [message.text for message in row.messages] == [
        "Why do cats purr?",
        "Answer 1.",
        "Doubt 2?",
        "Answer 3.",
        "Doubt 4?",
        "Answer 5.",
    ]
    assert [request.messages for request in sides.teacher.requests] == [row.messages[:n] for n in (1, 3, 5)]
    opening, *others = sides.asker.requests[1].messages
    assert opening.role == "system"
    assert "Why do cats purr?" in opening.text
    assert others == [user("Answer 1."), assistant("Doubt 2?"), user("Answer 3.")]


def test_a_conversation_ends_where_the_asker_has_nothing_to_say() -> None:
    sides = Sides()
    quiet = FakeGenerator(lambda request: "" if len(request.messages) > 2 else "And?")
    [row] = kept(dialogue(1, SEEDS[:1], teacher=sides.teacher, asker=quiet, fewest=5, most=5))
    assert [message.text for message in row.messages] == ["Why do cats purr?", "Answer 1.", "And?", "Answer 3."]


def test_an_unusable_answer_drops_the_conversation_and_nobody_is_asked_on() -> None:
    sides = Sides()
    refusing = FakeGenerator(lambda request: "I'm sorry, but I can't." if len(request.messages) == 3 else "Yes.")
    judged = list(dialogue(1, SEEDS, teacher=refusing, asker=sides.asker, fewest=5, most=5))
    assert reasons(judged) == ["refusal", "refusal"]
    assert (len(refusing.requests), len(sides.asker.requests)) == (4, 2)


def test_rounds_the_wrong_way_round_are_told() -> None:
    with pytest.raises(ConfigError, match=r"fewest \(5\) is more than most \(2\)"):
        bind("build", "dialogue", {"teacher": FakeGenerator(), "asker": FakeGenerator(), "fewest": 5, "most": 2})


def test_replies_have_seeds_of_their_own() -> None:
    sides = Sides()
    list(dialogue(1, SEEDS, teacher=sides.teacher, asker=sides.asker, fewest=3, most=3))
    requests: list[Request] = [*sides.teacher.requests, *sides.asker.requests]
    assert len({request.seed for request in requests}) == len(requests) == 10

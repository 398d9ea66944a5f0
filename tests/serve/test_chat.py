from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shinan.core.errors import ModelError
from shinan.core.example import assistant, system, user
from shinan.models import tiny
from shinan.models.chat import chat_format
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Request, Sampling
from shinan.models.tokenizer import Tokenizer
from shinan.serve.chat import Conversation, talk


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    return Tokenizer(tiny.byte_tokenizer(), names)


@pytest.fixture
def open_with(tokenizer: Tokenizer) -> Callable[..., tuple[Conversation, FakeGenerator]]:
    def make(
        replies: Callable[[Request], str] | dict[str, str] | None = None, *, context: int = 10_000, tokens: int = 5
    ) -> tuple[Conversation, FakeGenerator]:
        fake = FakeGenerator(replies)
        chat = chat_format("gemma", tokenizer)
        return Conversation(fake, chat, Sampling(max_new_tokens=tokens), context, opening=(system("Be kind."),)), fake

    return make


Open = Callable[..., tuple[Conversation, FakeGenerator]]


def say(conversation: Conversation, *lines: str, patient: bool = False) -> tuple[list[str], list[str]]:
    """(answers, notes) of a talk in which these lines are typed."""
    waiting = iter(lines)
    answers: list[str] = []
    notes: list[str] = []
    talk(conversation, lambda: next(waiting, None), answers.append, notes.append, patient=patient)
    return answers, notes


@pytest.mark.promise4
def test_the_model_sees_the_turns_so_far(open_with: Open) -> None:
    conversation, fake = open_with({"One?": " 1\n", "Two?": "2"})
    assert say(conversation, "One?\n", "  \n", " Two?") == (["1", "2"], [])
    first = (system("Be kind."), user("One?"))
    assert [request.messages for request in fake.requests] == [first, (*first, assistant(" 1\n"), user("Two?"))]


def test_reset_forgets_the_turns_and_keeps_the_system_turn(open_with: Open) -> None:
    conversation, fake = open_with()
    assert say(conversation, "One?", "/reset", "Two?") == (["One?", "Two?"], ["a new conversation begins"])
    assert fake.requests[1].messages == (system("Be kind."), user("Two?"))


def test_exit_leaves(open_with: Open) -> None:
    conversation, fake = open_with()
    say(conversation, "/exit", "One?")
    assert fake.requests == []


def test_each_turn_has_its_own_draws(open_with: Open) -> None:
    first, _ = open_with()
    again, fake = open_with()
    say(first, "a", "a")
    say(again, "a", "a")
    seeds = [request.seed for request in fake.requests]
    assert len(set(seeds)) == 2
    assert seeds == [request.seed for request in first.generator.requests]  # type: ignore[attr-defined]


def test_answers_that_were_cut_or_are_empty_are_remarked_on(open_with: Open) -> None:
    conversation, _ = open_with({"Long?": "a b c d e f g", "Silent?": " "})
    answers, notes = say(conversation, "Long?", "Silent?")
    assert answers == ["a b c d e", ""]
    assert notes == ["(cut after 5 tokens; --max-new-tokens allows more)", "(the answer is empty)"]


def test_an_error_ends_the_talk_or_is_told_and_the_turn_is_forgotten(open_with: Open) -> None:
    conversation, _ = open_with({"One?": "1"})
    with pytest.raises(ModelError, match="the fake has no reply"):
        say(conversation, "Two?")
    answers, notes = say(conversation, "Two?", "One?", patient=True)
    assert answers == ["1"]
    assert notes[0].startswith("the fake has no reply to 'Two?'")
    assert conversation.turns == [user("One?"), assistant("1")]


def test_a_conversation_may_fill_the_context_to_the_last_token(open_with: Open) -> None:
    """`<bos>`, `<>user\\n`, `Be kind.\\n\\nHi`, `<>\\n` and `<>model\\n`: 1 + 6 + 12 + 2 + 7 = 28 tokens."""
    fits, _ = open_with(context=33, tokens=5)
    fits.ask("Hi")
    short, fake = open_with(context=32, tokens=5)
    with pytest.raises(ModelError, match="may take 33 tokens, the model has room for 32"):
        short.ask("Hi")
    assert fake.requests == []


def test_the_model_works_inside_the_waiting_block(open_with: Open) -> None:
    events: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        events.append("begins")
        yield
        events.append("ends")

    def working(_: Request) -> str:
        events.append("works")
        return ""

    conversation, _ = open_with(working)
    lines = iter(["Hi"])
    talk(conversation, lambda: next(lines, None), lambda _: events.append("answers"), print, waiting=waiting)
    assert events == ["begins", "works", "ends", "answers"]

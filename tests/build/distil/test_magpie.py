"""Magpie: a model writes the questions too, out of the markers of its chat format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shinan.build.distil.magpie import magpie
from shinan.core.example import assistant, system, user
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.tokenizer import Tokenizer
from tests.build.rows import kept, reasons


def script(*instructions: str, answer: str = "An answer.") -> FakeGenerator:
    texts = iter(instructions)
    return FakeGenerator(lambda request: next(texts) if request.as_user else answer)


def test_questions_are_drawn_from_nothing_and_answered_greedily() -> None:
    fake = script("What is a wren?", "How do owls hear?")
    rows = kept(magpie(1, teacher=fake, draws=2))
    asking, answering = fake.requests[:2], fake.requests[2:]
    assert [(request.messages, request.as_user, request.stop) for request in asking] == [((), True, ("\n",))] * 2
    # the authors' scripts: temperature 1, top_p 1, 2,048 tokens for instructions; 0 and 4,096 for answers
    assert [request.sampling for request in asking] == [Sampling(2048, 1.0)] * 2
    assert [request.sampling for request in answering] == [Sampling(4096)] * 2
    assert asking[0].seed != asking[1].seed
    assert [row.messages[0].text for row in rows] == ["What is a wren?", "How do owls hear?"]
    assert {row.reply for row in rows} == {"An answer."}


def test_a_system_turn_steers_both() -> None:
    fake = script("Was ist ein Zaunkönig?")
    list(magpie(1, teacher=fake, draws=1, opening="Du sprichst Deutsch."))
    asking, answering = fake.requests
    assert asking.messages == (system("Du sprichst Deutsch."),)
    assert answering.messages == (system("Du sprichst Deutsch."), user("Was ist ein Zaunkönig?"))


def test_bad_instructions_are_dropped_before_they_are_answered() -> None:
    fake = script("What is a wren?", "what is a wren?", "Read this text:", "", "I'm sorry, but I cannot.")
    judged = list(magpie(1, teacher=fake, draws=5))
    assert reasons(judged) == ["repeated", "ends_with_colon", "empty", "refusal"]
    assert len(fake.requests) == 6


def test_more_draws_keep_the_fewer() -> None:
    few, many = (kept(magpie(1, teacher=script(*(f"Why {n}?" for n in range(n))), draws=n)) for n in (3, 5))
    assert many[:3] == few


@pytest.mark.promise4
@pytest.mark.parametrize("name", ["gemma", "chatml", "alpaca", "plain"])
def test_the_markers_are_those_of_a_rendered_conversation(tiny_decoder: Path, name: str) -> None:
    """What the model is given is, id for id, how the format begins a question."""
    chat = chat_format(name, Tokenizer.load(tiny_decoder))
    for before in ([], [system("Be brief.")], [user("a"), assistant("b")]):
        opened = chat.render_question(before)
        asked = chat.render([*before, user("What?"), assistant("x")]).ids
        assert opened == asked[: len(opened)]
        assert chat.tokenizer.decode(list(asked[len(opened) :])).startswith("What?")


def test_a_real_model_fills_them(tiny_decoder: Path) -> None:
    chat = chat_format("gemma", Tokenizer.load(tiny_decoder))
    local = LocalGenerator("tiny", load_model(tiny_decoder, torch.float32), chat)
    [reply] = local.generate([Request(as_user=True, sampling=Sampling(4, 1.0), seed=3)])
    assert reply.new_tokens > 0
    assert reply.prompt_tokens == len(chat.render_question())


def test_what_begins_a_reply_is_not_looked_for_where_the_user_speaks(
    tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template cannot even say how a reply to a system turn would begin."""
    chat = chat_format("gemma", Tokenizer.load(tiny_decoder))

    def never(*_: object) -> str:
        raise AssertionError

    monkeypatch.setattr(type(chat), "lead", never)
    local = LocalGenerator("tiny", load_model(tiny_decoder, torch.float32), chat)
    [reply] = local.generate([Request((system("Be brief."),), as_user=True, sampling=Sampling(4, 1.0), seed=3)])
    assert reply.new_tokens > 0

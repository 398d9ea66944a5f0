"""Answers from tickets that grow by hand, token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shinan.models.card import Card
from shinan.models.chat import chat_format
from shinan.models.decode import Row
from shinan.models.generator import Sampling
from shinan.models.reply import ReplyText
from shinan.models.tokenizer import Tokenizer
from shinan.serve.answers import Answers, ChatAnswers, CompletionAnswers
from shinan.serve.engine import Ticket
from shinan.serve.protocol import ChatBody, CompletionBody, parse
from shinan.serve.served import Served

TALK = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def toy(tiny_decoder: Path) -> Served:
    return Served(
        Card(Path(), "toy", "b2:0"), ("toy",), None, chat_format("gemma", Tokenizer.load(tiny_decoder)), True, 9
    )


def ticket(toy: Served) -> Ticket:
    reply = ReplyText(toy.chat.tokenizer, stop_ids=toy.chat.stop_ids)
    return Ticket(Row((2, 70), Sampling(99), 0, reply.take), reply, lambda: None)


def grow(ticket: Ticket, token: int) -> None:
    """What the engine does in a step."""
    ticket.row.ids.append(token)
    ticket.row.logprobs.append(-float(len(ticket.row.ids)))
    if ticket.row.stopped(ticket.row.ids):
        ticket.end("stop")


def answers(toy: Served, ticket: Ticket, chat: bool) -> Answers:
    asked: dict[str, Any] = {"model": "toy"} | ({"messages": TALK, "logprobs": True} if chat else {"logprobs": 0})
    body = json.dumps(asked | ({} if chat else {"prompt": "a"})).encode()
    if chat:
        return ChatAnswers(toy, [ticket], parse(body, ChatBody))
    return CompletionAnswers(toy, [ticket], parse(body, CompletionBody))


def told(choice: dict[str, Any], chat: bool) -> list[tuple[str, float]]:
    """(text, log-probability) of the tokens in a choice."""
    if not choice["logprobs"]:
        return []
    if chat:
        return [(entry["token"], entry["logprob"]) for entry in choice["logprobs"]["content"]]
    return list(zip(choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"], strict=True))


@pytest.mark.parametrize("chat", [True, False])
def test_tokens_come_with_the_text_that_they_end_and_without_terminator(toy: Served, chat: bool) -> None:
    ids = [*toy.chat.tokenizer.encode("a猫🐈b", place="inside"), toy.chat.stop_ids[0]]
    growing = ticket(toy)
    stream = answers(toy, growing, chat)
    steps = []
    for token in ids:
        grow(growing, token)
        steps.append([told(chunk["choices"][0], chat) for chunk in stream.news()])
    part = "" if chat else "\ufffd"
    cat = [[(part, -2.0), (part, -3.0), ("猫", -4.0)]]
    catface = [[(part, -5.0), (part, -6.0), (part, -7.0), ("🐈", -8.0)]]
    assert steps == [[[("a", -1.0)]], [], [], cat, [], [], [], catface, [[("b", -9.0)]], [[]]]
    [choice] = answers(toy, growing, chat).whole()["choices"]
    assert told(choice, chat) == [token for step in steps for chunk in step for token in chunk]
    assert choice["finish_reason"] == "stop"


def test_bytes_that_never_become_a_character_are_told_in_the_end(toy: Served) -> None:
    growing = ticket(toy)
    stream = answers(toy, growing, chat=True)
    for token in toy.chat.tokenizer.encode("猫", place="inside")[:2]:
        grow(growing, token)
        assert list(stream.news()) == []
    growing.end("length")
    [last] = [chunk["choices"][0] for chunk in stream.news()]
    assert (last["delta"], last["finish_reason"]) == ({"content": "\ufffd"}, "length")
    assert [logprob for _, logprob in told(last, chat=True)] == [-1.0, -2.0]
    assert list(stream.news()) == []


def test_text_and_finish_that_come_together_are_one_chunk(toy: Served) -> None:
    growing = ticket(toy)
    stream = answers(toy, growing, chat=False)
    for token in (*toy.chat.tokenizer.encode("ab", place="inside"), toy.chat.stop_ids[0]):
        grow(growing, token)
    [chunk] = stream.news()
    assert (chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) == ("ab", "stop")
    assert stream.closing()["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}

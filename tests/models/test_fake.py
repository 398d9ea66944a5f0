"""The fake keeps the Generator's promises, so that what passes with it can pass with a model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from shinan.core.errors import ModelError
from shinan.core.example import assistant, user
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Generator, Question, Request, Sampling


def texts(fake: Generator, *requests: Request) -> list[str]:
    return [completion.text for completion in fake.generate(requests)]


def test_a_table_answers_prompts_and_last_messages() -> None:
    fake = FakeGenerator({"2 + 2?": "4", "And you?": "Well."})
    talk = Request(messages=(user("Hi"), assistant("Hi."), user("And you?")))
    assert texts(fake, Request(prompt="2 + 2?"), talk) == ["4", "Well."]
    assert [request.prompt for request in fake.requests] == ["2 + 2?", ""]


def test_a_prompt_that_the_table_lacks() -> None:
    with pytest.raises(ModelError, match=r"the fake has no reply to '2 \+ 3\?'\n  do this: did you mean '2 \+ 2\?'"):
        FakeGenerator({"2 + 2?": "4"}).generate([Request(prompt="2 + 3?")])


def test_a_function_sees_the_whole_request() -> None:
    fake = FakeGenerator(lambda request: f"{request.prompt}/{request.seed}", name="echo")
    assert texts(fake, Request(prompt="a", seed=7), Request(prompt="a", seed=8)) == ["a/7", "a/8"]
    assert fake.name == "echo"


def test_without_replies_it_repeats_the_prompt() -> None:
    assert texts(FakeGenerator(), Request(messages=(user("parrot me"),))) == ["parrot me"]


def test_prefill_is_part_of_the_reply_once() -> None:
    fake = FakeGenerator({"a": "Yes, it is.", "b": "it is."})
    assert texts(fake, Request(prompt="a", prefill="Yes,"), Request(prompt="b", prefill="Yes, ")) == (
        ["Yes, it is.", "Yes, it is."]
    )


def test_the_first_stop_string_ends_the_reply_and_is_cut() -> None:
    fake = FakeGenerator({"a": "one. two; three. four"})
    (reply,) = fake.generate([Request(prompt="a", stop=("; ", ". "))])
    assert (reply.text, reply.finish, len(reply.ids)) == ("one", "stop", 1)
    (reply,) = fake.generate([Request(prompt="a", prefill="one. ", stop=(". ",))])
    assert reply.text == "one. two; three"  # a stop string in the prefill is not one of the reply


def test_words_are_tokens() -> None:
    fake = FakeGenerator({"say two words": "one two three"})
    (cut,) = fake.generate([Request(prompt="say two words", sampling=Sampling(max_new_tokens=2))])
    assert (cut.text, cut.finish, len(cut.ids), cut.prompt_tokens) == ("one two", "length", 2, 3)
    (whole,) = fake.generate([Request(prompt="say two words", sampling=Sampling(max_new_tokens=3))])
    assert (whole.text, whole.finish) == ("one two three", "stop")
    assert whole.ids[:2] == cut.ids
    (empty,) = FakeGenerator({"": ""}).generate([Request()])
    assert (empty.text, empty.ids, empty.finish) == ("", (), "stop")


def test_it_fails_once_at_the_request_it_was_told() -> None:
    fake = FakeGenerator(fail_on=3)
    fake.generate([Request(prompt="a"), Request(prompt="b")])
    with pytest.raises(ModelError, match="the fake fails on request 3, as it was told to"):
        fake.generate([Request(prompt="c"), Request(prompt="d")])
    assert [request.prompt for request in fake.requests] == ["a", "b", "c"]
    assert texts(fake, Request(prompt="c")) == ["c"]
    with pytest.raises(KeyboardInterrupt):
        FakeGenerator(fail_on=1, error=KeyboardInterrupt()).generate([Request()])


def test_threads_are_counted_right() -> None:
    fake = FakeGenerator()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: fake.generate([Request(prompt=str(index))]), range(200)))
    assert sorted(int(request.prompt) for request in fake.requests) == list(range(200))


def test_each_completion_is_told_as_it_comes() -> None:
    told: list[tuple[int, str]] = []
    FakeGenerator({"a": "1 2", "b": "3"}).generate(
        [Request(prompt="a"), Request(prompt="b")], lambda index, reply: told.append((index, reply.text))
    )
    assert told == [(0, "1 2"), (1, "3")]


def test_it_finds_its_own_reply_likely_and_every_other_option_less_so() -> None:
    fake = FakeGenerator({"Is it?": "yes it is"})
    ((begun, whole, other),) = fake.score([Question(prompt="Is it?", options=("yes", "yes it is", "no"))])
    assert begun == (-0.1, 1, True)
    assert whole.logprob == pytest.approx(-0.3)
    assert (whole.tokens, whole.greedy) == (3, True)
    assert -2 <= other.logprob <= -1
    assert (other.tokens, other.greedy) == (1, False)
    assert fake.score([Question(prompt="Is it?", options=("no",))]) == [(other,)]
    with pytest.raises(ModelError, match="the fake has no reply to 'What\\?'"):
        fake.score([Question(prompt="What?", options=("a",))])

"""Our HTTP generator against our server: two ways to the same model, and the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shinan.core.example import Message, Part, assistant, system, user
from shinan.core.ledger import Ledger
from shinan.models.generator import Generator, Question, Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.open import open_generator
from shinan.serve.served import Served
from tests.serve.serving import served, serving

HAS = "logprobs+echo+prefill+top_k+max_completion_tokens"
TALKS = [
    (user("Name a colour."),),
    (system("Be kind. 猫"), user("Hello"), assistant("Hello."), user("Again, please.")),
    (Message("user", (Part("Add.", "instruction"), Part("2, 2", "input"))),),
]


@pytest.fixture(scope="module")
def model(tiny_decoder: Path) -> Served:
    return served(tiny_decoder)


@pytest.fixture(scope="module")
def local(model: Served) -> Generator:
    return LocalGenerator("tiny", model.model, model.chat)


@pytest.fixture(scope="module")
def remote(model: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    with serving(model) as server:
        ledger = Ledger(tmp_path_factory.mktemp("ledger"))
        yield open_generator(f"endpoint:tiny@{server.url}/v1#{HAS}", ledger=ledger)


@pytest.mark.promise4
def test_the_same_answers(local: Generator, remote: Generator) -> None:
    requests = [Request(talk, sampling=Sampling(n)) for talk in TALKS for n in (1, 20)]
    requests += [Request(talk, sampling=Sampling(20, 1.0, 0.9), seed=seed) for talk in TALKS for seed in (1, 2)]
    requests += [Request(TALKS[0], sampling=Sampling(20, 1.0, 1.0, 3), seed=3)]
    requests += [Request(TALKS[0], prefill="Blu", sampling=Sampling(12))]
    requests += [Request(prompt="Once upon", sampling=Sampling(20, 1.0), seed=4)]
    requests += [Request(prompt="Once ", prefill="upon", sampling=Sampling(20, 1.0), seed=4)]
    expected, found = local.generate(requests), remote.generate(requests)
    assert [reply.error for reply in found] == [""] * len(requests)
    assert [(reply.text, reply.finish) for reply in found] == [(reply.text, reply.finish) for reply in expected]
    assert len({reply.text for reply in expected}) > 8
    for ours, theirs in zip(expected, found, strict=True):
        assert (theirs.prompt_tokens, theirs.new_tokens) == (ours.prompt_tokens, ours.new_tokens)
        assert theirs.logprobs == pytest.approx(ours.logprobs[: len(theirs.logprobs)], abs=1e-4)
        assert len(theirs.logprobs) >= len(ours.logprobs) - 1  # a terminator is told by us alone


def test_the_same_stops(local: Generator, remote: Generator) -> None:
    drawn = Request(TALKS[0], sampling=Sampling(40, 1.0), seed=11)
    [free] = local.generate([drawn])
    stop = next(pair for i in range(5, 30) if (pair := free.text[i : i + 2]).isascii() and pair.isprintable())
    request = Request(TALKS[0], stop=(stop, "never"), sampling=Sampling(40, 1.0), seed=11)
    [ours], [theirs] = local.generate([request]), remote.generate([request])
    assert (theirs.text, theirs.finish, theirs.new_tokens) == (ours.text, "stop", ours.new_tokens)
    assert theirs.text == free.text[: free.text.index(stop)]


def test_the_same_likelihoods(local: Generator, remote: Generator) -> None:
    """Also where an option begins and ends with characters of several tokens, and after a prompt that does."""
    questions = [
        Question(prompt="The sky is", options=(" blue", " 猫", " a")),
        Question(prompt="猫", options=("は猫", "b", "é🐈")),
        Question(prompt="Hi", options=("\n", "!")),
    ]
    expected, found = local.score(questions), remote.score(questions)
    for ours, theirs in zip(sum(expected, ()), sum(found, ()), strict=True):
        assert theirs.logprob == pytest.approx(ours.logprob, abs=1e-3)
        assert (theirs.tokens, theirs.greedy) == (ours.tokens, ours.greedy)


def test_a_likely_option_is_known_as_greedy(local: Generator, remote: Generator) -> None:
    [reply] = local.generate([Request(prompt="Once", sampling=Sampling(1))])
    question = Question(prompt="Once", options=(reply.text, "x"))
    assert [like.greedy for like in remote.score([question])[0]] == [True, False]
    assert [like.greedy for like in local.score([question])[0]] == [True, False]


@pytest.mark.promise10
def test_a_request_that_cannot_be_served_fails_alone(remote: Generator) -> None:
    good = Request(TALKS[0], sampling=Sampling(4))
    long = Request(TALKS[0], sampling=Sampling(5000))
    turns = Request((user("a"), user("b")), sampling=Sampling(4))
    replies = remote.generate([good, long, turns, good])
    assert [reply.finish for reply in replies] == ["length", "failed", "failed", "length"]
    assert "the model has room for 2048" in replies[1].error
    assert "a turn of the assistant is due here" in replies[2].error

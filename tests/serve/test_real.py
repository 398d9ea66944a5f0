"""The local teacher: `starter:smollm2-135m-instruct` loads, chats and serves, on its real weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from shinan.core.example import user
from shinan.models.generator import Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.sources import resolve
from shinan.serve.run import Server
from shinan.serve.served import Served, load_served
from tests.serve.serving import complete, serving

NAME = "starter:smollm2-135m-instruct"
QUESTION = "What is the capital of France? Answer in one short sentence."
TALK: Any = [{"role": "user", "content": QUESTION}]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def served() -> Served:
    return load_served(resolve(NAME), alias=NAME)


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[Server]:
    with serving(served) as running:
        yield running


def test_it_answers_the_openai_client_in_a_stream(server: Server, served: Served) -> None:
    """As it answers alone; greedy tokens may part only at near-ties, and here none is near."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        chunks = client.chat.completions.create(
            model=NAME, messages=TALK, temperature=0, max_tokens=40, stream=True, stream_options={"include_usage": True}
        )
        *pieces, last = list(chunks)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert "Paris" in text
    assert pieces[-1].choices[0].finish_reason == "stop"
    local = LocalGenerator(served.name, served.model, served.chat)
    [alone] = local.generate([Request((user(QUESTION),), sampling=Sampling(40))])
    assert text == alone.text
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (alone.prompt_tokens, alone.new_tokens)


def test_it_knows_which_end_of_a_sentence_is_likely(server: Server) -> None:
    """By echo, as other programs score."""
    ends = [" Paris.", " banana."]
    reply = complete(
        server,
        model=NAME,
        prompt=[f"The capital of France is{end}" for end in ends],
        max_tokens=0,
        echo=True,
        logprobs=1,
    ).json
    scores = []
    for choice in reply["choices"]:
        told = choice["logprobs"]
        start = len("The capital of France is")
        scores.append(sum(p for p, at in zip(told["token_logprobs"], told["text_offset"], strict=True) if at >= start))
    assert scores[0] > scores[1] + 3


def test_its_card_names_its_licence(served: Served) -> None:
    assert served.card.licence == "Apache-2.0"
    assert all(served.notices().values())
    assert (served.chat.name, served.chats) == ("tokenizer", True)

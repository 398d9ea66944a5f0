"""Likelihoods of options: against each row by itself, through transformers' own forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shinan.core.example import Message, Part, user
from shinan.models import likelihood
from shinan.models.batch import Batch, batch_of
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle
from shinan.models.generator import Likelihood, Question
from shinan.models.likelihood import Continuation
from shinan.models.local import LocalGenerator
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer

SUM = (Message("user", (Part("Add.", "instruction"), Part("2, 2", "input"))),)
QUESTIONS = [
    Question((user("Is snow white?"),), options=("yes", "no", "yes, it is", "猫")),
    Question((user("Is snow black?"),), options=("no", "yes")),
    Question(SUM, options=("4", "5", "44")),
    Question(prompt="Once upon a ", options=("time", "dime", "time and a half")),
    Question(prompt="Once upon a\n", options=("time",)),
    Question(prompt="", options=("Once", "Twice")),
]


@pytest.fixture(scope="module")
def local(tiny_llama: Path) -> LocalGenerator:
    return LocalGenerator(
        "tiny", load_model(tiny_llama, torch.float32), chat_format("plain", Tokenizer.load(tiny_llama))
    )


def directly(model: Any, stem: list[int], option: list[int]) -> Likelihood:
    """One row by itself."""
    logits = model(torch.tensor([stem + option])).logits[0, len(stem) - 1 : -1].float().detach().log_softmax(-1)
    chosen = logits.gather(1, torch.tensor(option)[:, None])
    return Likelihood(float(chosen.sum()), len(option), logits.argmax(-1).tolist() == option)


def spelt(local: LocalGenerator, question: Question, option: str) -> Continuation:
    """Ids by hand: the byte tokenizer makes one token a byte, `plain` writes what stands in its docstring."""
    encode, bos = local.chat.tokenizer.encode, [local.chat.tokenizer.bos_id or 0]
    if question.messages is SUM:
        return Continuation(bos + encode("Add.\n\nInput: 2, 2\nOutput:"), encode(" " + option))
    if question.messages:
        return Continuation(bos + encode(question.messages[0].text + "\n\n"), encode(option))
    stem = question.prompt.rstrip()
    return Continuation(bos + encode(stem), encode(question.prompt[len(stem) :] + option))


@pytest.mark.promise9
@pytest.mark.parametrize("capacity", [1, 40, 4096])
def test_every_option_has_the_likelihood_of_its_row_alone(
    local: LocalGenerator, monkeypatch: pytest.MonkeyPatch, capacity: int
) -> None:
    monkeypatch.setattr(likelihood, "_CAPACITY", capacity)
    monkeypatch.setattr("shinan.models.head._STATES", 3)
    monkeypatch.setattr(type(local.chat), "_words_carry_blank", lambda self: True)  # as Gemma's tokenizer has it
    for question, found in zip(QUESTIONS, local.score(QUESTIONS), strict=True):
        for option, one in zip(question.options, found, strict=True):
            stem, ids, _ = spelt(local, question, option)
            exact = directly(local.model, list(stem), list(ids))
            assert one.logprob == pytest.approx(exact.logprob, abs=1e-4)
            assert (one.tokens, one.greedy) == (exact.tokens, exact.greedy)


@pytest.mark.promise9
def test_a_question_is_judged_alike_in_whatever_company(local: LocalGenerator) -> None:
    together = local.score(QUESTIONS)
    for question, found in zip(QUESTIONS, together, strict=True):
        (alone,) = local.score([question])
        assert [one.logprob for one in alone] == pytest.approx([one.logprob for one in found], abs=1e-5)
    turned = local.score(QUESTIONS[::-1])[::-1]
    for found, again in zip(together, turned, strict=True):
        assert [one.logprob for one in again] == pytest.approx([one.logprob for one in found], abs=1e-5)
        assert [one[1:] for one in again] == [one[1:] for one in found]


def test_what_the_model_would_write_is_greedy(local: LocalGenerator) -> None:
    stem = local.chat.render_prompt((user("a"),))
    logits = local.model(torch.tensor([stem])).logits[0, -1]
    options = [Continuation(stem, [int(token)]) for token in (logits.argmax(), logits.argmin())]
    (judged,) = likelihood.likelihoods(Decoder(local.model), [options])
    assert [one.greedy for one in judged] == [True, False]


def test_a_stem_is_computed_once(local: LocalGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def recorded(bundles: Sequence[Bundle], *rest: Any) -> Batch:
        made = batch_of(bundles, *rest)
        sizes.append(made.ids.shape[1])
        return made

    monkeypatch.setattr("shinan.models.decoder.batch_of", recorded)
    local.score([Question(prompt="a" * 50, options=tuple("bcdefgh"))])
    assert sizes == [1 + 50 + 7]  # with bos


def test_a_token_that_spans_prompt_and_option_is_the_options(local: LocalGenerator) -> None:
    class Pairs(Tokenizer):
        """Two letters a token."""

        def encode(self, text: str, *, place: Any = "start") -> list[int]:
            return [sum(text[i : i + 2].encode()) for i in range(0, len(text), 2)]

    tokenizer = Pairs(*local.chat.tokenizer.__reduce__()[1])
    paired = replace(local, chat=replace(local.chat, tokenizer=tokenizer))
    bos = tokenizer.bos_id
    stem, option, _ = paired._continuation(Question(prompt="abc"), "d")
    assert (list(stem), list(option)) == ([bos, sum(b"ab")], [sum(b"cd")])


@pytest.mark.slow
def test_a_real_model_knows_what_is_likely() -> None:
    folder = resolve("starter:gemma-3-270m")
    model = load_model(folder, torch.bfloat16)
    local = LocalGenerator("gemma", model, chat_format("plain", Tokenizer.load(folder)))
    questions = [
        Question(prompt="The capital of France is", options=(" Paris", " Rome", " purple")),
        Question(prompt="The capital of Italy is ", options=("Rome", "Paris", "purple")),
        Question(prompt="Two plus two equals", options=(" four", " rain")),
    ]
    judged = local.score(questions)
    assert [max(range(len(found)), key=lambda i: found[i].logprob) for found in judged] == [0, 0, 0]
    tokenizer = local.chat.tokenizer
    for question, found in zip(questions, judged, strict=True):
        for option, one in zip(question.options, found, strict=True):
            whole = [tokenizer.bos_id or 0, *tokenizer.encode(question.prompt + option)]
            stem = [tokenizer.bos_id or 0, *tokenizer.encode(question.prompt.rstrip())]
            assert whole[: len(stem)] == stem
            exact = directly(model, stem, whole[len(stem) :])
            assert one.tokens == exact.tokens
            assert one.logprob == pytest.approx(exact.logprob, abs=0.25)  # bf16 rounds logits of about 20 to 1/8

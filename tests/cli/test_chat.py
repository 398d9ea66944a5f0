from __future__ import annotations

from pathlib import Path

import torch

from shinan.core.example import user
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.generator import Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.precision import probe_dtype
from shinan.models.tokenizer import Tokenizer
from shinan.report.wording import printable
from tests.cli.conftest import Shinan


def test_questions_come_in_by_line_and_answers_go_out(mine: Path, shinan: Shinan) -> None:
    """The answer is the one that evaluation would get: same format, same prompt, same decoding."""
    best = mine / "runs/mini/checkpoints/best"
    model = load_model(best, probe_dtype(torch.device("cpu")))
    chat = LocalGenerator("x", model, chat_format("gemma", Tokenizer.load(best)))
    [reply] = chat.generate([Request((user("Write the number 5."),), sampling=Sampling(9))])
    done = shinan("chat", "runs/mini", "--max-new-tokens", "9", stdin="Write the number 5.\n\n/exit\nnot asked\n")
    assert (done.code, done.out) == (0, printable(reply.text.strip()) + "\n")
    assert ("cut after 9 tokens" in done.err) == (reply.finish == "length")


def test_draws_derive_from_the_seed(mine: Path, shinan: Shinan) -> None:
    def answer(seed: int) -> str:
        options = ("--max-new-tokens", "12", "--temperature", "1.5", "--seed", str(seed))
        return shinan("chat", "runs/mini", *options, stdin="Hi\n").out

    assert answer(1) == answer(1) != answer(2)


def test_a_base_model_is_refused_unless_a_format_is_named(place: Path, shinan: Shinan) -> None:
    refused = shinan("chat", "tiny:decoder", stdin="Hi\n")
    assert refused.code == 1
    assert "tiny-decoder is a base model" in refused.err
    assert "--format alpaca" in refused.err
    assert shinan("chat", "tiny:decoder", "--format", "alpaca", "--max-new-tokens", "2", stdin="Hi\n").code == 0


def test_a_conversation_too_long_for_the_model_is_an_error(mine: Path, shinan: Shinan) -> None:
    """The tiny model has room for 2048 tokens."""
    done = shinan("chat", "runs/mini", "--max-new-tokens", "2040", stdin="Hi\n")
    assert done.code == 1
    assert "the model has room for 2048\n  do this: begin a new conversation with /reset" in done.err

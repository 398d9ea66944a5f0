"""What goes with every method: noise on embeddings, text beside the rows, the loss by turn and by tag."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shinan.core.errors import ConfigError, DataError
from shinan.core.example import Example, Provenance, assistant, user
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.decoder import Decoder
from shinan.models.forest import TokenRow, grow, lengths
from shinan.models.tokenizer import Tokenizer
from shinan.train.audit import audit
from shinan.train.engine import Places, fit
from shinan.train.facts import ModelFacts
from shinan.train.masters import Masters
from shinan.train.methods import wrap
from shinan.train.replay import Replay, text_rows
from shinan.train.rows import tokenise
from shinan.train.settings import PromptSettings, TuneSettings
from shinan.train.sft import sft
from shinan.train.step import add_gradients
from tests.models.families import Gradients, apart, assert_same, branching, gradients, make, padded_loss
from tests.train.runs import SETTINGS, token_rows

CPU = torch.device("cpu")


def _states_in(model: Any, rows: list[TokenRow], noise: float) -> tuple[Tensor, Any]:
    """What the embeddings of a forest are, and its batch."""
    decoder = Decoder(model, noise=noise)
    batch = decoder.batch([(row,) for row in rows])
    return decoder._embed(batch)[0], batch


def test_noise_is_that_of_the_paper_for_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithm 1: uniform in (-1, 1), times alpha / sqrt(L d), L the row's own length."""
    rows = apart()
    model = make("gemma3_text").train()
    drawn = torch.rand(1, sum(len(row.ids) for row in rows), 32, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(torch, "rand", lambda shape, device: drawn.clone())
    plain, _ = _states_in(model, rows, 0.0)
    noisy, batch = _states_in(model, rows, 5.0)
    start = 0
    for row in sorted(rows, key=lambda row: row.ids):  # as a forest lays them out
        part = slice(start, start + len(row.ids))
        assert batch.ids[0, part].tolist() == list(row.ids)
        expected = (2 * drawn[0, part] - 1) * 5.0 / (len(row.ids) * 32) ** 0.5
        torch.testing.assert_close(noisy[part] - plain[part], expected, rtol=1e-4, atol=1e-6)
        start += len(row.ids)


def test_a_shared_beginning_is_as_long_as_its_longest_row() -> None:
    rows = branching()
    forest = grow(rows)
    found = lengths(forest)
    for place, (depth, end) in enumerate(zip(forest.depths, forest.ends, strict=True)):
        below = forest.depths[place:end].max() + 1
        through = [len(row.ids) for row in rows if len(row.ids) > depth and row.ids[depth] == forest.ids[place]]
        assert found[place] == below
        assert found[place] in through


def test_no_noise_but_in_training_nor_on_virtual_tokens() -> None:
    model = make("llama")
    rows = apart()
    assert torch.equal(_states_in(model.eval(), rows, 9.0)[0], _states_in(model, rows, 0.0)[0])
    tuned = wrap(model, TuneSettings(method="prompt", prompt=PromptSettings(tokens=3)), 0).train()
    plain, noisy = (_states_in(tuned, rows, noise)[0] for noise in (0.0, 9.0))
    assert torch.equal(plain[:3], noisy[:3])
    assert not torch.isclose(plain[3:], noisy[3:]).any(1).all()
    lone = [TokenRow((7, 8), (False, True), 1.0, "")]
    virtual = (_states_in(tuned, lone, 9.0)[0] - _states_in(tuned, lone, 0.0)[0]).detach()
    assert float(virtual.abs().max()) <= 9.0 / (2 * 32) ** 0.5 + 1e-5  # its own two tokens are its length


def _trained(folder: Path, tiny: Path, replay: Replay | None, **changes: Any) -> tuple[list[dict[str, Any]], Any]:
    folder.mkdir()
    model: Any = load_model(tiny, torch.float32)
    settings = SETTINGS.model_copy(update={"epochs": 1.0, **changes})
    places = Places(folder / "states", folder / "metrics.jsonl", folder / "plan.json")
    fit(model, sft(), token_rows(tiny), settings, key="k", seed=0, places=places, replay=replay)
    lines = [json.loads(line) for line in places.metrics.read_text("utf-8").splitlines()]
    return lines, model


def test_noise_changes_training_and_not_validation(tiny_decoder: Path, tmp_path: Path) -> None:
    plain, _ = _trained(tmp_path / "plain", tiny_decoder, None)
    noisy, _ = _trained(tmp_path / "noisy", tiny_decoder, None, neftune=15.0)
    assert plain[0]["validation_loss"] == noisy[0]["validation_loss"]  # before the first step
    assert plain[1]["loss"] != noisy[1]["loss"]


# ---- pre-training text ----


def _texts(*texts: str) -> list[Example]:
    return [Example((assistant(text),), provenance=Provenance("texts", n)) for n, text in enumerate(texts)]


def test_the_whole_text_is_trained(tiny_decoder: Path) -> None:
    tokenizer = Tokenizer.load(tiny_decoder)
    long, pair = "abc" * 30, Example((user("ask"), assistant("tell")), weight=2.0)
    rows = [row for (row,) in text_rows([*_texts("hello", long), pair], tokenizer, 40)]
    assert [len(row.ids) for row in rows] == [7, 40, 40, 14, 11]
    assert all(row.ids[0] == tokenizer.bos_id for row in rows)
    assert all(row.mask == (False, *[True] * (len(row.ids) - 1)) for row in rows)
    assert [row.ids[-1] == tokenizer.eos_id for row in rows] == [True, False, False, True, True]
    assert "".join(tokenizer.decode(row.ids[1:], place="inside") for row in rows[1:4]) == long
    assert tokenizer.decode(rows[4].ids[1:], place="inside") == "ask\n\ntell"
    assert rows[4].weight == 2.0
    with pytest.raises(DataError, match="there is no text to mix in"):
        text_rows(_texts("  "), tokenizer, 40)


def test_each_text_comes_once_before_any_comes_again() -> None:
    texts = [(row,) for row in apart()]
    replay = Replay(texts, 1.0, 2, seed=4)
    drawn = [bundle for number in range(10) for bundle in replay.step(number)]
    passes = [drawn[start : start + 5] for start in range(0, 20, 5)]
    for one in passes:
        assert sorted(row.ids for (row,) in one) == sorted(row.ids for (row,) in texts)
    assert len({tuple(row.ids for (row,) in one) for one in passes}) > 1
    assert replay.step(7) == Replay(texts, 1.0, 2, seed=4).step(7)


@pytest.mark.promise9
@pytest.mark.parametrize("gamma", [0.5, 27.8])
def test_its_gradient_is_added_gamma_times(gamma: float) -> None:
    """Against padded batches and autograd, in several forests."""
    rows = branching()
    texts = [(TokenRow(row.ids, (False, *[True] * (len(row.ids) - 1)), 1.0, row.row),) for row in apart()]
    replay = Replay(texts, gamma, len(texts), 0)
    model = make("llama")
    masters = Masters(model)
    with Decoder(model, sinks=masters.sinks) as decoder:
        summed = add_gradients(decoder, sft(), [(row,) for row in rows], 40, masters, replay.part(0))
    found: Gradients = {key: weight.grad for key, weight in masters.weights.items() if weight.grad is not None}
    reference = make("llama")
    expected = padded_loss(reference, rows) + gamma * padded_loss(reference, [row for (row,) in texts])
    assert_same((summed.loss + summed.beside, found), gradients(reference, expected))


@pytest.mark.promise3
def test_a_run_with_text_beside_it(tiny_decoder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tiny_decoder)
    texts = text_rows(_texts("one fish", "two fish", "red fish, blue fish"), tokenizer, 64)
    plain, _ = _trained(tmp_path / "plain", tiny_decoder, None)
    mixed, model = _trained(tmp_path / "mixed", tiny_decoder, Replay(texts, 1.0, 2, 0))
    first, other = plain[1], mixed[1]
    assert other["loss"] == first["loss"]  # of the rows alone
    assert other["computed_tokens"] > first["computed_tokens"]
    (row,) = next(bundle for bundle in texts if bundle in Replay(texts, 1.0, 2, 0).step(0))
    losses = [line["replay_loss"] for line in mixed if "loss" in line]
    assert losses[-1] < losses[0]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1]
    assert float(F.cross_entropy(logits, torch.tensor(row.ids[1:]))) < losses[0]


# ---- which turns, and how much ----

TALK = Example(
    (user("a"), assistant("one"), user("b"), assistant("two")), tags={"kind": "talk"}, provenance=Provenance("t", 0)
)
LONE = Example((user("a"), assistant("three")), tags={"kind": "lone", "lang": "en"}, weight=0.5)


def test_the_last_turn_alone(tiny_decoder: Path) -> None:
    """Of the turns that would be trained; the audit knows it, and would not take the one for the other."""
    chat = chat_format("gemma", Tokenizer.load(tiny_decoder))
    untrained = replace(TALK, messages=(*TALK.messages[:3], replace(TALK.messages[3], train=False)))
    examples = [TALK, LONE, untrained]
    both, last = (tokenise(examples, chat, 500, loss=loss)[0] for loss in ("all", "last"))
    texts = [
        [chat.tokenizer.decode([i for i, on in zip(row.ids, row.mask, strict=True) if on]) for (row,) in bundles]
        for bundles in (both, last)
    ]
    assert texts == [["onetwo", "three", "one"], ["two", "three", "one"]]
    assert [row.ids for (row,) in both] == [row.ids for (row,) in last]
    facts = ModelFacts(264)
    kinds = {loss: {f.check for f in audit(examples, last, [], chat, facts, loss=loss)} for loss in ("all", "last")}
    assert kinds == {"all": {"turns"}, "last": set()}


def test_weights_by_tag(tiny_decoder: Path) -> None:
    chat = chat_format("gemma", Tokenizer.load(tiny_decoder))
    weights = {"kind": {"talk": 3.0}, "lang": {"en": 4.0}}
    bundles, _ = tokenise([TALK, LONE], chat, 500, weights=weights)
    assert [row.weight for (row,) in bundles] == [3.0, 2.0]
    with pytest.raises(ConfigError) as caught:
        tokenise([TALK, LONE], chat, 500, weights={"kinds": {"talk": 1.0}, "kind": {"tlak": 1.0, "x": 2.0}})
    assert [problem.where for problem in caught.value.problems] == [
        "tune.weights.kinds",
        "tune.weights.kind.tlak",
        "tune.weights.kind.x",
    ]
    assert "did you mean 'kind'?" in str(caught.value)
    assert "did you mean 'talk'?" in str(caught.value)

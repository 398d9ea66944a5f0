"""DPO against equation 7 of its paper, written out with the models' own logits; and the pairs it is made from."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shinan.core.errors import DataError
from shinan.core.example import Example, Provenance, assistant, system, user
from shinan.models import tiny
from shinan.models.chat import chat_format
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle, TokenRow
from shinan.models.tokenizer import Tokenizer
from shinan.train import lora
from shinan.train.dpo import dpo
from shinan.train.engine import Places, fit
from shinan.train.masters import Masters
from shinan.train.rows import TooLong, tokenise
from shinan.train.settings import LoraSettings, TuneSettings
from shinan.train.step import add_gradients, mean_loss
from tests.models.families import Gradients, assert_same, gradients, make, nudge, pairs


def log_likelihood(model: Any, row: TokenRow) -> Tensor:
    """Sum of log p over the trained tokens of one row."""
    log_probs = model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return torch.stack([log_probs[i - 1, row.ids[i]] for i in range(len(row.ids)) if row.mask[i]]).sum()


def written_out(model: Any, untuned: Any, bundles: Sequence[Bundle], beta: float) -> Tensor:
    """Equation 7: -log sigmoid(beta log(pi/ref)(chosen) - beta log(pi/ref)(rejected)), the mean over weighted pairs."""
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for chosen, rejected in bundles:
        with torch.no_grad():
            reference = [log_likelihood(untuned, row) for row in (chosen, rejected)]
        gain = [log_likelihood(model, row) - was for row, was in zip((chosen, rejected), reference, strict=True)]
        total = total - chosen.weight * torch.sigmoid(beta * gain[0] - beta * gain[1]).log()
        weights += chosen.weight
    return total / weights


def _grads(masters: Masters) -> Gradients:
    return {name: weight.grad for name, weight in masters.weights.items() if weight.grad is not None}


@pytest.mark.promise9
@pytest.mark.parametrize(
    ("family", "beta", "capacity"),
    [("gemma3_text", 0.1, 60), ("gemma3_text", 1.0, 10_000), ("llama", 0.1, 10_000), ("llama", 1.0, 1)],
)
def test_loss_and_gradients_are_those_of_the_paper(family: str, beta: float, capacity: int) -> None:
    model, bundles = make(family), pairs()
    untuned, objective, masters = copy.deepcopy(model), dpo(beta=beta), Masters(model)
    with Decoder(model, sinks=masters.sinks) as decoder:
        objective.prepare(decoder, bundles, capacity)
        nudge(model)
        found = add_gradients(decoder, objective, bundles, capacity, masters)
        again = mean_loss(decoder, objective, bundles, capacity)
    exact = gradients(model, written_out(model, untuned, bundles, beta))
    each = [written_out(model, untuned, [bundle], beta).item() for bundle in bundles]
    assert max(abs(loss - math.log(2)) for loss in each) > 0.02  # the models do differ
    assert_same((found.loss, _grads(masters)), exact)
    assert again == pytest.approx(exact[0], rel=1e-5)


def test_an_untuned_model_has_the_loss_of_a_coin() -> None:
    model, bundles, objective = make("llama"), pairs(), dpo()
    with Decoder(model) as decoder:
        objective.prepare(decoder, bundles, 60)
        assert mean_loss(decoder, objective, bundles, 60) == pytest.approx(math.log(2), rel=1e-6)
        assert mean_loss(decoder, objective, bundles[:2], 10_000) == pytest.approx(math.log(2), rel=1e-6)


def test_adapters_start_at_the_reference_and_take_all_gradients() -> None:
    base, bundles, objective = make("llama"), pairs(), dpo(beta=0.5)
    untuned, model = copy.deepcopy(base), lora.wrap(base, LoraSettings(rank=2, alpha=1.0), 0)
    masters = Masters(model)
    with Decoder(model, sinks=masters.sinks) as decoder:
        objective.prepare(decoder, bundles, 10_000)
        nudge(model)
        found = add_gradients(decoder, objective, bundles, 10_000, masters)
    exact = gradients(model, written_out(model, untuned, bundles, 0.5))
    assert_same((found.loss, _grads(masters)), exact)


def test_pairs_count_by_their_weight() -> None:
    model, bundles, objective = make("llama"), pairs()[:2], dpo(beta=1.0)
    assert objective.count(bundles) == 0.5 + 1.5
    with Decoder(model) as decoder:
        objective.prepare(decoder, bundles, 10_000)
        nudge(model)
        each = [mean_loss(decoder, objective, [bundle], 10_000) for bundle in bundles]
        both = mean_loss(decoder, objective, bundles, 10_000)
    assert both == pytest.approx((0.5 * each[0] + 1.5 * each[1]) / 2, rel=1e-5)


def test_the_reference_is_the_model_without_its_dropout(tmp_path: Path) -> None:
    model = make("gpt2", attn_pdrop=0.5, embd_pdrop=0.5, resid_pdrop=0.5)
    settings = TuneSettings(
        method="full", objective="dpo", epochs=0.1, batch_size=4, validation=0.5, compile="off", checkpoint="off"
    )
    places = Places(tmp_path / "states", tmp_path / "metrics.jsonl", tmp_path / "plan.json")
    fit(model, dpo(), pairs(), settings, key="toy", seed=0, places=places)
    first = json.loads(places.metrics.read_text("utf-8").splitlines()[0])
    assert first["validation_loss"] == pytest.approx(math.log(2), rel=1e-5)


TOKENIZER = Tokenizer(tiny.byte_tokenizer(), {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"})
CHAT = chat_format("gemma", TOKENIZER)


def _pair(asked: str, chosen: str, rejected: str, row: int = 0, weight: float = 1.0) -> Example:
    messages = (user(asked), assistant(chosen))
    return Example(messages, (assistant(rejected),), weight=weight, provenance=Provenance("f", row))


def _texts(row: TokenRow) -> tuple[str, str]:
    """The whole row, and what of it is trained."""
    trained = [token for token, on in zip(row.ids, row.mask, strict=True) if on]
    return TOKENIZER.decode(row.ids, place="inside"), TOKENIZER.decode(trained, place="inside")


def test_a_pair_is_two_rows_of_which_the_last_turn_is_trained() -> None:
    turns = (user("a"), assistant("b"), user("c"), assistant("good", train=False))
    example = Example(turns, (assistant("bad", train=False),), weight=0.5, task="t", provenance=Provenance("f", 3))
    [(chosen, rejected)], dropped = tokenise([example], CHAT, 200, pairs=True)
    assert not dropped
    before = CHAT.render((*turns[:3], assistant("good"))).mask.index(True)
    assert chosen.ids != rejected.ids
    assert _texts(chosen)[1].startswith("good")
    assert _texts(rejected)[1].startswith("bad")
    assert "b" not in _texts(chosen)[1].removeprefix("good")
    start = chosen.mask.index(True)
    assert start == rejected.mask.index(True) >= before
    assert chosen.ids[:start] == rejected.ids[:start]
    end = TOKENIZER.special_id("<end_of_turn>")
    assert [[t for t, on in zip(r.ids, r.mask, strict=True) if on][-1] for r in (chosen, rejected)] == [end, end]
    assert {(row.weight, row.row, row.task) for row in (chosen, rejected)} == {(0.5, "f#3", "t")}


def test_what_is_not_a_pair_is_dropped_with_the_reason() -> None:
    alone = "it has no rejected reply beside the chosen one"
    examples = [
        _pair("q", "good", "bad", 0),
        Example((user("q"), assistant("good")), provenance=Provenance("f", 1)),
        Example((user("q"),), (assistant("bad"),), provenance=Provenance("f", 2)),
        _pair("q", "same", "same", 3),
        _pair("q" * 200, "good", "bad", 4),
        _pair("q", "good", "b" * 200, 5),
        Example((system("s"), system("s"), assistant("a")), (assistant("b"),), provenance=Provenance("f", 6)),
    ]
    bundles, dropped = tokenise(examples, CHAT, 100, pairs=True)
    assert [bundle[0].row for bundle in bundles] == ["f#0"]
    found = {example.row: (verdict.reason, verdict.detail) for example, verdict in dropped}
    assert found.pop("f#6")[0] == "not_renderable"
    sizes = {row: detail for row, (reason, detail) in found.items() if reason == "too_long"}
    assert sizes.keys() == {"f#4", "f#5"}
    assert all(detail.endswith(" > 100 tokens") for detail in sizes.values())
    assert {row: why for row, why in found.items() if row not in sizes} == {
        "f#1": ("no_pair", alone),
        "f#2": ("no_pair", alone),
        "f#3": ("no_pair", "chosen and rejected are the same"),
    }


def test_without_pairs_a_rejected_reply_is_not_looked_at() -> None:
    examples = [_pair("q", "same", "same"), _pair("q", "good", "b" * 500)]
    bundles, dropped = tokenise(examples, CHAT, 60)
    assert [len(bundle) for bundle in bundles] == [1, 1]
    assert not dropped


@pytest.mark.promise10
def test_a_pair_that_is_too_long_can_be_refused() -> None:
    with pytest.raises(DataError) as caught:
        tokenise([_pair("q", "good", "b" * 200, 7)], CHAT, 100, too_long="refuse", pairs=True)
    sentence = str(caught.value)
    assert "f#7" in sentence
    assert "a row is too long: " in sentence
    assert "> 100 tokens\n  do this: raise tune.max_tokens, or set tune.too_long to drop or truncate" in sentence


def test_truncating_keeps_bos_both_answers_and_the_end_of_the_prompt() -> None:
    example = _pair("first words" + "." * 100 + "last words", "good", "a longer bad one")
    [whole], _ = tokenise([example], CHAT, 1000, pairs=True)
    [cut], dropped = tokenise([example], CHAT, 100, too_long="truncate", pairs=True)
    assert not dropped
    assert max(len(row.ids) for row in cut) == 100
    assert {row.ids[0] for row in cut} == {TOKENIZER.bos_id}
    for short, full in zip(cut, whole, strict=True):
        assert _texts(short)[1] == _texts(full)[1]
        assert len(full.ids) - len(short.ids) == max(len(row.ids) for row in whole) - 100
        assert full.ids[-len(short.ids) + 1 :] == short.ids[1:]
        assert full.mask[-len(short.mask) + 1 :] == short.mask[1:]
    start = cut[0].mask.index(True)
    assert cut[0].ids[:start] == cut[1].ids[:start]


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_an_answer_is_never_cut(too_long: TooLong) -> None:
    example = _pair("q", "good", "b" * 200)
    bundles, [(_, verdict)] = tokenise([example], CHAT, 100, too_long=too_long, pairs=True)
    assert not bundles
    assert verdict.reason == "too_long"
    if too_long == "truncate":
        [(chosen, rejected)], _ = tokenise([example], CHAT, 1000, pairs=True)
        context = chosen.mask.index(True) - 1
        assert verdict.detail == f"{len(rejected.ids)} tokens, of which only {context} are context that could be cut"

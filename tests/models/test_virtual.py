"""Virtual tokens at the root of a forest: the loss, every gradient and every token are those of peft on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PrefixTuningConfig, PromptTuningConfig
from torch import Tensor

from shinan.models.attention import Backend
from shinan.models.decode import Row
from shinan.models.decoder import Decoder
from shinan.models.family import decode
from shinan.models.forest import TokenRow, computed, pack
from shinan.models.generator import Sampling
from shinan.models.likelihood import Continuation, likelihoods
from shinan.train.masters import Masters
from shinan.train.methods import wrap
from shinan.train.settings import PrefixSettings, PromptSettings, TuneSettings
from shinan.train.sft import sft
from shinan.train.step import add_gradients
from tests.models.families import Gradients, assert_same, branching, gradients, make

FAMILIES = ("gemma3_text", "gpt2", "llama")  # with windows of 6; with learned positions; neither
SETTINGS = {
    "prompt": TuneSettings(method="prompt", prompt=PromptSettings(tokens=4)),
    "prefix": TuneSettings(method="prefix", prefix=PrefixSettings(tokens=4)),
    "prefix beyond the window": TuneSettings(method="prefix", prefix=PrefixSettings(tokens=9)),
    "prefix by a network": TuneSettings(method="prefix", prefix=PrefixSettings(tokens=4, projection=7)),
}


CASES: list[tuple[int, Backend]] = [(40, "tiles"), (10_000, "tiles"), (10_000, "dense")]


def wrapped(family: str, name: str) -> Any:
    """A model with virtual tokens that matter."""
    # GPT-2 has as many keys as queries; the configs of `families` say something else, and peft believes them.
    own: dict[str, Any] = {"num_key_value_heads": 4} if family == "gpt2" else {}
    model = wrap(make(family, **own), SETTINGS[name], 3)
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.copy_(torch.randn(weight.shape, generator=source))
    return model


def reference_logits(model: Any, rows: Sequence[TokenRow]) -> Tensor:
    """[rows, width, v] logits of the rows' own tokens: peft's forward pass on a batch padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    seen = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    logits: Tensor = model(input_ids=ids, attention_mask=seen).logits
    return logits[:, -width:]  # prompt tuning returns those of its virtual tokens, too


def reference(model: Any, rows: Sequence[TokenRow]) -> tuple[float, Gradients]:
    """The weighted mean loss and its gradients by peft and autograd."""
    logits = reference_logits(model, rows)
    losses, weights = [], []
    for row, own in zip(rows, logits, strict=True):
        for place in range(1, len(row.ids)):
            if row.mask[place]:
                losses.append(F.cross_entropy(own[place - 1], torch.tensor(row.ids[place])))
                weights.append(row.weight)
    return gradients(model, (torch.stack(losses) * torch.tensor(weights)).sum() / sum(weights))


@pytest.mark.promise9
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_peft(family: str, name: str) -> None:
    rows = branching()
    bundles = [(row,) for row in rows]
    expected = reference(wrapped(family, name), rows)
    for capacity, backend in CASES:
        model = wrapped(family, name)
        masters = Masters(model)
        with Decoder(model, backend, masters.sinks) as decoder:
            summed = add_gradients(decoder, sft(), bundles, capacity, masters)
        found = {key: weight.grad for key, weight in masters.weights.items() if weight.grad is not None}
        assert_same((summed.loss, found), expected)
        tokens = len(decoder.virtual.ids)  # once in each forest
        forests = pack(bundles, capacity)
        shared = sum(computed([bundles[i] for i in inside]) for inside in forests)
        assert summed.computed == shared + tokens * len(forests)


@pytest.mark.promise9
@pytest.mark.parametrize("name", ["prompt", "prefix by a network"])
def test_activations_computed_again(name: str) -> None:
    rows = branching()
    model = wrapped("gemma3_text", name)
    masters = Masters(model)
    model.train()
    with Decoder(model, "tiles", masters.sinks) as decoder:
        decoder.arrange(checkpoint=True, compiled=False)
        summed = add_gradients(decoder, sft(), [(row,) for row in rows], 10_000, masters)
    found = {key: weight.grad for key, weight in masters.weights.items() if weight.grad is not None}
    assert_same((summed.loss, found), reference(wrapped("gemma3_text", name), rows))


@pytest.mark.promise4
@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # for one row, they are what peft makes itself
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_peft(family: str, name: str) -> None:
    """Several rows at once, some of which share a beginning and wait for a slot; each alone by peft."""
    model = wrapped(family, name)
    shared = tuple(range(5, 25))
    prompts = [(*shared, 30), (*shared, 31, 32), shared[:15], (7,), (9, 8)]
    rows = [Row(prompt, Sampling(max_new_tokens=9), 0, lambda ids: False) for prompt in prompts]
    decode(model, rows, slots=3)
    for row in rows:
        out = _generate(model, row.prompt, 9)
        assert row.ids == out, row.prompt


def _generate(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    ids = torch.tensor([list(prompt)])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, -count:].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_likelihoods_are_those_of_peft(name: str) -> None:
    model = wrapped("llama", name)
    stem, options = (5, 6, 7, 8), ((9, 10), (11,))
    [found] = likelihoods(Decoder(model), [[Continuation(stem, option) for option in options]])
    for option, judged in zip(options, found, strict=True):
        row = TokenRow(stem + option, (False,) * (len(stem) + len(option)), 1.0, "")
        with torch.no_grad():
            log_probs = reference_logits(model, [row])[0].log_softmax(-1)
        places = range(len(stem) - 1, len(row.ids) - 1)
        expected = sum(float(log_probs[place, token]) for place, token in zip(places, option, strict=True))
        assert judged.logprob == pytest.approx(expected, rel=1e-5)


def test_the_configs_are_pefts_own() -> None:
    """What is saved is an adapter of peft's, which others can load."""
    prompt, prefix = (wrapped("llama", name).active_peft_config for name in ("prompt", "prefix"))
    assert isinstance(prompt, PromptTuningConfig)
    assert isinstance(prefix, PrefixTuningConfig)
    assert prefix.token_dim == 2 * 8  # two groups of keys and values, 8 wide

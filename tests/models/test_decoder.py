"""Every supported family over forests: its loss and every gradient are those of the padded batch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from shinan.core.errors import ModelError
from shinan.models import forest as forest_module
from shinan.models.attention import NAME, Backend, Layout
from shinan.models.batch import batch_of
from shinan.models.checkpoint import ARCHITECTURES
from shinan.models.decoder import Decoder
from shinan.models.forest import Bundle, TokenRow, pack
from tests.models.families import FAMILIES, Gradients, apart, assert_same, branching, make, padded_gradients

CPU = torch.device("cpu")
_INEXACT = (
    "{}'s attention is not one that forest batches compute exactly ({})\n"
    "  do this: use a model of another family, or switch the setting off in its config.json"
)
every_family = pytest.mark.parametrize("family", FAMILIES)
every_backend = pytest.mark.parametrize("backend", ["dense", "tiles"])


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a forest of a hundred tokens has many."""
    monkeypatch.setattr(forest_module, "_ROWS", 8)
    monkeypatch.setattr(forest_module, "_CALL", 32)


@functools.cache
def padded(family: str, rows: str) -> tuple[float, Gradients]:
    """The reference, once for all layouts."""
    return padded_gradients(make(family), {"branching": branching, "apart": apart}[rows]())


def in_forests(
    model: Any, rows: Sequence[TokenRow], backend: Backend | None = None, capacity: int = 10_000, **arranged: bool
) -> tuple[float, Gradients]:
    """Mean loss and its gradients over forests of at most `capacity` tokens, those of the large matrices in place."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    large = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for weight in trained.values():
        weight.grad = torch.zeros_like(weight)
    count = sum(row.weight * row.labelled for row in rows)
    bundles: list[Bundle] = [(row,) for row in rows]
    loss = 0.0
    with Decoder(model, backend, {weight: weight.grad for weight in large if weight.requires_grad}) as decoder:
        if arranged:
            decoder.arrange(**arranged)
        for inside in pack(bundles, capacity):
            batch = batch_of([bundles[index] for index in inside], CPU, decoder.backend)
            total, _ = decoder.nll(batch, batch.weights / count)
            total.backward()  # type: ignore[no-untyped-call]
            loss += total.item()
    return loss, {name: weight.grad for name, weight in trained.items()}


def test_every_supported_family_is_here() -> None:
    assert {name.partition("+")[0] for name in FAMILIES} == set(ARCHITECTURES)


@pytest.mark.promise9
@every_family
@every_backend
def test_one_forest(family: str, backend: Backend) -> None:
    assert_same(in_forests(make(family), branching(), backend), padded(family, "branching"))


@pytest.mark.promise9
@every_family
@every_backend
def test_packed_rows(family: str, backend: Backend) -> None:
    assert_same(in_forests(make(family), apart(), backend), padded(family, "apart"))


@pytest.mark.promise9
@every_family
@pytest.mark.parametrize("capacity", [1, 40])
def test_accumulated_over_forests(family: str, capacity: int) -> None:
    assert_same(in_forests(make(family), branching(), capacity=capacity), padded(family, "branching"))


@pytest.mark.promise9
@every_family
@every_backend
def test_activations_computed_again(family: str, backend: Backend) -> None:
    model = make(family).train()
    calls: list[object] = []
    first = next(module for name, module in model.named_modules() if name.endswith("0.mlp"))
    first.register_forward_pre_hook(lambda *_: calls.append(None))
    ours = in_forests(model, branching(), backend, checkpoint=True, compiled=False)
    assert len(calls) == 2
    assert_same(ours, padded(family, "branching"))


@pytest.mark.slow
@pytest.mark.promise9
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("family", ["gemma3_text", "gpt2"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch._dynamo's
def test_compiled_blocks(family: str, checkpoint: bool) -> None:
    ours = in_forests(make(family).train(), branching(), capacity=40, checkpoint=checkpoint, compiled=True)
    assert_same(ours, padded(family, "branching"))


@pytest.mark.promise9
@every_family
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # peft sets it itself, for GPT-2
def test_adapters(family: str, checkpoint: bool) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=1, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(make(family), config).train()
    exact = padded_gradients(model, branching())
    assert all("lora_" in name for name in exact[1])
    assert exact[0] != pytest.approx(padded(family, "branching")[0], rel=1e-3)
    assert_same(in_forests(model, branching(), capacity=40, checkpoint=checkpoint, compiled=False), exact)


@every_family
def test_log_probabilities_are_the_models_own(family: str) -> None:
    model, rows = make(family), branching()
    with Decoder(model) as decoder:
        found = decoder.log_probs(batch_of([(row,) for row in rows], CPU, decoder.backend))
    assert not found.requires_grad
    assert all(weight.grad is None for weight in model.parameters())
    torch.testing.assert_close(found, _own_log_probs(model, rows), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def _own_log_probs(model: Any, rows: Sequence[TokenRow]) -> Tensor:
    """Row by row, from the logits of the whole model."""
    found = []
    for row in rows:
        log_probs = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        found += [log_probs[i - 1, row.ids[i]] for i in range(len(row.ids)) if row.mask[i]]
    return torch.stack(found)


def test_attention_is_the_forests_inside_and_the_models_own_outside() -> None:
    model = make("gemma3_text")
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids).logits
    with Decoder(model):
        assert model.config._attn_implementation == NAME
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(KeyError), Decoder(model):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=ids).logits, before)


def test_the_back_end_is_the_devices_or_the_one_asked_for() -> None:
    model = make("llama")
    assert Decoder(model).backend == "tiles"
    assert Decoder(model, "dense").backend == "dense"
    assert Decoder(model).device == CPU


def test_a_frozen_embedding_and_head_take_no_gradient() -> None:
    model = make("llama")
    frozen = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for weight in frozen:
        weight.requires_grad_(False)
    loss, grads = in_forests(model, branching())
    exact = padded("llama", "branching")
    assert_same((loss, grads), (exact[0], {name: exact[1][name] for name in grads}))
    assert len(grads) == len(exact[1]) - 2
    assert all(weight.grad is None for weight in frozen)


def test_nothing_to_learn_is_zero() -> None:
    model = make("gemma3_text")
    rows = [TokenRow((5, 6, 7), (False,) * 3, 1.0, "a#0")]
    with Decoder(model) as decoder:
        total, log_probs = decoder.nll(batch_of([tuple(rows)], CPU, decoder.backend))
        total.backward()  # type: ignore[no-untyped-call]
    assert (total.item(), len(log_probs)) == (0.0, 0)


def test_a_batch_goes_to_a_device_as_a_whole() -> None:
    bundles: list[Bundle] = [(TokenRow((5, 6), (False, True), 0.5, "a#0"),), tuple(branching()[:2])]
    batch = batch_of(bundles, torch.device("meta"), "dense")
    assert isinstance(batch.layout, Layout)
    names = ("ids", "positions", "targets", "examples", "weights")
    tensors = [*(getattr(batch, name) for name in names), batch.layout.depths, batch.layout.ends]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert [tensor.dtype for tensor in tensors] == [torch.int64] * 4 + [torch.float32] + [torch.int64] * 2
    assert batch.ids.shape == (1, len(batch.layout.ends))
    assert batch.sizes == (1, 2)


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("family", "more", "sentence"),
    [
        ("phi", {}, "PhiForCausalLM's LM head has a bias\n  do this: use a model without one"),
        (
            "granite",
            {"logits_scaling": 0.125},
            "GraniteForCausalLM scales its logits (logits_scaling)\n  do this: use a model that does not",
        ),
        (
            "cohere",
            {"logit_scale": 0.125},
            "CohereForCausalLM scales its logits (logit_scale)\n  do this: use a model that does not",
        ),
        ("gemma2", {"attention": "eager"}, _INEXACT.format("Gemma2ForCausalLM", "attn_logit_softcapping")),
        (
            "gemma3_text",
            {"use_bidirectional_attention": True},
            _INEXACT.format("Gemma3ForCausalLM", "use_bidirectional_attention"),
        ),
        ("gpt2", {"reorder_and_upcast_attn": True}, _INEXACT.format("GPT2LMHeadModel", "reorder_and_upcast_attn")),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalnum() else "",
)
def test_models_that_a_forest_would_not_compute_exactly_are_refused(
    family: str, more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError) as caught:
        Decoder(make(family, **more))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("granite", {"logits_scaling": 1.0, "attention_multiplier": 0.4}),
        ("cohere", {"logit_scale": 1.0}),
        ("gemma2", {"attn_logit_softcapping": None, "sliding_window": 6, "attention": "eager"}),
    ],
)
def test_with_the_setting_switched_off_they_are_computed_exactly(family: str, more: dict[str, Any]) -> None:
    assert_same(in_forests(make(family, **more), branching()), padded_gradients(make(family, **more), branching()))

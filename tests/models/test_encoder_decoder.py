"""Encoder-decoders over padded batches: loss and every gradient are those of transformers' own forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from shinan.core.errors import ModelError
from shinan.models.encoder_decoder import EncoderDecoder
from shinan.models.family import decoder_of
from shinan.models.forest import Bundle, TokenRow
from tests.models.families import (
    ENCODER_DECODERS,
    Gradients,
    assert_same,
    gradients,
    make_pair,
    nudge,
    pair_loss,
    prompted,
    told_by,
)

every_family = pytest.mark.parametrize("family", ENCODER_DECODERS)


def in_batches(
    model: Any, rows: Sequence[TokenRow], capacity: int = 10_000, **arranged: bool
) -> tuple[float, Gradients]:
    """Mean loss and its gradients over batches of at most `capacity` tokens, those of the large matrices in place."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    large = {id(layer.weight): layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    for weight in trained.values():
        weight.grad = torch.zeros_like(weight)
    sinks = {weight: weight.grad for weight in large.values() if weight.requires_grad}
    count = sum(row.weight * row.labelled for row in rows)
    bundles: list[Bundle] = [(row,) for row in rows]
    loss = 0.0
    with decoder_of(model, sinks) as decoder:
        assert isinstance(decoder, EncoderDecoder)
        if arranged:
            decoder.arrange(**arranged)
        for inside in decoder.pack(bundles, capacity):
            batch = decoder.batch([bundles[index] for index in inside])
            assert batch.computed <= capacity or len(inside) == 1
            total, _ = decoder.nll(batch, batch.weights / count)
            total.backward()  # type: ignore[no-untyped-call]
            loss += float(total.detach())
    return loss, {name: weight.grad for name, weight in trained.items()}


def start_of(model: Any) -> int:
    return int(model.config.decoder_start_token_id)


@every_family
@pytest.mark.parametrize("capacity", [10_000, 60, 1])
def test_loss_and_gradients_are_the_models_own(family: str, capacity: int) -> None:
    model = make_pair(family)
    rows = prompted(start_of(model))
    assert_same(in_batches(model, rows, capacity), gradients(model, pair_loss(model, rows)))


@every_family
def test_the_reference_is_forward_with_labels(family: str) -> None:
    model = make_pair(family)
    rows = prompted(start_of(model), weights=[1.0])
    assert_same(in_batches(model, rows), gradients(model, told_by(model, rows).loss))


@every_family
def test_activations_may_be_computed_again(family: str) -> None:
    model = make_pair(family).train()
    rows = prompted(start_of(model))
    exact = gradients(model, pair_loss(model, rows))
    assert_same(in_batches(model, rows, checkpoint=True, compiled=False), exact)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_adapters_get_their_gradients(family: str) -> None:
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="SEQ_2_SEQ_LM")
    model = get_peft_model(make_pair(family), config)
    nudge(model)
    rows = prompted(start_of(model))
    assert_same(in_batches(model, rows, 60), gradients(model, pair_loss(model, rows)))


def test_a_prompt_is_encoded_once() -> None:
    model = make_pair("t5")
    rows = prompted()
    texts = {row.ids[: row.source] for row in rows}
    assert len(texts) == len(rows) - 3
    seen = []
    handle = model.encoder.register_forward_hook(
        lambda _module, _args, kwargs, _out: seen.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    decoder = decoder_of(model)
    batch = decoder.batch([tuple(rows)])
    decoder.log_probs(batch)
    handle.remove()
    assert seen == [len(texts)]
    assert decoder.computed([tuple(rows)]) == sum(map(len, texts)) + sum(len(row.ids) - row.source - 1 for row in rows)


@pytest.mark.parametrize("capacity", [10, 50, 200])
def test_a_bundle_is_in_one_batch_and_padding_counts(capacity: int) -> None:
    decoder = decoder_of(make_pair("bart"))
    rows = prompted()
    bundles: list[Bundle] = [tuple(rows[at : at + 2]) for at in range(0, len(rows), 2)]
    bins = decoder.pack(bundles, capacity)
    assert sorted(index for inside in bins for index in inside) == list(range(len(bundles)))
    for inside in bins:
        assert len(inside) == 1 or decoder.batch([bundles[index] for index in inside]).computed <= capacity


def test_a_batch_without_labels_has_no_loss() -> None:
    decoder = decoder_of(make_pair("t5"))
    rows = [TokenRow(row.ids, (False,) * len(row.ids), 1.0, row.row, source=row.source) for row in prompted()]
    total, log_probs = decoder.nll(decoder.batch([tuple(rows)]))
    assert (total.item(), len(log_probs)) == (0.0, 0)


def test_a_bias_of_the_logits_is_refused() -> None:
    model = make_pair("bart")
    model.final_logits_bias[0, 3] = 0.5
    with pytest.raises(ModelError, match="BartForConditionalGeneration's LM head has a bias"):
        decoder_of(model)


def test_learned_positions_are_counted() -> None:
    assert decoder_of(make_pair("bart")).positions == 40
    assert decoder_of(make_pair("t5")).positions is None

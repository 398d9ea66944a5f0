"""Log-likelihoods without the head's full logits, against the models' own logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from shinan.core.errors import ModelError
from shinan.models.batch import Batch, TokenRow, pad
from shinan.models.checkpoint import load_model
from shinan.models.states import causal_lm, nll_of

_SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _made(name: str, **settings: Any) -> Any:
    """A small model of transformers with random weights."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**_SMALL | settings)
    made: Any = transformers.AutoModelForCausalLM.from_config(config)
    return made.eval()


def _batch() -> Batch:
    rows = [
        TokenRow((2, 11, 12, 13, 14), (False, False, True, True, True), 1.0, "a#0"),
        TokenRow((2, 21, 22), (False, True, True), 0.25, "a#1"),
        TokenRow((2, 31), (False, True), 3.0, "a#2"),
    ]
    return pad(rows)


def _reference(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row, without padding, from the logits of the whole model: what each label costs."""
    found, weights = [], []
    for ids, labels, weight in (([2, 11, 12, 13, 14], (2, 3, 4), 1.0), ([2, 21, 22], (1, 2), 0.25), ([2, 31], (1,), 3)):
        log_probs = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        found += [log_probs[i - 1, ids[i]] for i in labels]
        weights += [weight] * len(labels)
    return torch.stack(found), torch.tensor(weights)


@pytest.mark.parametrize("name", ["tiny_decoder", "tiny_llama", "Gemma2", "GPT2"])
def test_sum_log_probabilities_and_gradient_are_the_models_own(name: str, request: pytest.FixtureRequest) -> None:
    if name.startswith("tiny"):
        model: Any = load_model(request.getfixturevalue(name), torch.float32)
    else:
        capped = {"final_logit_softcapping": 0.05} if name == "Gemma2" else {"n_head": 2, "n_embd": 16, "n_layer": 2}
        model = _made(name, **capped)
    total, log_probs = nll_of(model, _batch())
    exact, weights = _reference(model)
    torch.testing.assert_close(log_probs, exact.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(total, -(exact * weights).sum(), rtol=1e-4, atol=1e-4)
    ours = torch.autograd.grad(total, list(model.parameters()))
    theirs = torch.autograd.grad(-(exact * weights).sum(), list(model.parameters()))
    for mine, own in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-3, atol=1e-4)


def test_nothing_to_learn_is_zero(fresh: Callable[..., Any]) -> None:
    total, log_probs = nll_of(fresh(), pad([TokenRow((2, 11), (False, False), 1.0, "a#0")]))
    assert (total.item(), len(log_probs)) == (0.0, 0)


def test_adapters_are_seen_through(fresh: Callable[..., Any]) -> None:
    model = fresh()
    plain = nll_of(model, _batch())[0].item()
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    assert causal_lm(wrapped) is model
    assert causal_lm(model) is model
    total, _ = nll_of(wrapped, _batch())
    assert total.item() != pytest.approx(plain, abs=1e-4)
    total.backward()  # type: ignore[no-untyped-call]
    adapted = [p for name, p in wrapped.named_parameters() if "lora_B" in name]
    assert adapted
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in adapted)


def test_a_head_with_a_bias_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        nll_of(_made("Phi"), _batch())
    assert str(caught.value) == "PhiForCausalLM's LM head has a bias\n  do this: use a model without one"


@pytest.mark.parametrize(("name", "setting"), [("Granite", "logits_scaling"), ("Cohere", "logit_scale")])
def test_a_model_that_scales_its_logits_is_refused(name: str, setting: str) -> None:
    with pytest.raises(ModelError) as caught:
        nll_of(_made(name, **{setting: 0.125}), _batch())
    assert str(caught.value) == (
        f"{name}ForCausalLM scales its logits ({setting})\n  do this: use a model that does not"
    )
    model = _made(name, **{setting: 1.0})
    torch.testing.assert_close(nll_of(model, _batch())[1], _reference(model)[0].detach(), rtol=1e-4, atol=1e-5)

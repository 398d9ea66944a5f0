"""Forward passes that stop before the head: what tuning and scoring need from a transformers causal LM."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from shinan.core.errors import ModelError
from shinan.models.batch import Batch
from shinan.models.head import weighted_nll

# What some models do to their logits after the head, by its name in their configs: Cohere, Granite, Falcon-H1,
# Muse, RecurrentGemma, xLSTM.
_AFTER_HEAD = (
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
    "logits_soft_cap",
    "output_logit_soft_cap",
)


def causal_lm(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def nll_of(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihood of a batch's targets: (sum with gradient, detached log-probabilities [n]).

    The head runs at the supervised positions only. Raises ModelError for a head with a bias, or one whose logits the
    model scales: the fused head does neither.
    """
    lm = causal_lm(model)
    head = lm.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ModelError(f"{type(lm).__name__}'s LM head has a bias", fix="use a model without one")
    for name in _AFTER_HEAD:
        if getattr(lm.config, name, None) not in (None, 1):
            raise ModelError(f"{type(lm).__name__} scales its logits ({name})", fix="use a model that does not")
    body = getattr(lm, lm.base_model_prefix)
    hidden = body(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
    states = hidden.flatten(0, 1)[batch.positions]
    softcap = float(getattr(lm.config, "final_logit_softcapping", None) or 0.0)
    return weighted_nll(states, head.weight, batch.targets, batch.weights, softcap)

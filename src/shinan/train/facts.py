"""What the supervision audit must know of a model: its sizes, and whether it can learn to end a reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from shinan.models.rendering import ChatFormat

# Measured (LOG.md): of the tied embeddings of gemma-3-270m 6,544 lie within half its norm of `<end_of_turn>`, which
# the base model never saw, and none of `<eos>`; of 60 tokens drawn at random 57 have none in two models. A token that
# shares its probability with ten others is drawn at most one time in eleven.
_NEAR, _TWINS = 0.5, 10
_FAINT = 0.25  # of the median norm: rows that were never trained are near zero in models that decay them
_CHUNK = 16384


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the audit compares rows and format with.

    Attributes:
        embeddings: rows of the embedding matrix: ids must lie below.
        context: the longest text that the model can attend to (after its virtual tokens), or None if it does not say.
        unlearnable: why the model cannot learn to end a reply in this format; empty if it can.
    """

    embeddings: int
    context: int | None = None
    unlearnable: str = ""


def facts_of(model: Any, chat: ChatFormat, *, frozen: bool, before: int = 0) -> ModelFacts:
    """The facts of a loaded transformers model.

    `frozen`: whether tuning leaves the head's weights alone, as LoRA. `before`: virtual tokens before every text.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    head = model.get_output_embeddings().weight
    terminator = chat.stop_ids[0]
    knows = terminator in _stops(model) or terminator >= len(head)  # what is no id at all is told by the audit
    why = "" if knows or not frozen else _why_untrained(head.detach(), terminator)
    context = getattr(model.config, "max_position_embeddings", None)
    return ModelFacts(rows, context and context - before, why)


def _stops(model: Any) -> set[int]:
    """The ids at which the model is known to stop."""
    said = [getattr(config, "eos_token_id", None) for config in (model.config, model.generation_config)]
    return {id_ for value in said for id_ in (value if isinstance(value, list) else [value]) if id_ is not None}


@torch.no_grad()
def _why_untrained(head: torch.Tensor, token: int) -> str:
    """Why row `token` of the head [vocabulary, width] looks never trained, in words; empty if it does not."""
    own = head[token].float()
    norms, gaps = [], []
    for start in range(0, len(head), _CHUNK):
        rows = head[start : start + _CHUNK].float()
        norms.append(rows.norm(dim=1))
        gaps.append((rows - own).norm(dim=1))
    share = float(own.norm() / torch.cat(norms).median())
    if share < _FAINT:
        return f"the norm of its weights is {share:.2g} of a usual token's"
    twins = int((torch.cat(gaps) < _NEAR * own.norm()).sum()) - 1
    return f"{twins:,} other tokens have nearly the same weights" if twins >= _TWINS else ""

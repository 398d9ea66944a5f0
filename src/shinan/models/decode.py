"""The decode loop: prompts in, tokens out, one step for all unfinished rows at a time.

Rows that end leave the batch at once, so that no step computes for them. Each row draws from its own seed, so that a
reply does not depend on what else is in the batch (but for near-ties of floating-point sums).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from shinan.core.hashing import derive_seed
from shinan.models.generator import Sampling


@dataclass(slots=True)
class Row:
    """One prompt being continued; `ids` and `logprobs` grow until `done`.

    Attributes:
        prompt: prompt token ids.
        sampling: how to draw.
        seed: source of every draw of this row.
        stopped: called with the ids so far (the newest included); True ends the row.
    """

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    stopped: Callable[[list[int]], bool]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""


@torch.inference_mode()
def decode(model: Any, rows: Sequence[Row]) -> None:
    """Continue every row in place until it stops or has `max_new_tokens`.

    `model` is a transformers causal LM in eval mode. All rows share one padded batch: group prompts of like length.
    """
    device = next(model.parameters()).device
    active = [row for row in rows if row.sampling.max_new_tokens > 0]
    if not active:
        return
    width = max(len(row.prompt) for row in active)
    ids = torch.zeros(len(active), width, dtype=torch.int64, device=device)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(active):
        ids[index, width - len(row.prompt) :] = torch.tensor(row.prompt, device=device)
        mask[index, width - len(row.prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp_(min=0)
    cache = None
    while True:
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        drawn = _draw(out.logits[:, -1].float(), active)
        going = [i for i, row in enumerate(active) if not _finished(row)]
        if not going:
            return
        positions = positions[:, -1:] + 1
        if len(going) < len(active):
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            active = [active[i] for i in going]
            mask, positions, drawn = mask[keep], positions[keep], drawn[keep]
        ids = drawn[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)


def _finished(row: Row) -> bool:
    if row.stopped(row.ids):
        row.finish = "stop"
    elif len(row.ids) >= row.sampling.max_new_tokens:
        row.finish = "length"
    return bool(row.finish)


def _draw(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Draw one token for each row from fp32 logits [rows, v]; appends id and log-probability. Returns [rows]."""
    normaliser = torch.logsumexp(logits, dim=-1)
    drawn = logits.argmax(dim=-1)
    for index, row in enumerate(rows):
        if row.sampling.temperature > 0:
            seed = derive_seed(row.seed, "token", len(row.ids))
            drawn[index] = sample(logits[index], row.sampling, seed)
    chosen = logits.gather(1, drawn[:, None])[:, 0] - normaliser
    for row, token, logprob in zip(rows, drawn.tolist(), chosen.tolist(), strict=True):
        row.ids.append(token)
        row.logprobs.append(logprob)
    return drawn


def sample(logits: Tensor, sampling: Sampling, seed: int) -> int:
    """One token from logits [v]: temperature, then top-k, then top-p (nucleus sampling, arXiv 1904.09751).

    The draw is made on the CPU from `seed`, so that it is the same on every device.
    """
    scaled = (logits / sampling.temperature).cpu()
    top, index = scaled.sort(descending=True, stable=True)
    if sampling.top_k:
        top, index = top[: sampling.top_k], index[: sampling.top_k]
    probs = top.softmax(0)
    if sampling.top_p < 1:
        inside = probs.cumsum(0) - probs < sampling.top_p  # the token that crosses top_p is kept
        probs = probs * inside
    generator = torch.Generator().manual_seed(seed)
    return int(index[torch.multinomial(probs, 1, generator=generator)])

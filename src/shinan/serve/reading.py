"""How likely a prompt's own tokens are: what `echo` with `logprobs` tells, and other programs score with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from shinan.models.sampling import likeliest

_CHUNK = 128  # tokens read in one go: 134 MB of fp32 logits where there are 262,144 tokens


class ReadToken(NamedTuple):
    """A token of a prompt.

    Attributes:
        id: its id.
        logprob: its natural-log probability after the tokens before it; None for the first.
        top: the likeliest tokens in its place with theirs, the likeliest first; empty for the first.
    """

    id: int
    logprob: float | None
    top: list[tuple[int, float]]


def read(model: Any, prompt: Sequence[int], top: int) -> Iterator[list[ReadToken]]:
    """The tokens of `prompt`, a stretch at a time, so that others can decode in between.

    `model` is a transformers causal LM in eval mode; `top` likeliest tokens are noted for each position.
    """
    device = next(model.parameters()).device
    cache, ahead = None, None  # `ahead`: log-probabilities [v] of the stretch's first token
    for start in range(0, len(prompt), _CHUNK):
        stretch = list(prompt[start : start + _CHUNK])
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([stretch], device=device), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            after = out.logits[0].float().log_softmax(-1)
            rows = [ahead, *after[:-1]]
            told = [_told(token, row, top) for token, row in zip(stretch, rows, strict=True)]
            ahead = after[-1].clone()  # or the whole stretch would stay in memory
        yield told


def _told(token: int, logprobs: torch.Tensor | None, top: int) -> ReadToken:
    if logprobs is None:
        return ReadToken(token, None, [])
    return ReadToken(token, float(logprobs[token]), likeliest(logprobs, top) if top else [])

"""Decoding against transformers' own `generate` on the same prompts, in turn (A B A B), medians of the pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.pairs import Row
from shinan.build.collection import collection
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.generator import Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.precision import default_device, probe_dtype
from shinan.models.tokenizer import Tokenizer


def measure(folder: Path, count: int = 16) -> list[Row]:
    """Tokens a second of both, in turn; `count` prompts together."""
    device = default_device()
    dtype = probe_dtype(device)
    model: Any = load_model(folder, dtype).to(device)
    chat = chat_format("alpaca", Tokenizer.load(folder))
    items = collection(0, split="heldout", languages=["en"], limit=count)
    new = 48
    requests = [Request(item.prompt, sampling=Sampling(new)) for item in items]
    generator = LocalGenerator("bench", model, chat, batch_size=count)
    prompts = [chat.render_prompt(item.prompt) for item in items]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)

    def ours() -> int:
        return sum(len(done.ids) for done in generator.generate(requests))

    def peer() -> int:
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=chat.stop_ids[0]
        )
        return sum(_until(row, chat.stop_ids) for row in out[:, width:].tolist())

    pairs = [(_rate(ours), _rate(peer)) for _ in range(3)]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    name = f"transformers {version('transformers')} generate"
    ratio = statistics.median(a / b for a, b in pairs)
    return [Row(f"greedy decoding, batch {count}", "tokens/s", mine, theirs, name, ratio, 2.0, len(pairs))]


def _rate(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    return work() / (time.perf_counter() - start)


def _until(row: list[int], stops: tuple[int, ...]) -> int:
    return next((i + 1 for i, token in enumerate(row) if token in stops), len(row))

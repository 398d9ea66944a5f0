"""How a run is computed: forest size, activation checkpointing, compilation. Measured, forecast, written down once.

A short probe on the run's own first rows measures time and memory a token; the forecast for the whole run decides. The
decision is kept in plan.json and taken from there on resume, since it changes how sums are rounded.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from shinan.core.dataset import write_atomic
from shinan.core.errors import TrainingError
from shinan.models.decoder import Decoder, blocks
from shinan.models.forest import Bundle
from shinan.train import ranks
from shinan.train.masters import Masters
from shinan.train.objective import Objective
from shinan.train.optim import state_bytes
from shinan.train.ranks import free_memory
from shinan.train.settings import TuneSettings
from shinan.train.shards import here

_TOKENS = {"cpu": 2048, "cuda": 16_384}  # of a forest: enough for the matrix products to be at their full rate
_PROBE = 512  # tokens of the probe's forest
_SHARE = 0.7  # of the free memory that activations may take
# torch.compile of the blocks on a CPU, as measured (LOG.md): seconds once, and the share of a step that it saves.
_WARM_UP, _SAVED = 50.0, 0.13


@dataclass(frozen=True, slots=True)
class Schedule:
    """What was decided, and why.

    Attributes:
        micro_tokens: largest forest, in tokens.
        checkpoint: compute activations again in the backward pass rather than keep them.
        compile: run the blocks through torch.compile.
        tokens: what all steps will compute, each shared prefix once a step.
        seconds: forecast for all steps, without validation.
        token_bytes: activations kept for each token of a forest.
        free_bytes: memory that was free.
    """

    micro_tokens: int
    checkpoint: bool
    compile: bool
    tokens: int
    seconds: float
    token_bytes: int
    free_bytes: int


def recall(path: Path, key: str) -> Schedule | None:
    """The schedule that rank 0's plan.json holds for the run `key`."""
    noted = ranks.said_by(0, _noted(path).get("schedule"))
    try:
        return Schedule(**noted["decided"]) if noted["key"] == key else None
    except (KeyError, TypeError):
        return None


def record(path: Path, key: str, schedule: Schedule) -> None:
    """Write the schedule into plan.json, whatever else it holds (rank 0 does)."""
    _note(path, "schedule", {"key": key, "decided": asdict(schedule)})


def divides(model: Any, settings: TuneSettings, path: Path, key: str) -> bool:
    """Whether the ranks divide the blocks: as `tune.shard` says, with `auto` where copies would not fit into memory.

    What `auto` has found is kept in plan.json for as many ranks, since it changes how sums are rounded.

    Raises TrainingError for `tune.shard: on` with what cannot be divided.
    """
    if ranks.count() == 1 or settings.shard == "off":
        return False
    against = _undivided(model, settings)
    if settings.shard == "on":
        if against:
            raise TrainingError(f"tune.shard: on cannot divide {against}", fix="set tune.shard: off, or change that")
        return True
    asked = {"key": key, "ranks": ranks.count()}
    noted = ranks.said_by(0, _noted(path).get("divided", {}))
    if {name: noted.get(name) for name in asked} == asked:
        return bool(noted["decided"])
    [short] = ranks.most(_copy_bytes(model) > free_memory(next(model.parameters()).device) // 2)
    _note(path, "divided", asked | {"decided": bool(short and not against)})
    return bool(short and not against)


def _undivided(model: Any, settings: TuneSettings) -> str:
    """What of a run speaks against dividing the blocks; empty if nothing does."""
    if settings.optimiser != "adamw":
        return f"the state of tune.optimiser: {settings.optimiser}"
    if settings.compile == "on":
        return "blocks that are compiled (tune.compile: on)"
    if not all(weight.is_floating_point() for stack in blocks(model) for weight in stack.parameters()):
        return "quantised weights"
    return ""


def _copy_bytes(model: Any) -> int:
    """What AdamW's moments, the gradients and the masters of a rank that has all of them take."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return sum(weight.numel() * (12 if weight.dtype == torch.float32 else 16) for weight in trained)


def _noted(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _note(path: Path, name: str, value: Any) -> None:
    """Write one entry of plan.json, on rank 0, whatever else it holds."""
    if ranks.rank() == 0:
        write_atomic(path, json.dumps(_noted(path) | {name: value}, indent=1, ensure_ascii=False) + "\n")


def decide(
    decoder: Decoder,
    objective: Objective,
    steps: Sequence[Sequence[Bundle]],
    settings: TuneSettings,
    masters: Masters,
    beside: Sequence[Sequence[Bundle]] = (),
) -> Schedule:
    """Measure, and forecast the run; every rank measures, and rank 0 decides. Leaves the masters' gradients at zero.

    `beside` is other text that is computed in each step.

    Raises TrainingError if one bundle's activations (a whole step's, for `lomo`) will not fit into memory, even
    computed twice, or `lomo` is not allowed a step's tokens.
    """
    probe = _measure(decoder, objective, _first(decoder, steps), masters)
    tokens = sum(decoder.computed(step) for step in (*steps, *beside))
    whole = settings.optimiser == "lomo"  # which cannot divide a step
    parts = [part for step in steps for part in ([step] if whole else [[bundle] for bundle in step])]
    longest = max(map(decoder.computed, (*parts, *([bundle] for step in beside for bundle in step))))
    if whole and settings.micro_tokens and settings.micro_tokens < longest:
        raise TrainingError(
            f"lomo computes a step in one forward pass: {longest} tokens, and tune.micro_tokens is less",
            fix=f"raise tune.micro_tokens to {longest}, or lower tune.batch_size",
        )
    room = int(_SHARE * max(0, probe.free_bytes - state_bytes(settings.optimiser, masters)))
    fits = room // probe.token_bytes
    checkpoint = settings.checkpoint == "on" or (settings.checkpoint == "auto" and longest > fits)
    if checkpoint:
        fits = room // max(1, probe.token_bytes // 8)  # a layer's input, and one layer at a time in full
    if longest > fits:
        raise TrainingError(
            f"{'a step' if whole else 'an example'} of {longest} tokens will not fit into memory: {fits} tokens would",
            fix="lower tune.batch_size, or choose another tune.optimiser"
            if whole
            else f"set tune.max_tokens to {fits} or less, or tune.method to lora, or choose a smaller model",
        )
    micro = settings.micro_tokens or max(longest, min(_TOKENS[decoder.device.type], fits))
    seconds = tokens * probe.seconds * (1.3 if checkpoint else 1.0) * (2 if whole else 1)
    seconds /= ranks.count() // masters.division.width
    whole_blocks = not masters.divided and masters.division.width == 1
    worth = seconds * _SAVED > _WARM_UP and _can_compile(decoder.device) and whole_blocks
    compiled = settings.compile == "on" or (settings.compile == "auto" and worth)
    if compiled:
        seconds = seconds * (1 - _SAVED) + _WARM_UP
    mine = Schedule(micro, checkpoint, compiled, tokens, round(seconds, 1), probe.token_bytes, probe.free_bytes)
    return Schedule(**ranks.said_by(0, asdict(mine)))


def smaller(schedule: Schedule) -> Schedule:
    """The schedule with forests of half the size: what is tried when memory ran out."""
    return replace(schedule, micro_tokens=max(1, schedule.micro_tokens // 2))


@dataclass(frozen=True, slots=True)
class _Probe:
    seconds: float
    token_bytes: int
    free_bytes: int


def _first(decoder: Decoder, steps: Sequence[Sequence[Bundle]]) -> Sequence[Bundle]:
    """As many of the first step's bundles as fill the probe's forest."""
    return [steps[0][index] for index in decoder.pack(steps[0], _PROBE)[0]]


def _measure(decoder: Decoder, objective: Objective, bundles: Sequence[Bundle], masters: Masters) -> _Probe:
    """Seconds and kept bytes a token, from two forward and backward passes: the first warms up."""
    free = free_memory(decoder.device)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
            return tensor  # a divided block's weights, which are gathered for this pass
        storage = here(tensor).untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {here(parameter).untyped_storage().data_ptr() for parameter in decoder.model.parameters()}
    batch = decoder.batch(bundles)
    count = objective.count(bundles)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = objective.loss(decoder, bundles, batch, count)
    loss.backward()  # type: ignore[no-untyped-call]
    start = time.perf_counter()
    objective.loss(decoder, bundles, batch, count).backward()  # type: ignore[no-untyped-call]
    if decoder.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    masters.zero()
    size = batch.computed
    activations = sum(nbytes for pointer, nbytes in kept.items() if pointer not in weights)
    return _Probe(seconds / size, max(1, activations // size), free)


def _can_compile(device: torch.device) -> bool:
    return device.type == "cuda" or any(shutil.which(name) for name in ("c++", "g++", "clang++"))

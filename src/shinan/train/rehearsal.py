"""A few real optimiser steps, done before a run to say what all of them will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shinan.models.decoder import Decoder
from shinan.models.family import decoder_of
from shinan.models.forest import Bundle
from shinan.models.memory import keep_freed_memory
from shinan.train.masters import Masters
from shinan.train.objective import Objective
from shinan.train.optim import learning_rate, make_optimiser, state_bytes
from shinan.train.quantised import size
from shinan.train.replay import Replay
from shinan.train.rows import plan_bundles, split, steps_per_epoch
from shinan.train.schedule import Schedule, decide
from shinan.train.settings import TuneSettings
from shinan.train.step import Part, add_gradients, mean_loss

_STEPS = 3  # done first; one warms up, the others are measured


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What tuning will take.

    Attributes:
        seconds: of all steps and validations.
        later_bytes: memory taken at the run's end beside what the rehearsal has taken: a copy of the last weights.
        disk_bytes: checkpoints to resume from, and the best weights so far.
    """

    seconds: float
    later_bytes: int
    disk_bytes: int


def rehearse(
    model: Any,
    objective: Objective,
    bundles: Sequence[Bundle],
    settings: TuneSettings,
    seed: int,
    replay: Replay | None = None,
) -> Rehearsal:
    """Do the first steps of a run, and forecast the rest from the weights that each token meets.

    The model is changed. Raises what `engine.fit` raises for a run that will not fit into memory.
    """
    trained, held = split([bundle[0].row for bundle in bundles], settings.validation, seed)
    rows, held_out = [bundles[i] for i in trained], [bundles[i] for i in held]
    steps = [[rows[i] for i in step] for step in plan_bundles(rows, settings, seed)]
    keep_freed_memory()
    masters = Masters(model, keep_gradients=settings.optimiser != "lomo")
    with decoder_of(model, masters.sinks, settings.neftune or 0.0) as decoder:
        rehearsed = [*steps[:_STEPS], max(steps, key=decoder.computed)]  # the largest one, for its memory
        text = replay.step(0) if replay else []
        cost = _Cost(decoder, text)
        objective.prepare(decoder, [bundle for step in rehearsed for bundle in step] + held_out, 2048)
        model.train()
        schedule = decide(decoder, objective, steps, settings, masters, [text] * len(steps))
        decoder.arrange(checkpoint=schedule.checkpoint, compiled=schedule.compile)
        optimiser = make_optimiser(settings.optimiser, masters, settings.weight_decay)
        part = replay.part(0) if replay else None
        seconds = [_step(decoder, objective, step, part, settings, masters, optimiser, schedule) for step in rehearsed]
        validation = _validation(decoder, objective, held_out, schedule)
    each = sum(seconds[1:]) / sum(map(cost, rehearsed[1:]))
    extra = max(0.0, seconds[0] - each * cost(steps[0]))  # compilation, and first touches of memory
    every = max(1, round(settings.validate_every * steps_per_epoch(len(rows), settings.batch_size)))
    weights = 4 * sum(weight.numel() for weight in masters.weights.values())
    return Rehearsal(
        seconds=extra + each * sum(map(cost, steps)) + (2 + len(steps) // every) * validation,
        later_bytes=weights,
        disk_bytes=3 * (2 * weights + state_bytes(settings.optimiser, masters)),
    )


class _Cost:
    """A step's multiplications: the blocks' weights for each computed token, the head's for each labelled one.

    To each step, those of the text beside it are added.
    """

    def __init__(self, decoder: Decoder, text: Sequence[Bundle]) -> None:
        self._decoder = decoder
        self._head = decoder.head.weight.numel()
        self._blocks = sum(map(size, decoder.model.parameters())) - self._head
        self._text = self._of(text)

    def __call__(self, step: Sequence[Bundle]) -> float:
        return self._of(step) + self._text

    def _of(self, step: Sequence[Bundle]) -> float:
        labelled = sum(row.labelled for bundle in step for row in bundle)
        return float(self._blocks * self._decoder.computed(step) + self._head * labelled)


def _step(
    decoder: Decoder,
    objective: Objective,
    step: Sequence[Bundle],
    text: Part | None,
    settings: TuneSettings,
    masters: Masters,
    optimiser: Any,
    schedule: Schedule,
) -> float:
    """Seconds of one step; with LOMO, whose second pass is its update, of two passes."""
    start = time.perf_counter()
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(0, 1000, settings.learning_rate, 0.1, settings.schedule)
    for _ in range(1 if masters.kept else 2):
        add_gradients(decoder, objective, step, schedule.micro_tokens, masters, text)
    masters.clip(settings.clip)
    if masters.kept:
        optimiser.step()
    masters.zero()
    masters.publish()
    return time.perf_counter() - start


def _validation(decoder: Decoder, objective: Objective, held: Sequence[Bundle], schedule: Schedule) -> float:
    if not held:
        return 0.0
    decoder.model.eval()
    start = time.perf_counter()
    mean_loss(decoder, objective, held, schedule.micro_tokens)
    return time.perf_counter() - start

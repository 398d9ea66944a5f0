"""The engine: rows + objective -> tuned weights. One loop for every objective and method.

Everything that decides the result (order, batches, rates, draws) is a function of (rows, settings, seed, step), so a
run that was killed continues from its last checkpoint to bit-identical weights.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from shinan.core.dataset import cannot_write, write_atomic
from shinan.core.errors import TrainingError
from shinan.core.hashing import derive_seed
from shinan.core.progress import Progress, progress
from shinan.models.batch import TokenRow, pad
from shinan.train.objective import Objective
from shinan.train.optim import Masters, adamw, learning_rate
from shinan.train.rows import Micro, Step, group_by_length, plan_steps, split, steps_per_epoch
from shinan.train.settings import TuneSettings
from shinan.train.state import Scalars, load_state, save_state

_WINDOW = 8  # steps averaged when judging whether the loss explodes
_EXPLODED = 2.0  # times the starting loss


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run keeps what it needs to go on.

    Attributes:
        states: folder of checkpoints to resume from.
        metrics: one JSON line a step or validation.
    """

    states: Path
    metrics: Path


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished run.

    Attributes:
        facts: examples, validation_examples, tokens, labelled_tokens, computed_tokens, steps, seconds,
            tokens_per_second, final_loss (mean of the last steps), best_validation_loss, best_step,
            trainable_parameters.
        restore: puts the `best` (lowest validation loss) or the `last` weights into the model.
    """

    facts: dict[str, Any]
    restore: Callable[[str], None]


@dataclass(slots=True)
class _Run:
    """What the loop carries."""

    model: Any
    objective: Objective
    rows: Sequence[TokenRow]
    held: Sequence[TokenRow]
    settings: TuneSettings
    key: str
    seed: int
    places: Places
    masters: Masters
    optimiser: torch.optim.Optimizer
    scalars: Scalars = field(default_factory=Scalars)
    recent: list[float] = field(default_factory=list)
    saved_at: float = 0.0


def fit(
    model: Any,
    objective: Objective,
    rows: Sequence[TokenRow],
    settings: TuneSettings,
    *,
    key: str,
    seed: int,
    places: Places,
) -> Fitted:
    """Tune `model` in place (its parameters that require gradients); it is left with the last weights, in eval mode.

    Interrupted by SIGINT or SIGTERM it saves and raises KeyboardInterrupt; called again with the same `key` it
    continues.

    Raises:
        TrainingError: no rows, a loss that is NaN or explodes, a damaged checkpoint.
    """
    if not rows:
        raise TrainingError("no rows to train on", fix="see which rows were dropped, and why, in the curate stage")
    trained, held = split(len(rows), settings.validation, seed)
    masters = Masters(model)
    optimiser = adamw(masters, settings.weight_decay)
    run = _Run(
        model,
        objective,
        [rows[i] for i in trained],
        [rows[i] for i in held],
        settings,
        key,
        seed,
        places,
        masters,
        optimiser,
    )
    run.scalars = load_state(places.states, key, masters, optimiser) or Scalars()
    steps = list(_steps(run))
    _rewind_metrics(places.metrics, run.scalars.step)
    model.train()
    with _signals() as interrupted, progress("tuning", sum(_tokens(run, s) for s in steps), "tokens") as bar:
        _loop(run, steps, bar, interrupted)
    model.eval()
    last = {name: weight.detach().clone() for name, weight in masters.weights.items()}

    def restore(which: str) -> None:
        best = which == "best" and run.held
        masters.load(load_file(_best(run)) if best else last)

    return Fitted(_facts(run, steps), restore)


def _steps(run: _Run) -> Iterator[Step]:
    s = run.settings
    lengths = [len(row.ids) for row in run.rows]
    return plan_steps(lengths, epochs=s.epochs, batch_size=s.batch_size, micro_tokens=s.micro_tokens, seed=run.seed)


def _loop(run: _Run, steps: Sequence[Step], bar: Progress, interrupted: Callable[[], bool]) -> None:
    bar.skip(sum(_tokens(run, step) for step in steps[: run.scalars.step]))
    every = max(1, round(run.settings.validate_every * steps_per_epoch(len(run.rows), run.settings.batch_size)))
    run.saved_at = time.monotonic()
    if run.scalars.step == 0:
        _validate(run)
    for number in range(run.scalars.step, len(steps)):
        start = time.monotonic()
        line = _step(run, number, steps[number], len(steps))
        run.scalars.step = number + 1
        seconds = time.monotonic() - start
        run.scalars.seconds += seconds
        _log(run, line | {"seconds": round(seconds, 3)})
        _guard(run, line["loss"])
        last = run.scalars.step == len(steps)
        if run.scalars.step % every == 0 or last:
            _validate(run)
        bar.advance(_tokens(run, steps[number]), f"loss {line['loss']:.3f}")
        if last or interrupted() or time.monotonic() - run.saved_at > run.settings.save_every:
            save_state(run.places.states, run.key, run.masters, run.optimiser, run.scalars)
            run.saved_at = time.monotonic()
        if interrupted() and not last:
            raise KeyboardInterrupt


def _step(run: _Run, number: int, step: Step, total: int) -> dict[str, Any]:
    """One optimiser step: the loss is summed over all its forward passes and divided once, by the global count."""
    torch.manual_seed(derive_seed(run.seed, "step", number))
    batches = [[run.rows[i] for i in micro] for micro in step.micros]
    count = sum(row.weight * row.labelled for batch in batches for row in batch)
    loss = 0.0
    for batch in batches:
        part = run.objective.loss(run.model, pad(batch).to(_device(run)))
        (part.total / count).backward()  # type: ignore[no-untyped-call]
        loss += float(part.total.detach())
    rate = learning_rate(number, total, run.settings.learning_rate, run.settings.warmup, run.settings.schedule)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    norm = torch.nn.utils.clip_grad_norm_(run.masters.weights.values(), run.settings.clip)
    if not math.isfinite(loss) or not torch.isfinite(norm):
        raise TrainingError(
            f"the loss or its gradient is not a number (loss {loss / count}, gradient norm {float(norm)})",
            where=f"step {number + 1}",
            fix="lower tune.learning_rate, or set tune.precision: fp32",
        )
    run.optimiser.step()
    run.optimiser.zero_grad(set_to_none=True)
    run.masters.publish()
    return {
        "step": number + 1,
        "loss": loss / count,
        "learning_rate": rate,
        "gradient_norm": float(norm),
        "tokens": sum(len(row.ids) for batch in batches for row in batch),
        "labelled_tokens": sum(row.labelled for batch in batches for row in batch),
    }


def _guard(run: _Run, loss: float) -> None:
    """Stop a run whose loss has left: the mean of the last steps is twice that of the first ones."""
    run.recent = [*run.recent, loss][-_WINDOW:]
    if len(run.scalars.first_losses) < _WINDOW:
        run.scalars.first_losses.append(loss)
        return
    start = sum(run.scalars.first_losses) / _WINDOW
    now = sum(run.recent) / len(run.recent)
    if len(run.recent) == _WINDOW and now > _EXPLODED * start:
        raise TrainingError(
            f"the loss explodes: {now:.2f} over the last {_WINDOW} steps, {start:.2f} at the start",
            where=f"step {run.scalars.step}",
            fix="lower tune.learning_rate or raise tune.warmup",
        )


@torch.no_grad()
def _validate(run: _Run) -> None:
    """Loss per labelled token on the rows set apart; the best weights so far are kept on disk."""
    if not run.held:
        return
    run.model.eval()
    start = time.monotonic()
    total = weight = 0.0
    lengths = [len(row.ids) for row in run.held]
    micros: list[Micro] = list(group_by_length(range(len(lengths)), lengths, run.settings.micro_tokens))
    for micro in micros:
        part = run.objective.loss(run.model, pad([run.held[i] for i in micro]).to(_device(run)))
        total, weight = total + float(part.total), weight + part.weight
    run.model.train()
    loss = total / weight
    if run.scalars.best_loss is None or loss < run.scalars.best_loss:
        run.scalars.best_loss, run.scalars.best_step = loss, run.scalars.step
        _save_best(run)
    seconds = time.monotonic() - start
    run.scalars.seconds += seconds
    _log(run, {"step": run.scalars.step, "validation_loss": loss, "seconds": round(seconds, 3)})


def _best(run: _Run) -> Path:
    return run.places.states / f"best-{run.scalars.best_step}.safetensors"


def _save_best(run: _Run) -> None:
    """Older bests stay until the run ends: a checkpoint to resume from may still name one of them."""
    path = _best(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    try:
        save_file({name: weight.detach() for name, weight in run.masters.weights.items()}, beside)
        beside.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def _facts(run: _Run, steps: Sequence[Step]) -> dict[str, Any]:
    lines = [json.loads(line) for line in run.places.metrics.read_text("utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    tokens = sum(_tokens(run, step) for step in steps)
    passes = [[run.rows[i] for i in micro] for step in steps for micro in step.micros]
    return {
        "examples": len(run.rows),
        "validation_examples": len(run.held),
        "tokens": tokens,
        "labelled_tokens": sum(run.rows[i].labelled for step in steps for i in step.rows),
        "computed_tokens": sum(pad(batch).ids.numel() for batch in passes),
        "steps": len(steps),
        "seconds": round(run.scalars.seconds, 2),
        "tokens_per_second": round(tokens / max(run.scalars.seconds, 1e-9), 1),
        "final_loss": sum(losses[-_WINDOW:]) / len(losses[-_WINDOW:]),
        "best_validation_loss": run.scalars.best_loss,
        "best_step": run.scalars.best_step if run.held else len(steps),
        "trainable_parameters": sum(weight.numel() for weight in run.masters.weights.values()),
    }


def _tokens(run: _Run, step: Step) -> int:
    return sum(len(run.rows[i].ids) for i in step.rows)


def _device(run: _Run) -> torch.device:
    return next(iter(run.masters.weights.values())).device


def _log(run: _Run, line: dict[str, Any]) -> None:
    try:
        with run.places.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
    except OSError as error:
        raise cannot_write(run.places.metrics, error) from error


def _rewind_metrics(path: Path, step: int) -> None:
    """Drop the lines of steps that will be done again (a kill can also leave half a line)."""
    kept = []
    for line in path.read_text("utf-8").splitlines() if path.exists() and step else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break
    write_atomic(path, "".join(line + "\n" for line in kept))


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request to stop at the next step; a second one stops at once."""
    caught: list[int] = []

    def note(number: int, _frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals stay with whoever has them
        yield lambda: False
        return
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

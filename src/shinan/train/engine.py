"""The engine: rows + objective -> tuned weights. One loop for every objective and method.

Everything that decides the result (order, batches, rates, draws) is a function of (rows, settings, seed, step), so a
run that was killed continues from its last checkpoint to bit-identical weights. Several ranks divide each step's
forward passes, and perhaps the blocks' weights (`train.ranks`, `train.shards`, `train.tensor_parallel`); rank 0 writes
what they have in common.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch

from shinan.core.errors import Interrupted, TrainingError
from shinan.core.hashing import derive_seed
from shinan.core.progress import Progress, progress
from shinan.models.chat import ChatFormat
from shinan.models.decoder import Decoder
from shinan.models.family import decoder_of
from shinan.models.forest import Bundle
from shinan.models.memory import give_back_freed_memory, keep_freed_memory
from shinan.train import lines, ranks
from shinan.train.live import Live
from shinan.train.lomo import Lomo
from shinan.train.masters import Masters
from shinan.train.objective import Objective
from shinan.train.optim import learning_rate, make_optimiser
from shinan.train.replay import Replay
from shinan.train.rounding import round_into
from shinan.train.rows import Step, plan_bundles, split, steps_per_epoch
from shinan.train.schedule import Schedule, decide, divides, recall, record, smaller
from shinan.train.settings import TuneSettings
from shinan.train.shards import divided
from shinan.train.signals import stop_requests
from shinan.train.state import Scalars, forget_states, load_best, load_state, save_best, save_state
from shinan.train.step import Summed, add_gradients, mean_loss
from shinan.train.tensor_parallel import cut

_WINDOW = 8  # steps looked at when judging whether the loss explodes
_EXPLODED = 2.0  # times the starting loss
_PREPARED = 2048  # tokens of a forward pass before the first step, which keeps no activations


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run keeps what it needs to go on.

    Attributes:
        states: folder of checkpoints to resume from.
        metrics: one JSON line a step or validation.
        plan: a JSON file whose `schedule` says how the run is computed: read on resume.
    """

    states: Path
    metrics: Path
    plan: Path


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished run.

    Attributes:
        facts: examples, validation_examples, tokens, labelled_tokens, computed_tokens, steps (done), planned_steps,
            seconds, tokens_per_second, final_loss (mean of the last steps), best_validation_loss, best_step,
            trainable_parameters, ranks, schedule. Empty but on rank 0.
        restore: puts the `best` (lowest validation loss) or the `last` weights into the model. For rank 0.
    """

    facts: dict[str, Any]
    restore: Callable[[str], None]


@dataclass(slots=True)
class _Run:
    """What the loop carries."""

    decoder: Decoder
    objective: Objective
    bundles: Sequence[Bundle]
    held: Sequence[Bundle]
    settings: TuneSettings
    key: str
    seed: int
    places: Places
    masters: Masters
    optimiser: torch.optim.Optimizer
    schedule: Schedule
    live: Live
    replay: Replay | None
    scalars: Scalars = field(default_factory=Scalars)
    recent: list[float] = field(default_factory=list)
    saved_at: float = 0.0


def fit(
    model: Any,
    objective: Objective,
    bundles: Sequence[Bundle],
    settings: TuneSettings,
    *,
    key: str,
    seed: int,
    places: Places,
    chat: ChatFormat | None = None,
    replay: Replay | None = None,
) -> Fitted:
    """Tune `model` in place (its parameters that require gradients); it is left with the last weights, in eval mode.

    `chat` writes the sample replies that the settings ask for. With `replay`, the gradient of its text is added to that
    of each step.

    Stopped by SIGINT or SIGTERM (on any rank), it saves and raises Interrupted; called again with the same `key` it
    continues.

    Raises:
        TrainingError: no rows, a loss that is NaN or explodes, a damaged checkpoint, too little memory.
        ModelError: a model whose attention or head a forest batch would not compute exactly.
    """
    if not bundles:
        raise TrainingError("no rows to train on", fix="see which rows were dropped, and why, in the curate stage")
    keep_freed_memory()
    width = settings.tensor_parallel
    with cut(model, width) if width > 1 else divided(model, divides(model, settings, places.plan, key)) as division:
        masters = Masters(model, division, keep_gradients=settings.optimiser != "lomo")
        with decoder_of(model, masters.sinks, settings.neftune or 0.0) as decoder:
            run = _prepare(decoder, objective, bundles, settings, masters, key, seed, places, chat, replay)
            steps = list(plan_bundles(run.bundles, settings, seed))
            if ranks.rank() == 0:
                lines.rewind(places.metrics, run.scalars.step)
                run.live.rewind(run.scalars.step)
            work = progress("tuning", _work(run, steps), "tokens", stream=_stream())
            with closing(run.live), stop_requests() as caught, work as bar:
                _loop(run, steps, bar, caught)
        last = {name: weight.clone() for name, weight in masters.gathered().items()}
    model.eval()
    give_back_freed_memory()

    def restore(which: str) -> None:
        best = which == "best" and run.held
        _put(model, load_best(places.states, run.scalars.best_step) if best else last)

    return Fitted(_facts(run, steps) if ranks.rank() == 0 else {}, restore)


def _prepare(
    decoder: Decoder,
    objective: Objective,
    bundles: Sequence[Bundle],
    settings: TuneSettings,
    masters: Masters,
    key: str,
    seed: int,
    places: Places,
    chat: ChatFormat | None,
    replay: Replay | None,
) -> _Run:
    """Everything before the first step: what is held out, how the run is computed, and where it stands."""
    trained, held = split([bundle[0].row for bundle in bundles], settings.validation, seed)
    rows = [bundles[i] for i in trained]
    decoder.model.eval()
    objective.prepare(decoder, bundles, _PREPARED)
    decoder.model.train()
    schedule = recall(places.plan, key)
    if schedule is None:
        steps = [[rows[i] for i in step] for step in plan_bundles(rows, settings, seed)]
        beside = [replay.step(number) for number in range(len(steps))] if replay else []
        schedule = decide(decoder, objective, steps, settings, masters, beside)
        record(places.plan, key, schedule)
    decoder.arrange(checkpoint=schedule.checkpoint, compiled=schedule.compile)
    optimiser = make_optimiser(settings.optimiser, masters, settings.weight_decay)
    scalars = load_state(places.states, key, masters, optimiser)
    if scalars is None:
        forget_states(places.states)
    held_out = [bundles[i] for i in held]
    live = Live(decoder, settings, places.metrics.parent, key, chat)
    found = (masters, optimiser, schedule, live, replay, scalars or Scalars())
    return _Run(decoder, objective, rows, held_out, settings, key, seed, places, *found)


def _loop(run: _Run, steps: Sequence[Step], bar: Progress, caught: Callable[[], int]) -> None:
    bar.skip(_work(run, steps[: run.scalars.step]))
    every = _steps(run, run.settings.validate_every)
    sampled = _steps(run, run.settings.sample.every) if run.settings.sample else None
    run.saved_at = time.monotonic()
    if run.scalars.step == 0:
        _validate(run)
        _sample(run, sampled is not None)
    for number in range(run.scalars.step, len(steps)):
        if _stalled(run):  # as a run that was killed and resumed finds it
            break
        start = time.monotonic()
        line = _step(run, number, steps[number], len(steps))
        run.scalars.step = number + 1
        seconds = time.monotonic() - start
        run.scalars.seconds += seconds
        _log(run, line | {"seconds": round(seconds, 3)} | run.live.rates(line, seconds))
        _guard(run, line["loss"])
        last = run.scalars.step == len(steps)
        if run.scalars.step % every == 0 or last:
            _validate(run)
        last = last or _stalled(run)
        _sample(run, sampled is not None and (last or run.scalars.step % sampled == 0))
        bar.advance(_tokens(run, steps[number]), run.live.note(line["loss"]))
        stop, due = ranks.most(caught(), time.monotonic() - run.saved_at > run.settings.save_every)
        if last or stop or due:
            save_state(run.places.states, run.key, run.masters, run.optimiser, run.scalars)
            run.saved_at = time.monotonic()
        if stop and not last:
            raise Interrupted(stop)


def _step(run: _Run, number: int, step: Step, total: int) -> dict[str, Any]:
    """One optimiser step: gradients over all its forward passes, clipped, and the weights moved."""
    rate = learning_rate(number, total, run.settings.learning_rate, run.settings.warmup, run.settings.schedule)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    bundles = [run.bundles[i] for i in step]
    summed = _gradients(run, number, bundles)
    norm = run.masters.clip(run.settings.clip)
    if not math.isfinite(summed.loss) or not math.isfinite(norm):
        raise TrainingError(
            f"the loss or its gradient is not a number (loss {summed.loss}, gradient norm {norm})",
            where=f"step {number + 1}",
            fix="lower tune.learning_rate, or set tune.precision: fp32",
        )
    if isinstance(run.optimiser, Lomo):
        run.optimiser.step(lambda: _gradients(run, number, bundles))
    else:
        run.optimiser.step()
    run.masters.zero()
    run.masters.publish()
    rows = [row for bundle in bundles for row in bundle]
    return {
        "step": number + 1,
        "loss": summed.loss,
        "learning_rate": rate,
        "gradient_norm": norm,
        "tokens": sum(len(row.ids) for row in rows),
        "labelled_tokens": sum(row.labelled for row in rows),
        "computed_tokens": summed.computed,
        **({"replay_loss": summed.beside / run.replay.gamma} if run.replay else {}),
    }


def _gradients(run: _Run, number: int, bundles: Sequence[Bundle]) -> Summed:
    """The step's gradients, in smaller forward passes if memory runs out and the settings allow it."""
    text = run.replay.part(number) if run.replay else None
    while True:
        drawing = ranks.rank() // run.settings.tensor_parallel  # ranks that compute a forest together draw alike
        torch.manual_seed(derive_seed(run.seed, "step", number, *filter(None, [drawing])))
        try:
            return add_gradients(run.decoder, run.objective, bundles, run.schedule.micro_tokens, run.masters, text)
        except torch.OutOfMemoryError as error:
            run.masters.zero()
            if run.settings.on_out_of_memory == "stop" or run.schedule.micro_tokens == 1 or ranks.count() > 1:
                raise TrainingError(
                    f"memory ran out in a forward pass of up to {run.schedule.micro_tokens} tokens",
                    where=f"step {number + 1}",
                    fix=f"lower tune.micro_tokens, set tune.checkpoint: on, or {_relief(run.settings)}",
                ) from error
        run.schedule = smaller(run.schedule)
        record(run.places.plan, run.key, run.schedule)


def _relief(settings: TuneSettings) -> str:
    """What else a run can do whose memory has run out."""
    if settings.tensor_parallel > 1:
        return "raise tune.tensor_parallel"
    return "tune.shard: on" if ranks.count() > 1 else "tune.on_out_of_memory: back_off"


def _guard(run: _Run, loss: float) -> None:
    """Stop a run whose loss has left: none of the last steps is below twice the mean of the first ones.

    None of them, rather than their mean: steps of one or two tasks each swing between 0.1 and 5 (LOG.md).
    """
    run.recent = [*run.recent, loss][-_WINDOW:]
    if len(run.scalars.first_losses) < _WINDOW:
        run.scalars.first_losses.append(loss)
        return
    start = sum(run.scalars.first_losses) / _WINDOW
    if len(run.recent) == _WINDOW and min(run.recent) > _EXPLODED * start:
        raise TrainingError(
            f"the loss explodes: {min(run.recent):.2f} or more in each of the last {_WINDOW} steps, {start:.2f} at the "
            "start",
            where=f"step {run.scalars.step}",
            fix="lower tune.learning_rate or raise tune.warmup",
        )


def _validate(run: _Run) -> None:
    """Mean loss on the rows set apart; the best weights so far are kept on disk."""
    if not run.held:
        return
    run.decoder.model.eval()
    start = time.monotonic()
    width = run.settings.tensor_parallel
    loss = mean_loss(run.decoder, run.objective, run.held, run.schedule.micro_tokens, width)
    run.decoder.model.train()
    if run.scalars.best_loss is None or loss < run.scalars.best_loss:
        run.scalars.best_loss, run.scalars.best_step, run.scalars.stale = loss, run.scalars.step, 0
        save_best(run.places.states, run.scalars.best_step, run.masters)
    else:
        run.scalars.stale += 1
    seconds = time.monotonic() - start
    run.scalars.seconds += seconds
    _log(run, {"step": run.scalars.step, "validation_loss": loss, "seconds": round(seconds, 3)})


def _stalled(run: _Run) -> bool:
    """Whether the settings ask to stop: so many validations have not been better than the best one."""
    return run.settings.patience is not None and run.scalars.stale >= run.settings.patience


def _sample(run: _Run, due: bool) -> None:
    if due:
        run.decoder.model.eval()
        run.live.sample(run.held or run.bundles, run.scalars.step)
        run.decoder.model.train()


def _steps(run: _Run, epochs: float) -> int:
    """Steps between what is done every so many epochs."""
    return max(1, round(epochs * steps_per_epoch(len(run.bundles), run.settings.batch_size)))


def _facts(run: _Run, steps: Sequence[Step]) -> dict[str, Any]:
    done = [line for line in lines.read(run.places.metrics) if "loss" in line]
    last = [line["loss"] for line in done[-_WINDOW:]]
    tokens = sum(line["tokens"] for line in done)
    return {
        "examples": len(run.bundles),
        "validation_examples": len(run.held),
        "tokens": tokens,
        "labelled_tokens": sum(line["labelled_tokens"] for line in done),
        "computed_tokens": sum(line["computed_tokens"] for line in done),
        "steps": run.scalars.step,
        "planned_steps": len(steps),
        "seconds": round(run.scalars.seconds, 2),
        "tokens_per_second": round(tokens / max(run.scalars.seconds, 1e-9), 1),
        "final_loss": sum(last) / len(last),
        "best_validation_loss": run.scalars.best_loss,
        "best_step": run.scalars.best_step if run.held else run.scalars.step,
        "trainable_parameters": sum(
            weight.numel() for weight in run.decoder.model.parameters() if weight.requires_grad
        ),
        "ranks": ranks.count(),
        "schedule": asdict(run.schedule),
    }


@torch.no_grad()
def _put(model: Any, weights: dict[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in weights:
            round_into(parameter, weights[name], name)


def _work(run: _Run, steps: Sequence[Step]) -> int:
    return sum(_tokens(run, step) for step in steps)


def _stream() -> TextIO:
    return sys.stderr if ranks.rank() == 0 else io.StringIO()


def _tokens(run: _Run, step: Step) -> int:
    return sum(len(row.ids) for i in step for row in run.bundles[i])


def _log(run: _Run, line: dict[str, Any]) -> None:
    if ranks.rank():
        return
    lines.append(run.places.metrics, line)
    run.live.tell(line)

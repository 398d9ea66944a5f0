"""The measured dry run: a few steps and one batch of questions say how long a run will take, and whether it fits."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shinan.core.errors import RunError
from shinan.core.registry import bind
from shinan.evaluate.run import plan_batches
from shinan.models.generator import Request, Sampling
from shinan.models.memory import free_memory
from shinan.recipe.schema import EvalTask
from shinan.recipe.stages import Room, Supervised, before_styles, generators_of, items_of, loaded, replay
from shinan.train import methods
from shinan.train.rehearsal import Rehearsal, rehearse

_TOKENIZER = 40e6  # bytes beside the weights of a saved model: a large tokenizer


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run of the recipe will take, from its evaluation before tuning to the one after.

    Attributes:
        seconds: by part: `before`, `tune`, `after`.
        memory: peak of the process, in bytes.
        disk: what the run folder will hold at its fullest, in bytes.
        free_memory: memory that the process has or could still take, in bytes.
        free_disk: free bytes where the run folder will stand.
    """

    seconds: Mapping[str, float]
    memory: int
    disk: int
    free_memory: int
    free_disk: int


def dry_run(room: Room, data: Supervised, folder: Path) -> Forecast:
    """Ask the model one batch of each task's questions, do a few steps of tuning, and forecast the run in `folder`.

    Replies of the tuned model are taken to be as long as those before tuning. Nothing is written.

    Raises TrainingError or RunError for a run that will not fit, saying what to lower.
    """
    once = 0.0
    styles = before_styles(room)
    with loaded(room.model, room.setting) as weights:
        for task in room.recipe.evaluate:
            once += _asking(room, weights, task)
        saved = sum(parameter.numel() * parameter.element_size() for parameter in weights.parameters())
        device = weights.device
    rehearsal = _rehearsed(room, data)
    home = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    adapter = methods.is_adapter(room.recipe.tune)
    merged = saved if methods.merges(room.recipe.tune) else 0  # what is learned is merged into a copy of the model
    written = rehearsal.later_bytes if adapter else saved
    forecast = Forecast(
        seconds={"before": len(styles) * once, "tune": rehearsal.seconds, "after": once},
        memory=_peak() + rehearsal.later_bytes + merged,
        disk=int(rehearsal.disk_bytes + 2 * (written + _TOKENIZER)),
        free_memory=_peak() + free_memory(device),
        free_disk=shutil.disk_usage(home).free,
    )
    _refuse(forecast, home)
    return forecast


def _asking(room: Room, weights: Any, task: EvalTask) -> float:
    """Seconds of asking all items of a task once, from the batch in the middle: prompts are planned by length."""
    items = items_of(task, room.recipe.seed)
    batches = list(plan_batches(items))
    middle = [items[index] for index in batches[len(batches) // 2]]
    [ask] = generators_of(room.model, weights, [room.setting.chat])
    sampling = Sampling(max_new_tokens=task.max_new_tokens)
    start = time.monotonic()
    ask.generator.generate([Request(item.prompt, sampling=sampling) for item in middle])
    return (time.monotonic() - start) * len(items) / len(middle)


def _rehearsed(room: Room, data: Supervised) -> Rehearsal:
    tune = room.recipe.tune
    objective = bind("objective", tune.objective, tune.params)()
    beside, seed = replay(room, data.chat.tokenizer), room.recipe.seed
    with loaded(room.model, room.setting) as model:
        return rehearse(methods.wrap(model, tune, seed), objective, data.bundles, tune, seed, beside)


def _peak() -> int:
    """The most memory that this process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _refuse(forecast: Forecast, home: Path) -> None:
    if forecast.disk > forecast.free_disk:
        raise RunError(
            f"the run needs {forecast.disk / 1e9:.1f} GB of disk, and {forecast.free_disk / 1e9:.1f} GB are free",
            where=str(home),
            fix="free some space (`shinan clean` shows what can go), or set tune.method: lora",
        )

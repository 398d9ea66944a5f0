"""Pre-flight: a recipe's data made ready and audited as a run would, without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from shinan.core.dataset import new_folder, read_rows
from shinan.core.example import Example
from shinan.core.store import Store, cache_root
from shinan.models.forest import Bundle
from shinan.models.sources import resolve
from shinan.recipe.dryrun import Forecast, dry_run
from shinan.recipe.plan import leading_to, plan, rows_stage, state_of
from shinan.recipe.run import decide
from shinan.recipe.schema import Recipe
from shinan.recipe.stages import WORK, Room, Supervised, examine, supervised
from shinan.train.findings import Finding
from shinan.train.rows import split, steps_per_epoch


@dataclass(frozen=True, slots=True)
class Checked:
    """What a run of the recipe would train on, and what is wrong with it.

    Attributes:
        data: the rows, as examples and as tokens.
        findings: what the audit found.
        steps: optimiser steps of the run.
        forecast: what the run will take, if it was measured.
    """

    data: Supervised
    findings: list[Finding]
    steps: int
    forecast: Forecast | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """Rows, tokens and labelled tokens of one epoch, the rows held for validation among them."""
        rows = [row for bundle in self.data.bundles for row in bundle]
        tokens = sum(len(row.ids) for row in rows)
        return {"rows": len(rows), "tokens": tokens, "labelled": sum(row.labelled for row in rows)}


def check(recipe: Recipe, folder: Path, *, measure: bool = False) -> Checked:
    """Build and curate the recipe's data, write it as tokens, and audit it; with `measure`, also a dry run.

    The dry run asks the model some questions and does a few steps of tuning (see `dryrun`), unless the audit has found
    what stops a run.

    What the run folder `folder` or another run has already built is taken from there. Nothing is written but in a
    temporary folder, which goes at the end, and in the model cache.

    Raises ShinanError for a recipe that could not be run; what the audit finds is returned (see `findings.refuse`).
    """
    model = resolve(recipe.model)
    setting = decide(recipe, model, folder)
    with TemporaryDirectory(prefix="shinan-check-") as temporary:
        room = Room(recipe, setting, Path(temporary), model)
        data = supervised(room, _data(room, folder))
        findings = examine(room, data)
        sound = measure and all(finding.severity != "stop" for finding in findings)
        forecast = dry_run(room, data, folder) if sound else None
        return Checked(data, findings, _steps(recipe, data.bundles), forecast)


def _data(room: Room, run: Path) -> list[Example]:
    """The rows to train on, made in the room's folder or linked from where they are finished."""
    store = Store(cache_root())
    for stage in leading_to("curate", plan(room.recipe, room.setting)):
        target = room.stage(stage.id)
        target.parent.mkdir(exist_ok=True)
        if source := state_of(stage, run, store).source:
            target.symlink_to(source.absolute(), target_is_directory=True)
        else:
            with new_folder(target) as beside:
                WORK[stage.kind](room, stage, beside)
    return read_rows(room.stage(rows_stage(room.recipe)))


def _steps(recipe: Recipe, bundles: Sequence[Bundle]) -> int:
    train, _ = split([bundle[0].row for bundle in bundles], recipe.tune.validation, recipe.seed)
    return max(1, round(recipe.tune.epochs * steps_per_epoch(len(train), recipe.tune.batch_size)))

"""Executing a plan: a stage that is done is reused, one that was begun is resumed, any other is run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from shinan.core.config import dump_yaml
from shinan.core.dataset import (
    MANIFEST,
    Manifest,
    describe_files,
    new_folder,
    read_manifest,
    write_atomic,
    write_manifest,
)
from shinan.core.errors import RunError
from shinan.core.progress import clock_text
from shinan.core.store import Store, cache_root
from shinan.evaluate.samples import marker_of
from shinan.models.card import load_card
from shinan.models.precision import default_device, probe_dtype
from shinan.models.sources import resolve
from shinan.recipe.lock import locked
from shinan.recipe.named import chat_of
from shinan.recipe.plan import Goal, Setting, Stage, State, differing, leading_to, plan, state_of, states
from shinan.recipe.schema import Recipe
from shinan.recipe.stages import WORK, Outcome, Room, help_tuning
from shinan.train import ranks
from shinan.train.live import SAMPLES

_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def run(recipe: Recipe, folder: Path, goal: Goal = "all") -> Path:
    """Bring the run folder up to date with the recipe, as far as the goal needs it; returns the folder.

    Finished stages are kept, whichever run did them; a stage that was interrupted goes on where it can. Of the
    processes that torchrun starts, number 0 does all that; the others help it to tune, and exit.

    Raises ShinanError for anything the user can act on, and KeyboardInterrupt after saving what can be saved.
    """
    if ranks.place():
        _help(recipe, folder)
        raise SystemExit(0)
    with locked(folder):
        store = Store(cache_root())
        model = resolve(recipe.model)
        setting = decide(recipe, model, folder)
        stages = plan(recipe, setting)
        write_plan(folder, recipe, setting, stages, states(stages, folder, store))
        torch.use_deterministic_algorithms(True)
        room = Room(recipe, setting, folder, model)
        wanted = leading_to(goal, stages)
        for number, stage in enumerate(wanted, 1):
            state = state_of(stage, folder, store)
            _say(f"[{number}/{len(wanted)}] {stage.id}: {state.why if state.status == 'cached' else 'running'}")
            _bring(stage, state, room, store)
        ranks.call(None)  # nothing was left to tune
        return folder


def wait_for_rank_0() -> None:
    """In a process that torchrun has started beside it, wait until number 0 has come to tuning, or has nothing left."""
    if ranks.place():
        ranks.hear()


def _help(recipe: Recipe, folder: Path) -> None:
    """Tune with rank 0, once it has come to that, on the rows that it has made."""
    if (setting := ranks.hear()) is None:
        return
    model = resolve(recipe.model)
    own = replace(Setting(**setting), model=load_card(model).fingerprint)
    torch.use_deterministic_algorithms(True)
    stage = next(stage for stage in plan(recipe, own) if stage.kind == "tune")
    with ranks.together(own.device):
        _agree(recipe, own)
        help_tuning(Room(recipe, own, folder, model), stage)


def _lead(room: Room, stage: Stage, out: Path) -> Outcome:
    """Tune with all that torchrun has started."""
    ranks.call(asdict(room.setting))
    with ranks.together(room.setting.device):
        _agree(room.recipe, room.setting)
        return WORK[stage.kind](room, stage, out)


def _agree(recipe: Recipe, setting: Setting) -> None:
    """Raise RunError if another rank would make other rows, tune otherwise, or hold another part."""
    division = recipe.tune.model_dump(include={"shard", "tensor_parallel"})
    mine: dict[str, Any] = {"versions": _versions(), "division": division}
    for stage in plan(recipe, setting):
        mine[stage.id] = {name: value for name, value in stage.identity.items() if name != "parents"}
    first, *others = ranks.everyone(mine)
    for rank, other in enumerate(others, 1):
        if found := sorted(differing(first, other)):
            raise RunError(
                f"rank {rank} would not do what rank 0 does: it has another {', '.join(found[:5])}",
                fix="start all ranks with the same command, files and versions",
            )


def preview(recipe: Recipe, folder: Path) -> list[tuple[Stage, State]]:
    """What `run` would do, without doing it. The model itself is fetched, since every key depends on it."""
    store = Store(cache_root())
    stages = plan(recipe, decide(recipe, resolve(recipe.model), folder))
    found = states(stages, folder, store)
    return [(stage, found[stage.id]) for stage in stages]


def decide(recipe: Recipe, model: Path, folder: Path) -> Setting:
    """Chat format, number format and device: as plan.json says if the run was begun before, else decided now."""
    begun = _begun(folder).get("probe") or {}
    device = begun.get("device") or default_device().type
    dtype = _DTYPES.get(recipe.tune.precision) or begun.get("dtype")
    if dtype is None:
        dtype = str(probe_dtype(torch.device(device))).removeprefix("torch.")
    return Setting(load_card(model).fingerprint, chat_of(model, recipe.chat).name, dtype, device)


def _begun(folder: Path) -> dict[str, Any]:
    """plan.json of an earlier attempt in this folder, if there is one."""
    try:
        document = json.loads((folder / "plan.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _bring(stage: Stage, state: State, room: Room, store: Store) -> None:
    """Have the stage's artefact in the run folder: nothing to do, link it from another run, or do the work."""
    target = room.stage(stage.id)
    if state.source == target:
        return
    if state.source is not None:
        if stage.kind == "tune":  # what lies here is of a tuning with other settings
            shutil.rmtree(room.folder / "checkpoints", ignore_errors=True)
            (room.folder / SAMPLES).unlink(missing_ok=True)
        _adopt(state.source, target)
    else:
        start = time.monotonic()
        # The old manifest goes first: from here on what it describes is being replaced.
        (target / MANIFEST).unlink(missing_ok=True)
        with new_folder(target) as beside:
            outcome = (_lead if stage.kind == "tune" else WORK[stage.kind])(room, stage, beside)
            write_manifest(
                beside,
                Manifest(
                    stage=stage.id,
                    use=stage.use,
                    key=stage.key,
                    parents=tuple(stage.identity["parents"].values()),
                    identity=stage.identity,
                    tally=outcome.tally,
                    facts=outcome.facts,
                    files=describe_files(beside, outcome.files),
                    seconds=round(outcome.facts.get("seconds", 0.0) or time.monotonic() - start, 2),
                ),
            )
        _say(f"    done in {clock_text(time.monotonic() - start)}")
    store.record(stage.key, target)


def _adopt(source: Path, target: Path) -> None:
    """Link a finished stage of another run into this one (or copy, across file systems), manifest last."""
    manifest = read_manifest(source)
    if manifest is None:
        raise RunError("the stage vanished while it was being read", where=str(source), fix="run again")
    with new_folder(target) as beside:
        for name in (*manifest.files, MANIFEST):
            path = beside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            marker_of(path).unlink(missing_ok=True)
            try:
                os.link(source / name, path)
            except OSError:
                shutil.copy2(source / name, path)


def write_plan(folder: Path, recipe: Recipe, setting: Setting, stages: list[Stage], found: dict[str, State]) -> None:
    """Write recipe.yaml (resolved) and plan.json: what runs, why, and what the probe chose for this folder."""
    resolved = recipe.model_dump(mode="json", by_alias=True)
    write_atomic(folder / "recipe.yaml", dump_yaml(resolved))
    table = [
        {"id": s.id, "use": s.use, "key": s.key, "status": found[s.id].status, "why": found[s.id].why} for s in stages
    ]
    # A dtype that the recipe names is not kept as the probe's: without it the probe is asked again.
    probe = {"device": setting.device} | ({"dtype": setting.dtype} if recipe.tune.precision == "auto" else {})
    begun = _begun(folder)  # the tuning engine's entries say themselves for which key they hold
    document = {
        "setting": asdict(setting),
        "probe": probe,
        **{name: noted for name, noted in begun.items() if name in ("schedule", "divided")},
        "versions": _versions(),
        "machine": _machine(setting),
        "stages": table,
    }
    write_atomic(folder / "plan.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _versions() -> dict[str, str]:
    names = ("shinan", "torch", "transformers", "tokenizers", "peft", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _machine(setting: Setting) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    return facts | ({"gpu": torch.cuda.get_device_name()} if setting.device == "cuda" else {})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

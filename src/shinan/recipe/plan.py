"""From a recipe to stages, each with a key made of everything that decides its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from shinan.core.dataset import Manifest, is_whole, read_manifest
from shinan.core.hashing import content_hash
from shinan.core.registry import bind
from shinan.core.store import Store
from shinan.recipe.schema import EvalTask, Recipe, bound
from shinan.recipe.wiring import in_order

Kind = Literal["build", "items", "curate", "mix", "replay", "audit", "before", "tune", "after", "compare"]

Goal = Literal["build", "curate", "tune", "all"]
_GOALS: Mapping[Goal, tuple[Kind, ...]] = {
    "build": ("build",),
    "curate": ("curate", "mix", "replay"),
    "tune": ("tune",),
    "all": get_args(Kind),
}

# Raised when the code of a stage changes its results. Components carry versions of their own.
_VERSIONS: Mapping[Kind, int] = {
    "build": 2,
    "items": 1,
    "curate": 3,
    "mix": 1,
    "replay": 2,
    "audit": 2,
    "before": 1,
    "tune": 4,
    "after": 1,
    "compare": 1,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What the machine and the model contribute to keys: decided once for a run folder and kept in its plan.json.

    Attributes:
        model: fingerprint of the base model.
        chat: name of the chat format.
        dtype: number format of the computation, chosen by a probe or by the recipe.
        device: `cpu` or `cuda`.
    """

    model: str
    chat: str
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One unit of work.

    Attributes:
        id: folder name under `stages/`.
        kind: what sort of work.
        use: the component, for people.
        needs: ids of the stages whose artefacts it reads.
        subject: id of the build source or evaluation task it belongs to, if any.
        identity: everything its result depends on, in the open.
        key: hash of `identity`.
    """

    id: str
    kind: Kind
    use: str
    needs: tuple[str, ...]
    subject: str
    identity: Mapping[str, Any]
    key: str


def plan(recipe: Recipe, setting: Setting) -> list[Stage]:
    """The recipe's stages in the order in which they run."""
    stages: dict[str, Stage] = {}
    for id_, kind, use, needs, subject, own in _outline(recipe, setting):
        identity = {
            "kind": kind,
            "version": _VERSIONS[kind],
            "seed": recipe.seed,
            "parents": {need: stages[need].key for need in needs},
            **own,
        }
        stages[id_] = Stage(id_, kind, use, needs, subject, identity, content_hash(identity))
    return list(stages.values())


def _outline(recipe: Recipe, setting: Setting) -> Iterator[tuple[str, Kind, str, tuple[str, ...], str, dict[str, Any]]]:
    machine = {"model": setting.model, "chat": setting.chat, "dtype": setting.dtype, "device": setting.device}
    builds = tuple(f"build.{use.id}" for use in recipe.build if use.train)
    items = tuple(f"items.{task.id}" for task in recipe.evaluate)
    for use in in_order(recipe.build):
        needs = tuple(f"build.{id_}" for id_ in use.inputs)
        own = bound("build", use).identity() | ({"from": use.inputs} if use.inputs else {})
        yield f"build.{use.id}", "build", f"build.{use.use}", needs, use.id, own
    for task in recipe.evaluate:
        yield f"items.{task.id}", "items", f"build.{task.use}", (), task.id, bound("build", task).identity()
    checks = [bound("check", use).identity() for use in recipe.curate]
    clean = recipe.decontaminate.model_dump() if not isinstance(recipe.decontaminate, bool) else False
    forbidden = {"licences": recipe.licences.forbid} if recipe.licences.forbid else {}
    rules = {"decontaminate": clean, **forbidden}
    yield "curate", "curate", "curate", builds + items, "", {"checks": checks, **rules}
    if recipe.tune.replay:
        needs = (f"build.{recipe.tune.replay.source}", *items)
        yield "replay", "replay", "replay", needs, "", rules
    rows = rows_stage(recipe)
    if recipe.mix:
        yield "mix", "mix", "mix", ("curate",), "", {"rule": recipe.mix.model_dump(mode="json")}
    yield "audit", "audit", "audit", (rows,), "", machine | _supervision(recipe)
    for task in recipe.evaluate:
        yield (
            f"evaluate.{task.id}.before",
            "before",
            "evaluate",
            (f"items.{task.id}",),
            task.id,
            machine | _asking(task),
        )
    beside = ("replay",) if recipe.tune.replay else ()
    yield "tune", "tune", f"tune.{recipe.tune.objective}", (rows, "audit", *beside), "", machine | _tuning(recipe)
    for task in recipe.evaluate:
        needs = (f"items.{task.id}", "tune")
        yield f"evaluate.{task.id}.after", "after", "evaluate", needs, task.id, machine | _asking(task)
    sides = tuple(f"evaluate.{task.id}.{side}" for task in recipe.evaluate for side in ("before", "after"))
    yield "compare", "compare", "compare", sides, "", {}


def leading_to(goal: Goal, stages: Sequence[Stage]) -> list[Stage]:
    """The stages that make up the goal and all that they need, in the order in which they run."""
    needed: set[str] = set()
    for stage in reversed(stages):
        if stage.kind in _GOALS[goal] or stage.id in needed:
            needed |= {stage.id, *stage.needs}
    return [stage for stage in stages if stage.id in needed]


def rows_stage(recipe: Recipe) -> str:
    """Id of the stage whose rows are trained on."""
    return "mix" if recipe.mix else "curate"


def _asking(task: EvalTask) -> dict[str, Any]:
    scorers = [bind("scorer", metric, {}).identity() for metric in task.metrics]
    return {"metrics": scorers, "max_new_tokens": task.max_new_tokens}


_SUPERVISION = {
    *("objective", "params", "max_tokens", "too_long", "loss", "weights"),
    *("method", "lora", "prefix", "prompt", "freeze"),
}


def _supervision(recipe: Recipe) -> dict[str, Any]:
    """What decides which tokens are trained, and whether the model can learn them."""
    return recipe.tune.model_dump(mode="json", include=_SUPERVISION)


def _tuning(recipe: Recipe) -> dict[str, Any]:
    # When checkpoints are written, and who watches, does not change what they hold. Nor, but for rounding, do ranks and
    # what each holds: a run may go on with another number of them.
    aside = {"save_every", "precision", "track", "sample", "shard", "tensor_parallel"}
    objective = bind("objective", recipe.tune.objective, recipe.tune.params).identity()
    return {"settings": recipe.tune.model_dump(mode="json", exclude=aside), "objective": objective}


@dataclass(frozen=True, slots=True)
class State:
    """Whether a stage must run.

    Attributes:
        status: `cached`, `run`, or `blocked` (by a stage it needs that must run first).
        why: for people.
        source: the finished folder to take it from; its own, or another run's.
    """

    status: Literal["cached", "run", "blocked"]
    why: str
    source: Path | None = None


def states(stages: list[Stage], folder: Path, store: Store) -> dict[str, State]:
    """The state of each stage in the run folder `folder`, before anything has run."""
    found: dict[str, State] = {}
    for stage in stages:
        state = state_of(stage, folder, store)
        if state.status == "run":
            waiting = [need for need in stage.needs if found[need].status != "cached"]
            if waiting:
                state = State("blocked", f"waits for {', '.join(waiting)}")
        found[stage.id] = state
    return found


def state_of(stage: Stage, run: Path, store: Store) -> State:
    """Whether the stage is done, here or in another run; what it needs is not looked at."""
    folder = run / "stages" / stage.id
    own = read_manifest(folder)
    if own and own.key == stage.key and is_whole(folder, own):
        return State("cached", "done in this run", folder)
    for other in store.find(stage.key):
        manifest = read_manifest(other)
        if manifest and manifest.key == stage.key and is_whole(other, manifest):
            return State("cached", f"done in {other.parent.parent.name}", other)
    if own is None:
        return State("run", "not done yet")
    if own.key == stage.key:
        return State("run", "its files are missing or cut")
    return State("run", f"changed: {', '.join(differences(own, stage)) or 'its files'}")


def differences(old: Manifest, stage: Stage) -> list[str]:
    """Dotted names of what differs between an artefact's identity and the stage's."""
    return sorted(differing(old.identity, stage.identity))


def differing(old: object, new: object, path: str = "") -> Iterator[str]:
    """Dotted names of what differs between two nested mappings."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in old.keys() | new.keys():
            yield from differing(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield path

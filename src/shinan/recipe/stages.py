"""What each kind of stage does: one function per kind, each a call into another package."""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from shinan.build.mix import mix, mixed
from shinan.build.mixture import Mix
from shinan.core.dataset import Judged, iter_rows, new_folder, read_manifest, read_rows, write_rows, write_stream
from shinan.core.errors import ConfigError, DataError, Problem, RunError
from shinan.core.example import Example
from shinan.core.hashing import derive_seed
from shinan.core.licence import describe
from shinan.core.registry import bind
from shinan.core.verdict import Verdict
from shinan.curate.licences import licences
from shinan.curate.overlap import overlap
from shinan.curate.run import curate
from shinan.evaluate.results import best_style, compare_samples, means
from shinan.evaluate.run import Ask, as_items, evaluate
from shinan.evaluate.samples import Sample, read_samples
from shinan.models.card import load_card
from shinan.models.chat import ChatFormat, chat_format, fits
from shinan.models.checkpoint import load_model, save_adapter, save_model
from shinan.models.forest import Bundle
from shinan.models.local import LocalGenerator
from shinan.models.tokenizer import Tokenizer
from shinan.recipe.plan import Kind, Setting, Stage, rows_stage
from shinan.recipe.schema import EvalTask, Recipe, Use, bound
from shinan.train import methods
from shinan.train.audit import audit, audit_saved
from shinan.train.engine import Fitted, Places, fit
from shinan.train.facts import facts_of
from shinan.train.findings import Finding, refuse
from shinan.train.live import SAMPLES
from shinan.train.replay import Replay, text_rows
from shinan.train.rows import tokenise

ADAPTER = "adapter"  # folder of the adapter among the checkpoints
CHECKPOINTS = ("last", "best", ADAPTER)
PLAIN = "plain"  # the style a base model is asked in beside the tuned template


@dataclass(frozen=True, slots=True)
class Room:
    """What a stage may look at.

    Attributes:
        recipe: the whole recipe.
        setting: model fingerprint, chat format, number format, device.
        folder: the run folder.
        model: folder of the base model.
    """

    recipe: Recipe
    setting: Setting
    folder: Path
    model: Path

    def stage(self, id_: str) -> Path:
        """Folder of a finished stage."""
        return self.folder / "stages" / id_


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage's manifest is to say; file names are relative to the stage's folder."""

    tally: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[str] = ("data.parquet", "dropped.parquet")


def _build(room: Room, stage: Stage, out: Path) -> Outcome:
    use = next(use for use in room.recipe.build if use.id == stage.subject)
    build, seed = bound("build", use), derive_seed(room.recipe.seed, "build", use.id)
    taken = [row for id_ in use.inputs for row in read_rows(room.stage(f"build.{id_}"))]
    rows: Iterable[Judged] = build(seed, taken) if build.component.takes_rows else build(seed)
    return Outcome(write_stream(out, (_of_build(row, use.id) for row in rows)).to_dict())


def _of_build(row: Judged, id_: str) -> Judged:
    """The row with a tag that names its build stage."""
    return row.tagged("build", id_) if isinstance(row, Example) else (row[0].tagged("build", id_), row[1])


def _items(room: Room, stage: Stage, out: Path) -> Outcome:
    return Outcome(write_stream(out, _judged_items(_task(room, stage), room.recipe.seed)).to_dict())


def _curate(room: Room, stage: Stage, out: Path) -> Outcome:
    return _cleaned(room, stage, out, room.recipe.curate)


def _replay(room: Room, stage: Stage, out: Path) -> Outcome:
    return _cleaned(room, stage, out, [])


def _cleaned(room: Room, stage: Stage, out: Path, uses: Sequence[Use]) -> Outcome:
    """The rows of the build stages it needs that pass the checks, have licences that may be, and are no item's."""
    # Memory grows with the rows here, and again where they are tokenised: a check judges them all at once.
    rows = [row for need in stage.needs if need.startswith("build.") for row in iter_rows(room.stage(need))]
    items = [row for need in stage.needs if need.startswith("items.") for row in read_rows(room.stage(need))]
    checks = [(use.use, bound("check", use)()) for use in uses]
    if forbid := room.recipe.licences.forbid:
        checks.insert(0, ("licences", licences(forbid)))
    rule = room.recipe.decontaminate
    if not isinstance(rule, bool):
        checks.append(("overlap", overlap(items, n=rule.n, share=rule.share)))
    kept, dropped = curate(rows, checks)
    tally = write_rows(out, kept, dropped)
    if not kept:
        reasons = ", ".join(f"{reason} {n}" for reason, n in tally.dropped.most_common(5))
        raise DataError(
            f"no row is left after curation: {tally.seen} seen, dropped for {reasons or 'nothing'}",
            where=stage.id,
            fix="loosen the check that drops most, or add data",
        )
    return Outcome(tally.to_dict(), {"licences": describe(Counter(row.provenance.licence for row in kept))})


def _mix(room: Room, stage: Stage, out: Path) -> Outcome:
    source = room.stage("curate")
    mixture = mix(iter_rows(source), room.recipe.mix or Mix(), derive_seed(room.recipe.seed, "mix"))
    licences_of = Counter[str]()
    write_stream(out, _noted(mixed(source, mixture), licences_of))
    tally = mixture.tally
    facts = {"written": len(mixture.order), "distinct": tally.kept, "sources": mixture.sources}
    return Outcome(tally.to_dict(), facts | {"licences": describe(licences_of)})


def _noted(rows: Iterable[Judged], licences_of: Counter[str]) -> Iterator[Judged]:
    """The rows as they are; the licences of those that are kept are counted on the way."""
    for row in rows:
        if isinstance(row, Example):
            licences_of[row.provenance.licence] += 1
        yield row


def _before(room: Room, stage: Stage, out: Path) -> Outcome:
    task = _task(room, stage)
    styles = before_styles(room)
    facts, log = _ask(room, stage, room.model, styles, "before")
    samples = read_samples(log)
    facts |= {"style": best_style(samples, task.metrics[0]), "styles": means(samples, task.metrics)}
    return Outcome(facts=facts, files=[_outside(log, room)])


def before_styles(room: Room) -> list[str]:
    """How the untuned model is asked: in the tuned format, and as a base model would best be, where that is another."""
    also = [PLAIN] if fits(PLAIN, Tokenizer.load(room.model)) else []
    return list(dict.fromkeys([room.setting.chat, *also]))


def _after(room: Room, stage: Stage, out: Path) -> Outcome:
    facts, log = _ask(room, stage, room.folder / "checkpoints" / "best", [room.setting.chat], "after")
    return Outcome(facts=facts, files=[_outside(log, room)])


def _ask(room: Room, stage: Stage, model: Path, styles: Sequence[str], side: str) -> tuple[dict[str, Any], Path]:
    task = _task(room, stage)
    log = room.folder / "eval" / f"{task.id}.{side}.jsonl"
    items = read_rows(room.stage(f"items.{task.id}"))
    with loaded(model, room.setting) as weights:
        generators = generators_of(model, weights, styles)
        samples = ask(task, items, generators, log=log, key=stage.key, what=f"asking {side} tuning")
    return {"n": len(samples) // len(styles), "model": load_card(model).name}, log


def _audit(room: Room, stage: Stage, out: Path) -> Outcome:
    findings = examine(room, supervised(room, read_rows(room.stage(rows_stage(room.recipe)))))
    refuse(findings)
    return Outcome(facts={"findings": [asdict(finding) for finding in findings]}, files=[])


def _tune(room: Room, stage: Stage, out: Path) -> Outcome:
    settings = room.recipe.tune
    data = supervised(room, read_rows(room.stage(rows_stage(room.recipe))))
    tally = write_rows(out, data.kept, data.dropped)
    checkpoints = room.folder / "checkpoints"
    with loaded(room.model, room.setting) as base:
        model, fitted = _fitted(room, stage, data, base)
        for which in ("last", "best"):
            fitted.restore(which)
            _save(room, model, data, checkpoints / which)
        shutil.rmtree(checkpoints / ADAPTER, ignore_errors=True)  # of an earlier run with another method
        if methods.merges(settings):
            with new_folder(checkpoints / ADAPTER) as beside:
                _write_adapter(room, model, data.chat, beside, ADAPTER)  # the best one, which was restored last
    facts = fitted.facts | {"dtype": room.setting.dtype, "settings": settings.model_dump(mode="json", by_alias=True)}
    saved = [path for which in CHECKPOINTS for path in sorted((checkpoints / which).rglob("*"))]
    files = [_outside(path, room) for path in saved if path.is_file()]
    logs = [_outside(path, room) for name in ("metrics.jsonl", SAMPLES) if (path := room.folder / name).exists()]
    return Outcome(tally.to_dict(), facts, [*files, *logs, "data.parquet", "dropped.parquet"])


def _fitted(room: Room, stage: Stage, data: Supervised, model: Any) -> tuple[Any, Fitted]:
    """The model, wrapped if the method does that, and tuned."""
    settings = room.recipe.tune
    objective = bind("objective", settings.objective, settings.params)()
    places = Places(room.folder / "checkpoints" / "states", room.folder / "metrics.jsonl", room.folder / "plan.json")
    model, seed, chat = methods.wrap(model, settings, room.recipe.seed), room.recipe.seed, data.chat
    text = replay(room, chat.tokenizer)
    return model, fit(
        model, objective, data.bundles, settings, key=stage.key, seed=seed, places=places, chat=chat, replay=text
    )


def help_tuning(room: Room, stage: Stage) -> None:
    """Tune as a rank beside the one that does the whole stage; what comes of it is the other's to write.

    Raises RunError if the rows that the other has made cannot be seen from here.
    """
    rows = room.stage(rows_stage(room.recipe))
    manifest = read_manifest(rows)
    if manifest is None or manifest.key != stage.identity["parents"][rows.name]:
        what, fix = "the rows that rank 0 has made are not here", "put --runs on a disk that all machines share"
        raise RunError(what, where=str(rows), fix=fix)
    with loaded(room.model, room.setting) as model:
        _fitted(room, stage, supervised(room, read_rows(rows)), model)


def _save(room: Room, model: Any, data: Supervised, folder: Path) -> None:
    """Write a checkpoint, whole or as an adapter, and check that it stops and is prompted as it was trained."""
    chat, settings = data.chat, room.recipe.tune
    with new_folder(folder) as beside:
        if methods.is_adapter(settings):
            _write_adapter(room, model, chat, beside, folder.name)
        else:
            name, parents = f"{room.recipe.name}/{folder.name}", [load_card(room.model)]
            save_model(beside, methods.whole(model, settings), chat.tokenizer, chat, name=name, parents=parents)
        refuse(audit_saved(beside, chat, data.kept))


def _write_adapter(room: Room, model: Any, chat: ChatFormat, out: Path, name: str) -> None:
    """Write the adapter of the model as it is now, for those who have the base model."""
    name, base = f"{room.recipe.name}/{name}", base_reference(room.recipe.model, room.model)
    save_adapter(out, model, chat.tokenizer, chat, name=name, base=base, parents=[load_card(room.model)])


def _compare(room: Room, stage: Stage, out: Path) -> Outcome:
    facts: dict[str, list[Any]] = {"evaluation": [], "categories": []}
    for task in room.recipe.evaluate:
        before, after = (read_samples(room.folder / "eval" / f"{task.id}.{side}.jsonl") for side in ("before", "after"))
        seed = derive_seed(room.recipe.seed, "compare", task.id)
        for name, rows in compare_samples(before, after, task.metrics, task=task.id, seed=seed).items():
            facts[name] += rows
    return Outcome(facts=facts, files=[])


WORK: Mapping[Kind, Callable[[Room, Stage, Path], Outcome]] = {
    "build": _build,
    "items": _items,
    "curate": _curate,
    "mix": _mix,
    "replay": _replay,
    "audit": _audit,
    "before": _before,
    "tune": _tune,
    "after": _after,
    "compare": _compare,
}


@dataclass(frozen=True, slots=True)
class Supervised:
    """What a run trains on.

    Attributes:
        chat: the chat format it is written in.
        kept: the examples that are trained on.
        bundles: the same as tokens, in the same order.
        dropped: the examples that cannot be trained on, each with its verdict.
    """

    chat: ChatFormat
    kept: list[Example]
    bundles: list[Bundle]
    dropped: list[tuple[Example, Verdict]]


def supervised(room: Room, examples: Sequence[Example]) -> Supervised:
    """The rows to train on, as tokens."""
    tune = room.recipe.tune
    chat = chat_format(room.setting.chat, Tokenizer.load(room.model))
    pairs = bind("objective", tune.objective, tune.params)().pairs
    if tune.instances_per_prompt > 1 and chat.tokenizer.decoder_start is not None:
        what = "an encoder-decoder shares whole prompts only, so that rows of a task gain nothing by meeting in a batch"
        raise ConfigError([Problem(what, "tune.instances_per_prompt", "leave it out")])
    size, long = tune.max_tokens, tune.too_long
    bundles, dropped = tokenise(examples, chat, size, too_long=long, pairs=pairs, loss=tune.loss, weights=tune.weights)
    lost = {id(example) for example, _ in dropped}
    return Supervised(chat, [example for example in examples if id(example) not in lost], bundles, dropped)


def examine(room: Room, data: Supervised) -> list[Finding]:
    """Everything that is wrong with the supervision (see `train.audit`).

    Raises what `methods.check` raises where the settings do not fit the model.
    """
    tune = room.recipe.tune
    with loaded(room.model, room.setting) as model:
        methods.check(model, tune)
        frozen, before = not methods.trains_head(model, tune), methods.virtual_tokens(tune)
        facts = facts_of(model, data.chat, frozen=frozen, before=before)
    pairs, cut = bind("objective", tune.objective, tune.params)().pairs, tune.too_long == "truncate"
    return audit(data.kept, data.bundles, data.dropped, data.chat, facts, pairs=pairs, cut=cut, loss=tune.loss)


def replay(room: Room, tokenizer: Tokenizer) -> Replay | None:
    """The text that is learned beside the rows, if the recipe asks for any."""
    tune = room.recipe.tune
    if tune.replay is None:
        return None
    texts = text_rows(iter_rows(room.stage("replay")), tokenizer, tune.max_tokens)
    return Replay(texts, tune.replay.gamma, tune.replay.rows or tune.batch_size, room.recipe.seed)


def base_reference(ref: str, folder: Path) -> str:
    """What an adapter calls its base: the recipe's reference, or the whole path of a folder on this machine."""
    return str(folder.resolve()) if Path(ref).expanduser().is_dir() else ref


@contextmanager
def loaded(folder: Path, setting: Setting) -> Iterator[Any]:
    """A model in memory for the length of a block, on the setting's device and in its number format."""
    model = load_model(folder, getattr(torch, setting.dtype)).to(setting.device)
    try:
        yield model
    finally:
        del model
        gc.collect()


def items_of(task: EvalTask, seed: int) -> list[Example]:
    """The items of a task in a run with this seed (see `evaluate.run.as_items`)."""
    return [row for row in _judged_items(task, seed) if isinstance(row, Example)]


def _judged_items(task: EvalTask, seed: int) -> list[Judged]:
    rows: list[Judged] = list(bound("build", task)(derive_seed(seed, "items", task.id)))
    items = as_items([row for row in rows if isinstance(row, Example)])
    if not items:
        reasons = Counter(row[1].reason for row in rows if not isinstance(row, Example)).most_common(5)
        why = ", ".join(f"{reason} {n}" for reason, n in reasons)
        fix = "name rows that can be asked, or loosen what drops them"
        raise DataError(f"no item is left of {len(rows)} rows ({why})", where=f"evaluate {task.id}", fix=fix)
    return [*items, *(row for row in rows if not isinstance(row, Example))]


def generators_of(folder: Path, weights: Any, styles: Sequence[str]) -> list[Ask]:
    """A loaded model as generators, one for each chat format it is to be asked in."""
    tokenizer, name = Tokenizer.load(folder), load_card(folder).name
    return [Ask(style, LocalGenerator(name, weights, chat_format(style, tokenizer))) for style in styles]


def ask(
    task: EvalTask,
    items: Sequence[Example],
    asks: Sequence[Ask],
    *,
    log: Path,
    key: str,
    what: str,
    batch_size: int | None = None,
) -> list[Sample]:
    """`evaluate.run.evaluate` with the metrics and the reply length of a recipe's task."""
    scorers = {metric: bind("scorer", metric, {})() for metric in task.metrics}
    new = task.max_new_tokens
    return evaluate(items, asks, scorers, max_new_tokens=new, log=log, key=key, what=what, batch_size=batch_size)


def _task(room: Room, stage: Stage) -> EvalTask:
    return next(task for task in room.recipe.evaluate if task.id == stage.subject)


def _outside(path: Path, room: Room) -> str:
    """A file of the run folder as seen from a stage's folder."""
    return f"../../{path.relative_to(room.folder).as_posix()}"

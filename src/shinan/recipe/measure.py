"""Evaluating one model outside a run, and comparing any two evaluations of the same items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shinan.core.dataset import write_atomic
from shinan.core.errors import DataError, RunError
from shinan.core.hashing import content_hash, derive_seed
from shinan.evaluate.results import best_style, compare_samples
from shinan.evaluate.samples import Sample, read_samples
from shinan.models.card import Card, load_card
from shinan.models.chat import chat_format, default_format
from shinan.models.precision import default_device, probe_dtype
from shinan.models.tokenizer import Tokenizer
from shinan.recipe.lock import locked
from shinan.recipe.named import model_folder
from shinan.recipe.plan import Setting
from shinan.recipe.schema import EvalTask, import_rooms
from shinan.recipe.stages import PLAIN, ask, generators_of, items_of, loaded

# The held-out items of recipes/quickstart.yaml, so that any model can be compared with a run of it.
HELDOUT = EvalTask.model_validate(
    {"id": "heldout", "use": "collection", "with": {"split": "heldout", "languages": ["en", "ja"], "limit": 120}}
)
_NOTE = "eval.json"
_SIDES = (".after", ".before")


def measure(
    model: str, tasks: Sequence[EvalTask], folder: Path, *, seed: int = 0, chat: str | None = None
) -> dict[str, list[Sample]]:
    """Ask a model every item of the tasks; the replies go to `folder/eval/TASK.jsonl`, and what was asked to eval.json.

    The model is asked in the chat format `chat`, else in the one it was tuned with; a base model, which has none, in
    its default format and in `plain`, as a run does before tuning. An evaluation that was interrupted goes on.

    Returns the samples by task. Raises RunError for a folder that holds something else, and what loading raises.
    """
    path = model_folder(model)
    card, tokenizer = load_card(path), Tokenizer.load(path)
    styles = _styles(card, tokenizer, chat)
    import_rooms()
    items = {task.id: items_of(task, seed) for task in tasks}
    asked = {
        "model": card.name,
        "fingerprint": card.fingerprint,
        "styles": styles,
        "tasks": [task.model_dump(mode="json", by_alias=True) for task in tasks],
        "items": {name: content_hash([[item.row, item.id] for item in rows]) for name, rows in items.items()},
    }
    with locked(_own(folder)):
        setting = _begin(folder, asked, card, styles[0])
        with loaded(path, setting) as weights:
            asks = generators_of(path, weights, styles)
            return {
                task.id: ask(
                    task,
                    items[task.id],
                    asks,
                    log=folder / "eval" / f"{task.id}.jsonl",
                    key=content_hash([asked, setting.dtype, setting.device, task.id]),
                    what=f"asking {card.name}",
                )
                for task in tasks
            }


def _styles(card: Card, tokenizer: Tokenizer, chat: str | None) -> list[str]:
    if named := chat or card.chat:
        return [chat_format(named, tokenizer).name]
    name = default_format(tokenizer).name
    return [name] if name == "tokenizer" else list(dict.fromkeys([name, PLAIN]))


def _own(folder: Path) -> Path:
    """The folder, if it is new or an evaluation's. Raises RunError else."""
    if folder.exists() and not (folder / _NOTE).is_file() and set(folder.iterdir()) - {folder / ".lock"}:
        raise RunError("this folder holds something else", where=str(folder), fix="choose another --name")
    return folder


def _begin(folder: Path, asked: Mapping[str, Any], card: Card, style: str) -> Setting:
    """The number format and device: as an earlier attempt noted, or decided and noted now.

    Raises RunError if the earlier attempt asked something else.
    """
    try:
        note = json.loads((folder / _NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        device = default_device()
        machine = {"dtype": str(probe_dtype(device)).removeprefix("torch."), "device": device.type}
        note = {"asked": asked, "machine": machine}
        write_atomic(folder / _NOTE, json.dumps(note, ensure_ascii=False, indent=1) + "\n")
    if note["asked"] != asked:
        odd = ", ".join(name for name in asked if note["asked"].get(name) != asked[name])
        fix = "choose another --name, or delete the folder"
        raise RunError(f"this folder holds another evaluation (another {odd})", where=str(folder), fix=fix)
    return Setting(card.fingerprint, style, note["machine"]["dtype"], note["machine"]["device"])


def compare_logs(before: Path, after: Path) -> list[dict[str, Any]]:
    """Paired comparisons (see `evaluate.results.compare_samples`) of two sample logs, or of each task of two folders.

    A run folder stands for its answers after tuning. Each side is taken in the style it does best in.

    Raises RunError if there is nothing to compare, DataError if the sides were asked different items.
    """
    old, new = _logs(before), _logs(after)
    if before.is_file() and after.is_file():
        old = dict(zip(new, old.values(), strict=True))
    shared = [task for task in old if task in new]
    if not shared:
        what = f"the two share no evaluation task ({', '.join(old)} and {', '.join(new)})"
        raise RunError(what, where=f"{before}, {after}", fix="evaluate both with the same --recipe")
    return [row for task in shared for row in _compare(task, read_samples(old[task]), read_samples(new[task]))]


def _logs(path: Path) -> dict[str, Path]:
    """{task: sample log} of a log, a run folder (after tuning) or an evaluation's folder."""
    if path.is_file():
        return {_task(path): path}
    found = [log for log in sorted((path / "eval").glob("*.jsonl")) if not log.stem.endswith(".before")]
    if not found:
        fix = "name a run folder, a folder of `shinan eval`, or a file runs/NAME/eval/TASK.after.jsonl"
        raise RunError("there are no evaluated answers here", where=str(path), fix=fix)
    return {_task(log): log for log in found}


def _task(log: Path) -> str:
    return next((log.stem.removesuffix(side) for side in _SIDES if log.stem.endswith(side)), log.stem)


def _compare(task: str, before: Sequence[Sample], after: Sequence[Sample]) -> list[dict[str, Any]]:
    if not before or not after:
        raise DataError("one of the two logs is empty", where=task, fix="let the evaluation finish first")
    metrics = [metric for metric in before[0].scores if metric in after[0].scores]
    if not metrics:
        raise DataError("the two logs share no metric", where=task, fix="evaluate both with the same metrics")
    style = best_style(after, metrics[0])
    after = [sample for sample in after if sample.style == style]
    asked = {sample.row: sample.id for sample in before}
    changed = [sample.row for sample in after if asked.get(sample.row, sample.id) != sample.id]
    if changed:
        what = f"before and after were asked different items: {len(changed)} of them have another text"
        raise DataError(what, where=changed[0], fix="evaluate both on the same data")
    rows = compare_samples(before, after, metrics, task=task, seed=derive_seed(0, "compare", task))["evaluation"]
    return [row | {"style_after": style} for row in rows]

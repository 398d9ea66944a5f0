"""Evaluating one model outside a run, and comparing any two evaluations of the same items."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shinan.core.dataset import write_atomic
from shinan.core.errors import DataError, RunError
from shinan.core.hashing import content_hash, derive_seed
from shinan.core.ledger import Ledger
from shinan.core.store import cache_root
from shinan.evaluate.results import best_style, compare_samples
from shinan.evaluate.run import Ask
from shinan.evaluate.samples import Sample, read_samples
from shinan.models.card import Card, load_card
from shinan.models.chat import chat_format, default_format, fits
from shinan.models.endpoint import is_endpoint, parse_endpoint
from shinan.models.estimate import Estimate, estimate, local_tokenizer
from shinan.models.generator import Request, Sampling
from shinan.models.open import FREELY, Terms, open_generator
from shinan.models.precision import default_device, probe_dtype
from shinan.models.tokenizer import Tokenizer
from shinan.recipe.lock import locked
from shinan.recipe.named import is_run, model_folder
from shinan.recipe.plan import Setting
from shinan.recipe.schema import EvalTask, import_rooms
from shinan.recipe.stages import PLAIN, ask, generators_of, items_of, loaded
from shinan.report.collect import finished_in

# The held-out items of recipes/quickstart.yaml, so that any model can be compared with a run of it.
HELDOUT = EvalTask.model_validate(
    {"id": "heldout", "use": "collection", "with": {"split": "heldout", "languages": ["en", "ja"], "limit": 120}}
)
ENDPOINT = "endpoint"
"""The style of an endpoint's answers: it writes its model's own chat format."""
_NOTE = "eval.json"
_SIDES = (".after", ".before")


def measure(
    model: str,
    tasks: Sequence[EvalTask],
    folder: Path,
    *,
    seed: int = 0,
    chat: str | None = None,
    terms: Terms = FREELY,
) -> dict[str, list[Sample]]:
    """Ask a model every item of the tasks; the replies go to `folder/eval/TASK.jsonl`, and what was asked to eval.json.

    A local model is asked in the chat format `chat`, else in the one it was tuned with; a base model, which has none,
    in its default format and in `plain`, as a run does before tuning. An endpoint writes its own format; the folder is
    the account that pays it. An evaluation that was interrupted, or stopped by its budget, goes on.

    Returns the samples by task. Raises RunError for a folder that holds something else, BudgetError for a spent
    budget, and what loading raises.
    """
    subject = _remote(model, chat, terms, folder) if is_endpoint(model) else _local(model, chat)
    import_rooms()
    items = {task.id: items_of(task, seed) for task in tasks}
    asked = {
        "model": subject.name,
        "fingerprint": subject.fingerprint,
        "styles": subject.styles,
        "tasks": [task.model_dump(mode="json", by_alias=True) for task in tasks],
        "items": {name: content_hash([[item.row, item.id] for item in rows]) for name, rows in items.items()},
    }
    with locked(_own(folder)):
        setting = _begin(folder, asked, subject)
        logs = {task.id: folder / "eval" / f"{task.id}.jsonl" for task in tasks}
        if terms.retry_failed:
            _forget_failed(logs.values())
        with subject.asks(setting) as asks:
            return {
                task.id: ask(
                    task,
                    items[task.id],
                    asks,
                    log=logs[task.id],
                    key=content_hash([asked, setting.dtype, setting.device, task.id]),
                    what=f"asking {subject.name}",
                    batch_size=subject.batch_size,
                )
                for task in tasks
            }


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is asked.

    Attributes:
        name: of the model.
        fingerprint: of its weights, or of what an endpoint is declared to be.
        styles: chat formats it is asked in.
        asks: for the length of a block, a generator for each style.
        probe: number format and device that suit it.
        batch_size: items asked together; None for as many as usual.
    """

    name: str
    fingerprint: str
    styles: list[str]
    asks: Callable[[Setting], AbstractContextManager[list[Ask]]]
    probe: Callable[[], tuple[str, str]]
    batch_size: int | None = None


def _local(model: str, chat: str | None) -> _Subject:
    path = model_folder(model)
    card, tokenizer = load_card(path), Tokenizer.load(path)
    styles = _styles(card, tokenizer, chat)

    @contextmanager
    def asks(setting: Setting) -> Iterator[list[Ask]]:
        with loaded(path, setting) as weights:
            yield generators_of(path, weights, styles)

    def probe() -> tuple[str, str]:
        device = default_device()
        return str(probe_dtype(device)).removeprefix("torch."), device.type

    return _Subject(card.name, card.fingerprint, styles, asks, probe)


def _remote(model: str, chat: str | None, terms: Terms, folder: Path) -> _Subject:
    """An endpoint. It is asked all items together, so that it is never idle; answers are kept one by one."""
    endpoint = parse_endpoint(model)
    generator = open_generator(model, chat=chat, terms=replace(terms, account=str(folder.resolve())))
    fingerprint = content_hash([endpoint.model, endpoint.revision])
    asks = [Ask(ENDPOINT, generator)]
    return _Subject(
        endpoint.model, fingerprint, [ENDPOINT], lambda _: nullcontext(asks), lambda: ("", ""), batch_size=10**6
    )


def forecast(model: str, tasks: Sequence[EvalTask], *, seed: int = 0, terms: Terms = FREELY) -> Estimate:
    """What asking an endpoint every item of the tasks would take, without asking."""
    import_rooms()
    endpoint = parse_endpoint(model)
    requests = [
        Request(item.prompt, sampling=Sampling(task.max_new_tokens)) for task in tasks for item in items_of(task, seed)
    ]
    return estimate(requests, terms.books(endpoint, Ledger(cache_root())), local_tokenizer(endpoint.model))


def _forget_failed(logs: Iterable[Path]) -> None:
    """Begin the logs with failed answers anew: all other answers are in the ledger, and asked of nobody."""
    for log in logs:
        if log.exists() and any(sample.finish == "failed" for sample in read_samples(log)):
            log.unlink()


def _styles(card: Card, tokenizer: Tokenizer, chat: str | None) -> list[str]:
    if named := chat or card.chat:
        return [chat_format(named, tokenizer).name]
    name = default_format(tokenizer).name
    also = [PLAIN] if name != "tokenizer" and fits(PLAIN, tokenizer) else []
    return list(dict.fromkeys([name, *also]))


def _own(folder: Path) -> Path:
    """The folder, if it is new or an evaluation's. Raises RunError else."""
    if (
        folder.exists()
        and not (folder / _NOTE).is_file()
        and (not folder.is_dir() or set(folder.iterdir()) - {folder / ".lock"})
    ):
        raise RunError("this folder holds something else", where=str(folder), fix="choose another --name")
    return folder


def _begin(folder: Path, asked: Mapping[str, Any], subject: _Subject) -> Setting:
    """The number format and device: as an earlier attempt noted, or decided and noted now.

    Raises RunError if the earlier attempt asked something else.
    """
    try:
        note = json.loads((folder / _NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        dtype, device = subject.probe()
        note = {"asked": asked, "machine": {"dtype": dtype, "device": device}}
        write_atomic(folder / _NOTE, json.dumps(note, ensure_ascii=False, indent=1) + "\n")
    if note["asked"] != asked:
        odd = ", ".join(name for name in asked if note["asked"].get(name) != asked[name])
        fix = "choose another --name, or delete the folder"
        raise RunError(f"this folder holds another evaluation (another {odd})", where=str(folder), fix=fix)
    machine = note["machine"]
    return Setting(subject.fingerprint, subject.styles[0], machine["dtype"], machine["device"])


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
    if is_run(path):  # others may be of an earlier recipe
        done = finished_in(path)
        found = [log for log in found if f"evaluate.{log.stem}" in done]
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

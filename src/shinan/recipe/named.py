"""Finds what the command line names: a model or the model of a run, a chat format, rows to look at."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import shinan.build.collection  # noqa: F401  registers the component
from shinan import formats
from shinan.core.dataset import read_dropped, read_rows
from shinan.core.errors import ConfigError, DataError, Problem, RunError, nearest
from shinan.core.example import Example
from shinan.core.registry import bind
from shinan.core.verdict import Verdict
from shinan.models.card import CARD, load_card
from shinan.models.chat import ChatFormat, chat_format, default_format
from shinan.models.endpoint import is_endpoint, parse_endpoint
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer
from shinan.starter import KINDS, tasks

COLLECTION = "collection:"


def is_run(folder: Path) -> bool:
    """Whether `shinan run` has made this folder."""
    return (folder / "recipe.yaml").is_file() and (folder / "plan.json").is_file()


def going_on(run: Path) -> str:
    """The command that goes on with a run, from where we are."""
    runs = run.resolve().parent
    elsewhere = ["--runs", str(runs)] if runs != Path("runs").resolve() else []
    return shlex.join(["shinan", "run", str(run / "recipe.yaml"), *elsewhere])


def model_folder(ref: str) -> Path:
    """The folder of a model reference (see `models.sources.resolve`), or of the best checkpoint of a run folder.

    Raises RunError for a run that has no tuned model, and what `resolve` raises.
    """
    folder = Path(ref).expanduser()
    if not is_run(folder):
        return resolve(ref)
    best = folder / "checkpoints" / "best"
    if not (best / CARD).is_file():
        fix = f"finish it with `{going_on(folder)}`"
        raise RunError("this run has no tuned model", where=str(folder), fix=fix)
    return best.resolve()


def model_name(ref: str) -> str:
    """What reports call the model of a reference."""
    return parse_endpoint(ref).model if is_endpoint(ref) else load_card(model_folder(ref)).name


def chat_of(folder: Path, named: str | None) -> ChatFormat:
    """The chat format of that name for a model; without a name the one the model was tuned with, else a fitting one."""
    tokenizer = Tokenizer.load(folder)
    name = named or load_card(folder).chat
    return chat_format(name, tokenizer) if name else default_format(tokenizer)


def rows_of(source: str) -> list[Example]:
    """The rows of `collection:NAME[/PART...]`, of a data file or hub dataset, or those a stage of a run has kept.

    A PART narrows the collection to `train` or `heldout`, to a language, or to a task, or names another kind of rows.

    Raises ConfigError for a part that the collection lacks, DataError for what holds no rows.
    """
    if source.startswith(COLLECTION):
        name, *parts = source.removeprefix(COLLECTION).split("/")
        rows: list[Example] = bind("build", "collection", {"name": name, **_choice(source, parts)}, where=source)(0)
        return rows
    if Path(source).is_dir():
        return read_rows(_stage(Path(source)))
    return formats.read(source)


def dropped_of(source: str) -> list[tuple[Example, Verdict]]:
    """The rows that a stage of a run has dropped, with the reasons. Raises DataError for anything but a stage."""
    if not Path(source).is_dir():
        raise DataError(
            "only a stage of a run has dropped rows", where=source, fix="name a folder like runs/NAME/stages/curate"
        )
    return read_dropped(_stage(Path(source)))


def _choice(source: str, parts: list[str]) -> dict[str, Any]:
    languages, names = {task.language for task in tasks()}, {task.name for task in tasks()}
    choice: dict[str, Any] = {"split": "all"}
    for part in filter(None, parts):
        if part in ("train", "heldout"):
            choice["split"] = part
        elif part in languages:
            choice["languages"] = [part]
        elif part in names:
            choice["tasks"] = [part]
        elif part in KINDS:
            choice["kinds"] = [part]
        else:
            fix = nearest(part, {"train", "heldout", *KINDS, *languages, *names})
            raise ConfigError([Problem(f"the collection has no part {part!r}", source, fix)])
    return choice


def _stage(folder: Path) -> Path:
    """The folder itself if it is a stage with rows."""
    if (folder / "data.parquet").is_file():
        return folder
    stages = sorted(path.parent for path in folder.glob("stages/*/data.parquet"))
    fix = f"name one of its stages: {', '.join(map(str, stages))}" if stages else "name a stage of a run, or a file"
    raise DataError("this folder holds no rows", where=str(folder), fix=fix)

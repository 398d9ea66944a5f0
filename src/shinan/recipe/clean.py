"""What the cache and the runs' checkpoints hold, and freeing it. Reports, summaries, logs and rows always stay."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR
from typing import Literal

from shinan.core.dataset import cannot_write, is_whole, read_manifest
from shinan.core.errors import RunError, nearest
from shinan.core.store import cache_root
from shinan.models.card import CARD
from shinan.recipe.lock import locked
from shinan.recipe.named import is_run

Kind = Literal["download", "model", "states", "checkpoint"]


@dataclass(frozen=True, slots=True)
class Holding:
    """A folder that can be freed.

    Attributes:
        kind: a download, a model in the cache, states to resume tuning from, or a tuned model.
        path: the folder.
        owner: the cache or the run folder it lies in.
        cost: what freeing it means, for people.
        needed: whether something unfinished rests on it.
    """

    kind: Kind
    path: Path
    owner: Path
    cost: str
    needed: bool = False


def cached() -> list[Holding]:
    """What the cache holds: downloaded packages, then each model (what a killed process left behind included)."""
    root = cache_root()
    found = [Holding("download", root / "downloads", root, "a fetch, if a model must be made again")]
    cost = "it is made again at its next use"
    found += [Holding("model", path, root, cost) for path in sorted(root.glob("models/*"))]
    return [holding for holding in found if _inside(holding)]


def checkpoints(run: Path) -> list[Holding]:
    """What a run's checkpoints hold. Raises RunError if the folder is no run."""
    if not is_run(run):
        near = sorted(path.name for path in run.parent.glob("*") if is_run(path)) if run.parent.is_dir() else []
        fix = nearest(run.name, near) or "name a folder that `shinan run` has made"
        raise RunError("this is no run folder", where=str(run), fix=fix)
    tuned = run / "stages" / "tune"
    manifest = read_manifest(tuned)
    done = manifest is not None and is_whole(tuned, manifest)
    cost = "nothing" if done else "unfinished tuning begins anew"
    found = [Holding("states", run / "checkpoints" / "states", run, cost, needed=not done)]
    cost = "the tuned model; `run` tunes again"
    found += [
        Holding("checkpoint", path, run, cost)
        for path in sorted((run / "checkpoints").glob("*"))
        if path.name != "states"
    ]
    return [holding for holding in found if _inside(holding)]


def _inside(holding: Holding) -> bool:
    """Whether it is a folder of its owner's own: no link, nor reached through one, so that nothing outside is freed."""
    path = holding.path
    return path.is_dir() and path.resolve() == holding.owner.resolve() / path.relative_to(holding.owner)


def size(holdings: Iterable[Holding]) -> int:
    """Bytes that freeing all of these gives back. A file that another run shares (a hard link) gives back nothing."""
    links: Counter[tuple[int, int]] = Counter()
    total = 0
    for holding in holdings:
        for path in holding.path.rglob("*"):
            facts = path.lstat()
            links[facts.st_dev, facts.st_ino] += 1
            if not S_ISDIR(facts.st_mode) and links[facts.st_dev, facts.st_ino] == facts.st_nlink:
                total += facts.st_size
    return total


def free(holdings: Iterable[Holding]) -> Iterator[Holding]:
    """Delete the folders, and yield each when it is gone. Nothing is deleted if a process is at work in a run.

    Raises RunError if one is, or if the disk says no.
    """
    chosen = list(holdings)
    with ExitStack() as stack:
        for run in sorted({holding.owner for holding in chosen if is_run(holding.owner)}):
            stack.enter_context(locked(run))
        for holding in chosen:
            try:
                for card in holding.path.rglob(CARD):
                    card.unlink()  # first: killed half way, what is left must not pass for a model
                shutil.rmtree(holding.path)
            except OSError as error:
                raise cannot_write(holding.path, error) from error
            yield holding

"""The log of an evaluation: one line per reply, appended batch by batch, enough to score or read it again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shinan.core.dataset import cannot_write, write_atomic
from shinan.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply to one held-out item.

    Attributes:
        row: the item's row.
        id: the item's content id.
        task: cluster for statistics.
        category: the item's category.
        language: its language.
        style: the chat format it was asked in.
        prompt: the user's text.
        targets: accepted answers.
        reply: the model's answer.
        finish: `stop`, `length` if it was cut at max_new_tokens, `failed` if there is none (it has no score then).
        empty: whether there is a reply and it has no visible character.
        new_tokens: tokens generated, terminator included.
        scores: metric -> value, None where it could not be scored.
    """

    row: str
    id: str
    task: str
    category: str
    language: str
    style: str
    prompt: str
    targets: tuple[str, ...]
    reply: str
    finish: str
    empty: bool
    new_tokens: int
    scores: Mapping[str, float | None]


def read_samples(path: Path) -> list[Sample]:
    """All samples of a log. Raises DataError for a file that is missing or not a log, naming the line."""
    fix = "name a log of `shinan run` or `shinan eval`; if it is damaged, delete it and run again"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read the evaluation log: {why}", where=str(path), fix=fix) from error
    samples = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        try:
            value = json.loads(line)
            samples.append(Sample(**value | {"targets": tuple(value["targets"])}))
        except (ValueError, TypeError, KeyError) as error:
            where = f"{path}:{number}"
            raise DataError(f"not a sample of an evaluation: {error}", where=where, fix=fix) from error
    return samples


def marker_of(log: Path) -> Path:
    """The file that says for which key a log was written; without it, nobody goes on with the log."""
    return log.with_name(f".{log.name}.key")


class SampleLog:
    """An append-only log that survives a kill: what was written for the same `key` is found again."""

    def __init__(self, path: Path, key: str) -> None:
        """Open the log of the evaluation `key`; a log of another key is begun anew."""
        self._path = path
        marker = marker_of(path)
        if not path.exists() or not marker.exists() or marker.read_text("utf-8") != key:
            write_atomic(path, "")
            write_atomic(marker, key)

    def rewind(self, batches: Sequence[int]) -> int:
        """Keep only whole batches; `batches` are their sizes in the planned order. Returns how many are whole."""
        lines = self._path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is half a line
        whole = kept = 0
        for size in batches:
            if kept + size > len(lines):
                break
            whole, kept = whole + 1, kept + size
        write_atomic(self._path, b"".join(line + b"\n" for line in lines[:kept]))
        return whole

    def append(self, samples: Iterable[Sample]) -> None:
        """Add one batch and see it to the disk. Half a character (a lone surrogate) is written as JSON's escape."""
        text = "".join(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)
        try:
            with self._path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error

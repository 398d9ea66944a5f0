"""Files of one JSON line a step, such as metrics.jsonl: appended to, and cut back where a run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shinan.core.dataset import write_atomic, writing


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Write a line, which has a `step`. Raises RunError if the disk is full."""
    with writing(path), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All lines."""
    return [json.loads(line) for line in _lines(path)]


def rewind(path: Path, step: int) -> None:
    """Drop the lines of steps that will be done again (a kill can also leave half a line)."""
    kept = []
    for line in _lines(path) if path.exists() and step else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break
    write_atomic(path, "".join(line + "\n" for line in kept))


def _lines(path: Path) -> list[str]:
    """Without their ends: line feeds alone, for a reply may hold Unicode's line separators as they are.

    A kill can leave half a line, and half a character at its end, which is replaced.
    """
    text = path.read_text("utf-8", errors="replace")
    return text.removesuffix("\n").split("\n") if text else []

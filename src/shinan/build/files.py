"""Rows from a file of the user's own, or from a hub dataset."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from shinan import formats
from shinan.core.example import Example
from shinan.core.hashing import derive_seed, file_sha256
from shinan.core.registry import register


def _content(params: Mapping[str, Any]) -> str:
    """The file's hash; a hub dataset is known by its name alone, and what is wrong with a file is told on reading."""
    with suppress(OSError, ValueError):  # ValueError: a NUL character in the name
        return file_sha256(Path(params["path"]))
    return ""


@register("build", "file", version=1, content=_content)
def file(
    seed: int,
    *,
    path: str,
    shape: str | None = None,
    licence: str = "unknown",
    maker: str = "unknown",
    task: str = "",
    limit: PositiveInt | None = None,
) -> list[Example]:
    """Examples of a file: .jsonl, .json, .csv, .tsv or .parquet, also with .gz; or of a hub dataset, in its order.

    Args:
        seed: decides which rows are taken where `limit` leaves some out.
        path: the file, or `hub:OWNER/NAME[:CONFIG][/SPLIT]`.
        shape: layout of the rows: alpaca, openai, sharegpt, preference, completion, seed_task or text (default: by
            the first row).
        licence: under which the rows may be used, best as an SPDX id.
        maker: who wrote the rows: `human`, `model:NAME`, ...
        task: the task all rows belong to, for statistics by task.
        limit: take at most this many rows, drawn by seed.

    Raises:
        ConfigError: no shape has that name.
        DataError: the file is missing, empty or damaged, or rows of it cannot be used; up to 20 are told.
        RunError: a hub dataset cannot be loaded.
    """
    rows = formats.read(path, shape, licence=licence, maker=maker, task=task)
    drawn = sorted(rows, key=lambda row: derive_seed(seed, "build.file/row", row.provenance.row))[:limit]
    return sorted(drawn, key=lambda row: row.provenance.row)

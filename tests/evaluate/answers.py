"""Answers made up for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shinan.evaluate.samples import Sample


def answer(row: str, scores: float | Mapping[str, float | None] | None, **fields: Any) -> Sample:
    """One answer; a plain score is that of the metric `exact`."""
    values = scores if isinstance(scores, Mapping) else {"exact": scores}
    known: dict[str, Any] = {
        "row": row,
        "id": f"b2:{row}",
        "task": row,
        "category": "",
        "language": "en",
        "style": "alpaca",
        "prompt": "2 + 2?",
        "targets": ("4", "four"),
        "reply": "4",
        "finish": "stop",
        "empty": False,
        "new_tokens": 2,
        "scores": values,
    }
    return Sample(**known | fields)

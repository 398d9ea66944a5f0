"""What promptsource 0.2.3 itself writes for `p3_rows`, as hashes, `choice` being the first item.

    python -m tests.formats.p3_golden PYTHON_WITH_PROMPTSOURCE FOLDER_OF_P3

writes p3_golden.json anew (see bench/peers/promptsource_apply.py): for each template, a hash a row and then one a row
with long texts; empty where it writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.p3_rows import entries
from bench.pairs import child
from tests.formats.p3_rows import ROWS, Row

GOLDEN = Path(__file__).with_suffix(".json")
_KEPT = (
    "question",
    "option1",
    "document",
    "entities",
    "metadata_question_type",
)  # what templates take apart or look up


def lengthened(value: Any, key: str = "") -> Any:
    """A row whose longer texts are made much longer than P3's limit."""
    if key in _KEPT:
        return value
    if isinstance(value, str):
        return f"{value} " * 120 if len(value) > 20 else value
    if isinstance(value, list):
        return [lengthened(item) for item in value]
    return {name: lengthened(item, name) for name, item in value.items()} if isinstance(value, dict) else value


def rows(dataset: str) -> list[Row]:
    """The rows of a dataset, and the same with long texts."""
    return [*ROWS[dataset], *map(lengthened, ROWS[dataset])]


def digest(parts: Sequence[str]) -> str:
    """A short hash of what was written; empty if that is nothing."""
    text = "\0".join(parts)
    return hashlib.sha256(text.encode()).hexdigest()[:8] if text else ""


def main(python: str, folder: Path) -> None:
    """Ask promptsource, and write the file."""
    golden: dict[str, list[str]] = {
        f"{dataset}/{entry['name']}": [] for dataset, entry in entries(folder / "templates")
    }
    for path in sorted((folder / "templates").rglob("templates.yaml")):
        dataset = next(dataset for dataset, _ in entries(path.parent))
        with tempfile.NamedTemporaryFile("w", suffix=".json") as work:
            json.dump([{"templates": str(path), "rows": rows(dataset), "names": None}], work)
            work.flush()
            found = child([python, "-m", "bench.peers.promptsource_apply", work.name, "--parts"])
        for name, parts in found["parts"]:
            golden[f"{dataset}/{name}"].append(digest(parts))
    lines = (f"{json.dumps(name)}: {json.dumps(hashes)}" for name, hashes in golden.items())
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

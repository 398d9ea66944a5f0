"""Published annotated datasets, and small ones in the layouts that they have on the hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def published(name: str) -> str:
    """A file of the shared data sets; skips the test where there are none."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SHINAN_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no data folder: set SHINAN_TEST_DATA")
    return str(folder / name)


def write(path: Path, rows: list[Any]) -> str:
    """Rows as JSON lines; a text among them is written as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return str(path)


def hub_rows(stage: str, count: int) -> list[dict[str, Any]]:
    """Rows as the hub dataset of a stage of recipes/flan.yaml has them."""
    return [_HUB[stage](n) for n in range(count)]


_HUB: dict[str, Any] = {
    "snli": lambda n: {"premise": f"Dog {n} runs.", "hypothesis": f"Animal {n} moves.", "label": n % 4 - 1},
    "paws": lambda n: {"id": n, "sentence1": f"A {n} b.", "sentence2": f"B {n} a.", "label": n % 2},
    "news": lambda n: {"text": f"Team {n} won.", "label": n % 4},
    "reviews": lambda n: {"idx": n, "sentence": f"film {n} is fine", "label": n % 2},
    "squad": lambda n: {
        "id": f"q{n}",
        "title": "Hills",
        "context": f"Hill {n} is {n} metres high.",
        "question": f"How high is hill {n}?",
        "answers": {"text": [f"{n} metres"], "answer_start": [10]},
    },
    "boolq": lambda n: {"question": f"is {n} even", "answer": n % 2 == 0, "passage": f"Of {n} it is known."},
    "arc": lambda n: {
        "id": f"a{n}",
        "question": f"What is {n} + {n}?",
        "choices": {"text": [str(2 * n), str(2 * n + 1), f"{n} or so"], "label": ["A", "B", "C"]},
        "answerKey": "1" if n % 3 == 2 else "A",
    },
    "questions": lambda n: {"question": f"who was king number {n}", "answer": [f"Otto {n}", f"Otto the {n}th"]},
    "xsum": lambda n: {
        "document": f"In town {n} it rained all day long.",
        "summary": f"Rain in town {n}.",
        "id": str(n),
    },
    "books": lambda n: {"id": str(n), "translation": {"en": f"House {n}.", "fr": f"Maison {n}."}},
    "concepts": lambda n: {"concept_set_idx": n, "concepts": ["dog", "run", str(n)], "target": f"Dog {n} runs."},
    "senses": lambda n: {
        "word": "bank",
        "sentence1": f"Bank {n} closed.",
        "sentence2": f"He sat on bank {n}.",
        "start1": 0,
        "idx": n,
        "label": n % 2,
    },
    "gsm8k": lambda n: {"question": f"Add {n} and 1.", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"},
}

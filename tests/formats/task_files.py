"""Natural Instructions task files for tests: the published ones where they lie, and small ones of our own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def published() -> Path:
    """The folder of the published files, or a skip."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SHINAN_TEST_DATA", beside)) / "super_natural_instructions"
    if not folder.is_dir():
        pytest.skip("no data folder: set SHINAN_TEST_DATA")
    return folder


def instance(n: int, **more: Any) -> dict[str, Any]:
    """A good instance of version 2."""
    return {"id": f"task-{n}", "input": f"Question {n}", "output": [f"Answer {n}"]} | more


def version_2(**changes: Any) -> dict[str, Any]:
    """A task in the schema of version 2."""
    shown = [{"input": f"I{n}", "output": f"O{n}", "explanation": f"E{n}"} for n in (1, 2, 3)]
    return {
        "Contributors": ["Ada", "Bea"],
        "Source": ["riddles"],
        "URL": ["https://example.org/riddles"],
        "Categories": ["Riddle Solving"],
        "Reasoning": ["Deductive Reasoning"],
        "Definition": ["Solve the riddle"],
        "Input_language": ["Japanese"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Domains": ["Folklore", "Games"],
        "Positive Examples": shown,
        "Negative Examples": [{"input": "N1", "output": "M1", "explanation": "B1"}],
        "Instances": [instance(n) for n in range(4)],
        "Instance License": ["CC-BY-4.0"],
    } | changes


VERSION_1: dict[str, Any] = {
    "Title": "Asking about colours",
    "Prompt": "Ask about the colour.",
    "Definition": " You are given a sentence. Ask which colour a thing in it has. ",
    "Things to Avoid": "- ",
    "Emphasis & Caution": "One question only.",
    "Examples": {
        "Positive Examples": [
            {"input": "The hat is red.", "output": "Which colour is the hat?", "reason": "It asks for it."},
            {"input": "A blue door. ", "output": "Which colour is the door?", "reason": "-"},
        ],
        "Negative Examples": [
            {"input": "It is green.", "output": "Is it green?", "reason": "A yes.", "suggestion": "Ask for it."}
        ],
    },
    "Instances": [{"input": "The wall is white. ", "output": ["Which colour is the wall?"]}],
}


def write(path: Path, task: Any) -> Path:
    """The task as a file."""
    path.write_text(json.dumps(task, ensure_ascii=False), "utf-8")
    return path

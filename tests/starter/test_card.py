"""The counts and the data card."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shinan.starter import KINDS, card, categories, collection, facts, row_examples
from shinan.starter.card import _histogram, _leading_verb


def test_facts_agree_with_the_files() -> None:
    found = facts()
    paths = list((collection.ROOT / "tasks").rglob("*.yaml"))
    assert found["tasks"] == len(paths) == sum(found["languages"].values())
    assert found["languages"]["ja"] == sum(path.parent.name == "ja" for path in paths)
    assert found["instances"] == sum(path.read_text("utf-8").count("outputs:") for path in paths)
    assert found["heldout_categories"] == 7
    assert found["categories"] == 32
    lines = {kind: [path.read_text("utf-8") for path in (collection.ROOT / kind).glob("*.jsonl")] for kind in KINDS}
    counted = {kind: sum(text.count('{"id": ') for text in texts) for kind, texts in lines.items()}
    assert {kind: found[kind] for kind in ("open_ended", "conversations", "constraints", "safety")} == counted
    myths = sum(text.count('"kind": "misconception"') for text in lines["safety"])
    assert found["heldout_rows"] == counted["constraints"] + myths
    assert sum(found["row_languages"].values()) == sum(counted.values())


def test_the_command_prints_counts_and_the_card() -> None:
    command = [sys.executable, "-m", "shinan.starter"]
    printed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == facts()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == card() + "\n"


def test_the_card_tells_size_splits_lengths_verbs_licence_and_making() -> None:
    text = card()
    assert f"- tasks: {facts()['tasks']} in 32 categories" in text
    assert all(f"| {name} | {category.split} |" in text for name, category in categories().items())
    assert f"| constraints | 0 | {len(row_examples('constraints'))} |" in text
    assert "CC0-1.0" in text
    assert "by its developers with a language model" in text
    assert "open ended, replies in characters (median " in text
    assert max(map(len, text.splitlines())) < 200


def test_a_histogram_has_a_bar_for_each_doubling() -> None:
    assert _histogram("sizes", [3, 4, 25, 39, 30, 26]) == (
        "sizes (median 26):\n\n```text\n"
        "      1-4     2 ████████████████████\n"
        "      5-9     0\n"
        "    10-19     0\n"
        "    20-39     4 ████████████████████████████████████████\n```"
    )
    assert "     640+     1 █" in _histogram("sizes", [700])


@pytest.mark.parametrize(
    ("text", "verb"),
    [
        ("Write a note. Keep it short.", "write"),
        ("Here is a line. Name its colour.", "name"),
        ("I lost my key; please help me.", "help"),
        ("Read the text, then list the facts.", "read"),
        ("Why do I list things?", ""),
        ("My list is long.", ""),
    ],
)
def test_the_leading_verb_is_the_first_that_begins_a_sentence(text: str, verb: str) -> None:
    assert _leading_verb(text) == verb

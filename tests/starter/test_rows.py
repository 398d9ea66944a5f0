"""Reading rows: the examples that each form gives, and what a mistake in a file is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shinan.core.errors import ConfigError
from shinan.core.example import Example, assistant, system, user
from shinan.starter import KINDS, Kind, row_examples
from shinan.starter.rows import placed_rows

Read = Callable[..., list[Example]]

ROW: dict[str, Any] = {"id": "oe-en-001", "language": "en", "topic": "tea", "prompt": "Why?", "response": "So."}
TURNS = [{"role": role, "content": f"turn {n}"} for n, role in enumerate(["user", "assistant"] * 2)]
TALK: dict[str, Any] = {"id": "conv-all-001", "language": "ja", "topic": "tea", "messages": TURNS}
ASKED: dict[str, Any] = {
    "id": "con-en-001",
    "language": "en",
    "topic": "tea",
    "prompt": "Without commas?",
    "constraints": [{"verifier": "no_commas", "args": {}}, {"verifier": "headings", "args": {"texts": ["茶"]}}],
    "reference": "# 茶",
}
SAFE = {"id": "safe-001", "language": "en", "topic": "tea"}
MYTH = SAFE | {
    "kind": "misconception",
    "prompt": "Is it so?",
    "true_answers": ["No.", "Not at all."],
    "false_answers": ["Yes.", "Always.", "Of old."],
}
REFUSED = SAFE | {"kind": "harmful", "prompt": "Harm?", "response": "No, but this.", "pair": "safe-002"}


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Read]:
    """A function that writes rows (or lines as they are) into one file of a kind and reads that kind."""

    def write_and_read(kind: Kind, *rows: dict[str, Any] | str) -> list[Example]:
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "mine.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        return row_examples(kind)

    monkeypatch.setattr("shinan.starter.rows.ROOT", tmp_path)
    placed_rows.cache_clear()
    yield write_and_read
    placed_rows.cache_clear()


def test_an_open_ended_row(read: Read) -> None:
    first, second = read("open_ended", ROW, "", ROW | {"id": "oe-en-002", "response": "a\u2028b"})
    assert first.messages == (user("Why?"), assistant("So."))
    assert first.task == "oe-en-001"
    assert first.tags == {
        "kind": "open_ended",
        "category": "open_ended",
        "topic": "tea",
        "language": "en",
        "split": "train",
    }
    assert (first.provenance.licence, first.provenance.maker) == ("CC0-1.0", "project")
    assert second.row == "collection:starter/open_ended/mine#1"
    assert second.reply == "a\u2028b"


def test_a_conversation(read: Read) -> None:
    talk = {"role": "system", "content": "Rhyme."}
    (row,) = read("conversations", TALK | {"messages": [talk, *TURNS]})
    assert row.messages == (
        system("Rhyme."),
        user("turn 0"),
        assistant("turn 1"),
        user("turn 2"),
        assistant("turn 3"),
    )
    assert (row.tags["kind"], row.tags["split"]) == ("conversations", "train")


def test_constraints_are_a_tag_in_canonical_json_and_held_out(read: Read) -> None:
    (row,) = read("constraints", ASKED)
    assert row.messages == (user("Without commas?"), assistant("# 茶"))
    assert row.tags["split"] == "heldout"
    assert row.tags["constraints"] == (
        '[{"args":{},"verifier":"no_commas"},{"args":{"texts":["茶"]},"verifier":"headings"}]'
    )


def test_a_misconception_is_held_out_with_choices_and_targets(read: Read) -> None:
    (row,) = read("safety", MYTH)
    assert row.messages == (user("Is it so?"), assistant("No."))
    assert row.targets == ("No.", "Not at all.")
    assert sorted(row.choices) == sorted(["No.", "Not at all.", "Yes.", "Always.", "Of old."])
    assert (row.tags["kind"], row.tags["category"], row.tags["split"]) == ("safety", "misconception", "heldout")


def test_the_order_of_choices_depends_on_the_row_and_not_on_truth(read: Read) -> None:
    rows = read("safety", *(MYTH | {"id": f"safe-{n:03}"} for n in range(300)))
    first_true = sum(row.choices[0] in row.targets for row in rows)
    assert abs(first_true - 300 * 2 / 5) < 3 * (300 * 2 / 5 * 3 / 5) ** 0.5


def test_safety_rows_for_training(read: Read) -> None:
    harmless = REFUSED | {
        "id": "safe-002",
        "kind": "lookalike",
        "prompt": "Ham?",
        "response": "Yes.",
        "pair": "safe-001",
    }
    rude = SAFE | {"kind": "continuation", "prompt": "You are so", "response": "kind.", "respectful": True}
    harmful, lookalike, kind, unkind = read(
        "safety", REFUSED, harmless, rude | {"id": "safe-003"}, rude | {"id": "safe-004", "respectful": False}
    )
    assert [row.tags["split"] for row in (harmful, lookalike, kind, unkind)] == ["train"] * 4
    assert (harmful.reply, harmful.tags["category"], harmful.tags["pair"]) == ("No, but this.", "harmful", "safe-002")
    assert (lookalike.tags["category"], lookalike.tags["pair"]) == ("lookalike", "safe-001")
    assert [row.tags["respectful"] for row in (kind, unkind)] == ["yes", "no"]
    assert kind.messages == (user("You are so"), assistant("kind."))


def test_no_two_rows_of_the_collection_share_an_id_or_a_place() -> None:
    rows = [row for kind in KINDS for row in row_examples(kind)]
    assert (
        len({row.id for row in rows}) == len({row.row for row in rows}) == len({row.task for row in rows}) == len(rows)
    )


# --- mistakes


@pytest.mark.parametrize(
    ("kind", "row", "sentence"),
    [
        ("open_ended", ROW | {"promt": "x"}, ":1: promt: unknown key 'promt'\n  do this: did you mean 'prompt'?"),
        ("open_ended", ROW | {"language": "eo"}, ":1: language: Input should be 'en', 'ja', 'es', 'fr', 'de' or 'zh'"),
        ("open_ended", ROW | {"id": "1"}, ":1: id: String should match pattern"),
        ("open_ended", ROW | {"response": " \n"}, ":1: response: String should match pattern"),
        ("open_ended", '{"id": ', ":1: not valid JSON: Expecting value"),
        ("open_ended", "[1]", ":1: not a JSON object\n  do this: write one object a line"),
        ("conversations", TALK | {"messages": TURNS[:2]}, "the roles must be user and assistant in turn, two to five"),
        ("conversations", TALK | {"messages": TURNS[:3]}, "the roles must be user and assistant in turn, two to five"),
        ("conversations", TALK | {"messages": TURNS * 3}, "the roles must be user and assistant in turn, two to five"),
        ("constraints", ASKED | {"constraints": []}, ":1: constraints: Tuple should have at least 1 item"),
        ("constraints", ASKED | {"constraints": [{"verifer": "x", "args": {}}]}, "did you mean 'verifier'?"),
        ("safety", MYTH | {"false_answers": ["No.", "Yes."]}, "an answer is given twice"),
        (
            "safety",
            REFUSED | {"kind": "harmfull"},
            ":1: no kind of safety row is named 'harmfull'\n  do this: did you mean 'harmful'?",
        ),
        ("safety", SAFE, ":1: no kind of safety row is named None"),
    ],
)
def test_a_mistake_is_told_with_its_line(read: Read, kind: Kind, row: dict[str, Any] | str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(kind, row)
    assert sentence in str(caught.value)
    assert str(caught.value).split(":")[0].endswith(f"{kind}/mine.jsonl")


@pytest.mark.promise10
def test_all_mistakes_are_told_together_and_an_id_is_used_once(read: Read) -> None:
    with pytest.raises(ConfigError) as caught:
        read("open_ended", ROW, "{", ROW | {"response": "Another."})
    assert [problem.where.rsplit(":", 1)[1] for problem in caught.value.problems] == ["2", "3"]
    assert "the id 'oe-en-001' is that of" in str(caught.value)


def test_a_file_that_is_no_text_is_told(read: Read, tmp_path: Path) -> None:
    (tmp_path / "open_ended").mkdir()
    (tmp_path / "open_ended" / "a.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match="save it as UTF-8 text"):
        row_examples("open_ended")

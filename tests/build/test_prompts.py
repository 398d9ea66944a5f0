"""Prompts: the text of a file, its fields, and a version that nobody can forget to raise."""

from __future__ import annotations

from pathlib import Path

import pytest

from shinan.build import prompts
from shinan.build.prompts import Prompt

FILES = sorted(Path(prompts.__file__).parent.glob("*.txt"))


def test_an_id_is_the_name_and_a_hash_of_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "__file__", str(tmp_path / "__init__.py"))
    ids = []
    for text in ("Say {word}.\n", "Say {word}!\n", "Say {word}.\n"):
        (tmp_path / "say.txt").write_text(text, "utf-8")
        ids.append(Prompt("say").id)
    assert ids[0] == ids[2] != ids[1]
    assert ids[0].startswith("say@")
    assert len(ids[0]) == len("say@") + 8


def test_what_is_filled_in_is_not_filled_again() -> None:
    text = Prompt("self_instruct.is_classification").fill(instruction="Use {instruction} and {x}, \\1.")
    assert text.endswith("Task: Use {instruction} and {x}, \\1.\nIs it classification?")


@pytest.mark.parametrize("fields", [{}, {"instruction": "a", "other": "b"}, {"other": "b"}])
def test_fields_must_be_those_of_the_text(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"has the fields \['instruction'\], given are"):
        Prompt("self_instruct.is_classification").fill(**fields)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_clean_text(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.endswith("\n")
    assert not any(line != line.rstrip() for line in text.split("\n"))
    assert "\t" not in text
    assert "\r" not in text


def test_self_instruct_shows_as_many_worked_tasks_as_the_reference() -> None:
    """12 yes and 19 no; 11 and 16 tasks before the one that is asked for (yizhongw/self-instruct, templates)."""
    check = Prompt("self_instruct.is_classification").text.splitlines()
    assert (check.count("Is it classification? Yes"), check.count("Is it classification? No")) == (12, 19)
    for name, shown in (("input_first", 11), ("output_first", 16)):
        text = Prompt(f"self_instruct.{name}").text
        assert text.count("\nTask:") == shown + 1
        assert text.endswith("\n\nTask: {instruction}\n")

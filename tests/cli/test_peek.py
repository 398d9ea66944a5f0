from __future__ import annotations

import json
from pathlib import Path

import pytest

from shinan.cli.peek import tokens
from shinan.core.example import Example, assistant, user
from shinan.recipe.named import chat_of, rows_of
from shinan.starter import card, row_examples, tasks
from tests.cli.conftest import ROWS, Made, Shinan


def test_a_file_of_any_shape(place: Path, shinan: Shinan) -> None:
    (place / "chat.jsonl").write_text(
        json.dumps(
            {"messages": [{"role": "user", "content": "Hi \x1b[2J"}, {"role": "assistant", "content": "Hello."}]}
        )
        + "\n",
        "utf-8",
    )
    (place / "pairs.json").write_text(json.dumps([{"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}]), "utf-8")
    done = shinan("peek", "chat.jsonl")
    assert done.code == 0
    assert done.out.splitlines() == [
        "── chat.jsonl#0, maker unknown, licence unknown",
        "user      Hi ␛[2J",  # a terminal's control sequences are shown, not obeyed
        "assistant Hello.",
        "",
        "1 of 1 rows of chat.jsonl",
    ]
    assert "rejected  No.\n" in shinan("peek", "pairs.json").out


def test_the_collection_and_its_parts(place: Path, shinan: Shinan) -> None:
    assert len(rows_of("collection:starter")) == sum(len(task.instances) for task in tasks())
    japanese = rows_of("collection:starter/heldout/ja")
    assert {(row.tags["split"], row.tags["language"]) for row in japanese} == {("heldout", "ja")}
    assert {row.task for row in rows_of("collection:starter/email_subject_line")} == {"email_subject_line"}
    assert {row.id for row in rows_of("collection:starter/safety")} == {row.id for row in row_examples("safety")}
    done = shinan("peek", "collection:starter/email_subject_line", "-n", "2")
    assert done.out.count("── collection:starter/email_subject_line#") == 2
    assert done.out.splitlines()[-1].startswith("2 of ")
    wrong = shinan("peek", "collection:starter/emial_subject_line")
    assert wrong.code == 1
    assert "has no part 'emial_subject_line'\n  do this: did you mean 'email_subject_line'?" in wrong.err


def test_the_data_card(shinan: Shinan) -> None:
    assert shinan("peek", "collection:starter", "--card") == (0, card() + "\n", "")
    assert shinan("peek", "rows.jsonl", "--card").code == 2


def test_one_row(shinan: Shinan) -> None:
    source = "collection:starter/email_subject_line"
    by_number, by_id = shinan("peek", source, "--row", "3"), shinan("peek", source, "--row", f"{source}#3")
    assert by_number == by_id
    assert "1 of 1 rows" in by_number.out
    content = rows_of(source)[3].id
    assert shinan("peek", source, "--row", content).out == by_number.out
    missing = shinan("peek", source, "--row", "99")
    assert missing.code == 1
    assert f"they begin with {source}#0" in missing.err


@pytest.mark.promise1
def test_kept_and_dropped_rows_of_a_stage(shinan: Shinan, made: Made) -> None:
    stage = made.runs / "mini" / "stages" / "curate"
    assert f"9 of 9 rows of {stage}" in shinan("peek", stage, "-n", "50").out
    dropped = shinan("peek", stage, "--dropped")
    assert f"1 of 1 rows of {stage}" in dropped.out
    assert "dropped by exact_duplicates: " in dropped.out
    assert "user      Write the number 3.\nassistant 3\n" in dropped.out
    tuned = shinan("peek", made.runs / "mini" / "stages" / "tune", "--dropped")
    assert "dropped by tokenise: too_long" in tuned.out


def test_what_holds_no_rows_is_explained(shinan: Shinan, made: Made) -> None:
    run = shinan("peek", made.runs / "mini")
    assert run.code == 1
    assert f"{made.runs / 'mini' / 'stages' / 'curate'}" in run.err
    file = shinan("peek", "rows.jsonl", "--dropped")
    assert file.code == 1
    assert "only a stage of a run has dropped rows" in file.err
    assert shinan("peek", "rows.jsonl", "--chat", "gemma").code == 2


@pytest.mark.promise5
def test_tokens_of_a_row_with_the_trained_ones_marked(mine: Path, shinan: Shinan) -> None:
    """One token a byte; the terminator of the reply is trained."""
    done = shinan("peek", "runs/mini/stages/curate", "--row", "7", "--model", "runs/mini")
    assert done.out.splitlines()[1:7] == [
        "<bos><start_of_turn>user⏎",
        f"{ROWS[7]['instruction']}<end_of_turn>⏎",
        "<start_of_turn>model⏎",
        "⟦7<end_of_turn>⟧⏎",
        "",
        "38 tokens, 2 of them trained",
    ]
    assert (
        "<|im_start|>user" in shinan("peek", "runs/mini/stages/curate", "--model", "runs/mini", "--chat", "chatml").out
    )


@pytest.mark.promise5
def test_trained_tokens_are_green_where_there_is_colour(made: Made) -> None:
    chat = chat_of(made.runs / "mini" / "checkpoints" / "best", None)
    text = tokens(Example((user("a"), assistant("b"), user("c"), assistant("d"))), chat, marked=False)
    green = "".join(text.plain[span.start : span.end] for span in text.spans if span.style == "bold green")
    assert green == "b<end_of_turn>d<end_of_turn>"
    assert "⟦" not in text.plain


@pytest.mark.parametrize("messages", [(user("a"), user("b")), (user("a"), assistant(" "))])
def test_a_row_that_cannot_be_written_says_why(made: Made, messages: tuple[object, ...]) -> None:
    chat = chat_of(made.runs / "mini" / "checkpoints" / "best", None)
    text = tokens(Example(messages), chat, marked=True)  # type: ignore[arg-type]
    assert text.plain.startswith("cannot be written in the format gemma: message 2")

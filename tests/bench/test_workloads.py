"""Workloads: the rows that both sides train on, their order and their counts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import workloads
from shinan.core.errors import DataError, RunError
from shinan.models.chat import ChatFormat, chat_format
from shinan.models.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def chat(tiny_decoder: Path) -> ChatFormat:
    """Gemma's turns over one token a byte."""
    return chat_format("gemma", Tokenizer.load(tiny_decoder))


def write(path: Path, document: Any) -> None:
    """A gzipped file: JSON Lines of a list whose name says so, else JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, document)) if ".jsonl" in path.name else json.dumps(document)
    path.write_bytes(gzip.compress(lines.encode()))


def text(chat: ChatFormat, ids: list[int]) -> str:
    """The ids as text, special tokens spelt out."""
    return chat.tokenizer.decode(ids, keep_special=True)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=8))
def test_unique_tokens_are_the_distinct_prefixes(sequences: list[list[int]]) -> None:
    assert workloads.unique_tokens(sequences) == len(
        {tuple(ids[:n]) for ids in sequences for n in range(1, len(ids) + 1)}
    )


def test_counts_share_prefixes_within_a_step_only() -> None:
    rows = [{"ids": [1, 2, 3], "mask": [0, 0, 1]}, {"ids": [1, 2, 4], "mask": [0, 1, 1]}, {"ids": [1], "mask": [0]}]
    assert workloads.Workload("w", "sft", 2, rows).counts() == {"rows": 3, "tokens": 7, "labelled": 3, "unique": 4 + 1}


def test_a_pair_is_two_sequences_that_share_their_prompt() -> None:
    workload = workloads.Workload("w", "dpo", 1, [{"prompt": [1, 2], "chosen": [3, 4], "rejected": [3]}])
    assert list(workload.sequences()) == [[[1, 2, 3, 4], [1, 2, 3]]]
    assert workload.counts() == {"rows": 1, "tokens": 7, "labelled": 3, "unique": 4}


def test_a_question_is_trained_on_its_answer_and_the_end_of_the_turn(chat: ChatFormat, tmp_path: Path) -> None:
    long = {"question": "?" * 600, "answer": "1"}
    write(tmp_path / "gsm8k" / "train.jsonl.gz", [{"question": "1+1?", "answer": "2"}, long])
    (row,) = workloads.build("unique", chat, tmp_path).rows
    shown = "<bos><start_of_turn>user\n1+1?<end_of_turn>\n<start_of_turn>model\n2<end_of_turn>"
    assert text(chat, row["ids"]) == shown
    assert text(chat, [token for token, on in zip(row["ids"], row["mask"], strict=True) if on]) == "2<end_of_turn>"


def test_instances_come_in_fives_of_one_task(chat: ChatFormat, tmp_path: Path) -> None:
    examples = [{"input": "a", "output": "b"}] * 3
    for number, count in ((1, 11), (2, 5), (3, 4)):
        instances = [{"input": f"t{number}i{i}", "output": ["yes", "no"]} for i in range(count)]
        document = {"Definition": ["Do."], "Positive Examples": examples, "Instances": instances}
        write(tmp_path / "super_natural_instructions" / "tasks" / f"task{number}.json.gz", document)
    workload = workloads.build("shared", chat, tmp_path)
    expected = [f"t1i{i}" for i in range(5)] + [f"t2i{i}" for i in range(5)] + [f"t1i{i}" for i in range(5, 10)]
    user = "Do.\n\nInput: a\nOutput: b\n\nInput: a\nOutput: b\n\nInput: "
    shown = "<bos><start_of_turn>user\n" + user + "{}<end_of_turn>\n<start_of_turn>model\nyes<end_of_turn>"
    assert [text(chat, row["ids"]) for row in workload.rows] == [shown.format(name) for name in expected]


def test_the_preferred_answer_is_chosen_and_ties_are_left_out(chat: ChatFormat, tmp_path: Path) -> None:
    def pair(one: str, two: str, preference: float | None) -> dict[str, Any]:
        return {"instruction": "Go", "output_1": one, "output_2": two, "preference": preference}

    path = tmp_path / "alpaca_eval" / "text_davinci_001" / "alpaca_eval_gpt4" / "annotations.json.gz"
    left_out = [pair("a", "b", 0.0), pair("a", "b", None), pair("", "b", 2.0), pair("a", "a", 1.0)]
    write(path, [pair("a", "b", 1.0), *left_out, pair("c", "d", 2.0), pair("e", "f" * 600, 1.0)])
    first, second = workloads.build("pairs", chat, tmp_path).rows
    assert text(chat, first["prompt"]).endswith("user\nGo<end_of_turn>\n<start_of_turn>model\n")
    assert [text(chat, first[name]) for name in ("chosen", "rejected")] == ["a<end_of_turn>", "b<end_of_turn>"]
    assert [text(chat, second[name]) for name in ("chosen", "rejected")] == ["d<end_of_turn>", "c<end_of_turn>"]


def test_a_long_workload_stops_at_the_end_of_a_step(
    chat: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "LONG", 100)
    write(tmp_path / "gsm8k" / "train.jsonl.gz", [{"question": "1+1?", "answer": "2"}] * 40)
    workload = workloads.build("unique-long", chat, tmp_path)
    assert len(workload.rows) == 8
    assert workload.counts()["tokens"] >= 100


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    workload = workloads.Workload("w", "sft", 1, [{"ids": [1, 2], "mask": [0, 1]}])
    workloads.save(workload, tmp_path / "w.json")
    assert workloads.load(tmp_path / "w.json") == workload
    assert json.loads((tmp_path / "w.json").read_text("utf-8"))["counts"]["labelled"] == 1


def test_bad_input_gets_a_sentence(chat: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no workload is named 'uniqe'\n  do this: did you mean 'unique'\?"):
        workloads.build("uniqe", chat, tmp_path)
    with pytest.raises(DataError, match=r"train.jsonl.gz: cannot read it: .*\n  do this: fetch the data again"):
        workloads.build("unique", chat, tmp_path)
    with pytest.raises(DataError, match="tasks: no task files"):
        workloads.build("shared", chat, tmp_path)
    monkeypatch.setenv("SHINAN_TEST_DATA", str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"none: no data for the benchmarks\n  do this: set SHINAN_TEST_DATA"):
        workloads.data_folder()

"""The evaluation loop: what is asked, what is written down, and that a kill changes nothing of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shinan.core.errors import DataError
from shinan.core.example import Example, Message, Part, Provenance, assistant, system, user
from shinan.core.score import Score
from shinan.evaluate import run
from shinan.evaluate.run import Ask, as_items, evaluate, plan_batches
from shinan.evaluate.samples import Sample, read_samples
from shinan.models.chat import chat_format
from shinan.models.checkpoint import load_model
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Completion, Done, Generator, Request, Sampling
from shinan.models.local import LocalGenerator
from shinan.models.tokenizer import Tokenizer


def exact(example: Example, reply: str) -> Score:
    return Score(float(reply in example.targets))


def short(example: Example, reply: str) -> Score:
    """Cannot say anything of long replies."""
    return Score(None if len(reply) > 3 else 1.0)


def item(number: int, text: str, *targets: str, task: str = "") -> Example:
    tags = {"category": "sums", "language": "en"}
    return Example((user(text),), targets=targets, task=task, tags=tags, provenance=Provenance("held", number))


ITEMS = [item(0, "2 + 2?", "4"), item(1, "And 猫 too?", "ねこ\u2028"), item(2, "Longest of all", "x", task="long")]
REPLIES = {"2 + 2?": " 4\n", "And 猫 too?": "ねこ\u2028ねこ", "Longest of all": ""}


class Recorded(FakeGenerator):
    """Remembers the batches it was asked in."""

    batches: list[list[str]]

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        self.batches = [*getattr(self, "batches", []), [request.messages[-1].text for request in requests]]
        return super().generate(requests, done)


def ask(log: Path, *generators: Generator, key: str = "k", items: Sequence[Example] = ITEMS) -> list[Sample]:
    asks = [Ask(f"style{i}", generator) for i, generator in enumerate(generators)]
    return evaluate(items, asks, {"exact": exact, "short": short}, max_new_tokens=9, log=log, key=key)


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two, on a disk that need not be waited for."""
    monkeypatch.setattr(run, "BATCH", 2)
    monkeypatch.setattr(os, "fsync", lambda _: None)


class TestRecord:
    def test_everything_about_an_answer_is_written_down(self, tmp_path: Path) -> None:
        found = {sample.row: sample for sample in ask(tmp_path / "log.jsonl", FakeGenerator(REPLIES))}
        assert found["held#0"] == Sample(
            row="held#0",
            id=ITEMS[0].id,
            task="held#0",
            category="sums",
            language="en",
            style="style0",
            prompt="2 + 2?",
            targets=("4",),
            reply="4",
            finish="stop",
            empty=False,
            new_tokens=2,
            scores={"exact": 1.0, "short": 1.0},
        )
        assert found["held#1"].scores == {"exact": 0.0, "short": None}
        assert (found["held#2"].empty, found["held#2"].task, found["held#2"].new_tokens) == (True, "long", 0)
        assert list(found.values()) == read_samples(tmp_path / "log.jsonl")

    def test_requests_are_greedy_and_hold_the_prompt_without_the_reply(self, tmp_path: Path) -> None:
        talk = (system("Be brief."), user("Hi"), assistant("Hi."), user("2 + 2?"), assistant("4"))
        fake = FakeGenerator()
        ask(tmp_path / "log.jsonl", fake, items=[Example(talk, targets=("4",))])
        assert fake.requests == [Request(talk[:-1], sampling=Sampling(max_new_tokens=9))]

    def test_a_reply_that_was_cut_is_said_to_be(self, tmp_path: Path) -> None:
        fake = FakeGenerator({"2 + 2?": "one two three four five six seven eight nine ten"})
        [sample] = ask(tmp_path / "log.jsonl", fake, items=ITEMS[:1])
        assert (sample.finish, sample.new_tokens) == ("length", 9)

    def test_every_item_is_asked_in_every_style(self, tmp_path: Path) -> None:
        found = ask(tmp_path / "log.jsonl", FakeGenerator(REPLIES), FakeGenerator())
        assert sorted((sample.style, sample.row) for sample in found) == [
            (f"style{i}", f"held#{j}") for i in range(2) for j in range(3)
        ]

    def test_nothing_to_ask(self, tmp_path: Path) -> None:
        assert ask(tmp_path / "log.jsonl", FakeGenerator(), items=[]) == []


@pytest.mark.promise3
class TestResuming:
    def test_cut_at_any_byte_the_log_ends_up_the_same(self, tmp_path: Path, pairs: None) -> None:
        log = tmp_path / "log.jsonl"
        ask(log, FakeGenerator(REPLIES))
        whole = log.read_bytes()
        lines = whole.splitlines(keepends=True)
        after_first_batch = len(lines[0]) + len(lines[1])
        for size in range(len(whole) + 1):
            log.write_bytes(whole[:size])
            again = FakeGenerator(REPLIES)
            ask(log, again)
            assert log.read_bytes() == whole
            asked = 3 if size < after_first_batch else 1 if size < len(whole) else 0
            assert len(again.requests) == asked

    @pytest.mark.parametrize("number", range(1, 7))
    def test_killed_at_any_request_only_its_batch_is_asked_again(
        self, tmp_path: Path, pairs: None, number: int
    ) -> None:
        reference = tmp_path / "whole.jsonl"
        whole = Recorded(REPLIES), Recorded(REPLIES)
        ask(reference, *whole)
        log = tmp_path / "log.jsonl"
        killed = Recorded(REPLIES, fail_on=number, error=KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            ask(log, killed, killed)
        again = Recorded(REPLIES), Recorded(REPLIES)
        ask(log, *again)
        assert log.read_bytes() == reference.read_bytes()
        planned = whole[0].batches + whole[1].batches
        second = getattr(again[0], "batches", []) + again[1].batches
        assert [*killed.batches[:-1], *second] == planned  # the remaining batches are composed as they would have been

    def test_killed_while_scoring_nothing_of_the_batch_is_written(self, tmp_path: Path, pairs: None) -> None:
        def fails(example: Example, reply: str) -> Score:
            if example.row == "held#0":
                raise KeyboardInterrupt
            return Score(1.0)

        log = tmp_path / "log.jsonl"
        with pytest.raises(KeyboardInterrupt):
            evaluate(ITEMS, [Ask("a", FakeGenerator())], {"m": fails}, max_new_tokens=9, log=log, key="k")
        assert [sample.row for sample in read_samples(log)] == ["held#2", "held#1"]

    def test_a_finished_one_asks_nothing(self, tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        first, silent = ask(log, FakeGenerator(REPLIES)), FakeGenerator(fail_on=1)
        assert ask(log, silent) == first

    def test_another_key_begins_anew(self, tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        ask(log, FakeGenerator(REPLIES))
        other = FakeGenerator()
        found = ask(log, other, key="other")
        assert len(other.requests) == 3
        assert [sample.reply for sample in found] == ["Longest of all", "And 猫 too?", "2 + 2?"]


class TestPlan:
    @pytest.mark.promise1
    @given(st.lists(st.text("ab", max_size=9), max_size=99))
    def test_every_item_once_longest_first(self, texts: list[str]) -> None:
        items = [item(i, text) for i, text in enumerate(texts)]
        batches = list(plan_batches(items))
        order = [i for batch in batches for i in batch]
        assert sorted(order) == list(range(len(items)))
        assert [len(texts[i]) for i in order] == sorted(map(len, texts), reverse=True)
        assert all(len(batch) == run.BATCH for batch in batches[:-1])
        assert all(0 < len(batch) <= run.BATCH for batch in batches)

    def test_equal_lengths_stay_in_order(self) -> None:
        assert list(plan_batches([item(0, "b"), item(1, "ccc"), item(2, "a"), item(3, "ddd")])) == [[1, 3, 0, 2]]


class TestItems:
    def test_a_reply_stands_in_for_targets(self) -> None:
        trained = Example((user("2 + 2?"), assistant("4")))
        given_ = replace(trained, targets=("four",))
        found = as_items([trained, given_, ITEMS[0]])
        assert [each.targets for each in found] == [("4",), ("four",), ("4",)]
        assert found[1:] == [given_, ITEMS[0]]

    @pytest.mark.parametrize("messages", [(user("2 + 2?"),), (user("2 + 2?"), assistant(""))])
    def test_an_item_without_an_answer(self, messages: tuple[Message, ...]) -> None:
        with pytest.raises(DataError) as caught:
            as_items([Example(messages, provenance=Provenance("held.jsonl", 7))])
        assert str(caught.value) == (
            "held.jsonl#7: an evaluation item without an accepted answer\n  do this: end the row with the right answer"
        )


@pytest.mark.promise3
def test_a_real_model_killed_and_resumed(tmp_path: Path, tiny_llama: Path, pairs: None) -> None:
    tokenizer = Tokenizer.load(tiny_llama)
    model = load_model(tiny_llama, torch.float32)
    parts = (Part("Add.", "instruction"), Part("2, 2", "input"))
    items = [*ITEMS[:2], Example((Message("user", parts),), targets=("4",), provenance=Provenance("held", 3))]
    locals_ = [LocalGenerator("tiny", model, chat_format(name, tokenizer)) for name in ("gemma", "plain")]
    whole = ask(tmp_path / "whole.jsonl", *locals_, items=items)
    assert len({sample.reply for sample in whole}) > 3
    assert {sample.finish for sample in whole} <= {"stop", "length"}
    log = tmp_path / "log.jsonl"
    ask(log, *locals_, items=items)
    os.truncate(log, log.stat().st_size // 2)
    assert ask(log, *locals_, items=items) == whole
    assert log.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

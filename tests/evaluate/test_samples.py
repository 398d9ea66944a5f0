"""The log of an evaluation: whatever is written is read again, and half a line is never believed."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shinan.core.errors import DataError, RunError
from shinan.evaluate.samples import Sample, SampleLog, read_samples
from tests.evaluate.answers import answer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SAMPLES = st.builds(
    Sample,
    *[TEXTS] * 7,
    targets=st.lists(TEXTS, max_size=2).map(tuple),
    reply=TEXTS,
    finish=st.sampled_from(["stop", "length"]),
    empty=st.booleans(),
    new_tokens=st.integers(0, 99),
    scores=st.dictionaries(TEXTS, st.none() | st.floats(0, 1), max_size=2),
)


@given(batches=st.lists(st.lists(SAMPLES, max_size=3), max_size=3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_through_the_file_and_back(tmp_path: Path, batches: list[list[Sample]]) -> None:
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    log = SampleLog(path, "key")
    for batch in batches:
        log.append(batch)
    assert read_samples(path) == [sample for batch in batches for sample in batch]
    assert SampleLog(path, "key").rewind([len(batch) for batch in batches]) == len(batches)
    assert len(read_samples(path)) == sum(map(len, batches))


def test_a_line_ends_where_the_file_says_not_where_unicode_does(tmp_path: Path) -> None:
    odd = answer("a#0", 1.0, reply="one\u2028two\u2029three\x85four\x0bfive\x1csix\r\nseven")
    log = SampleLog(tmp_path / "log.jsonl", "key")
    log.append([odd, odd])
    assert read_samples(tmp_path / "log.jsonl") == [odd, odd]
    assert log.rewind([1, 1]) == 2


@pytest.mark.promise3
def test_only_whole_batches_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [answer(f"a#{i}", 1.0) for i in range(6)]
    log = SampleLog(path, "key")
    log.append(rows)
    for batches, whole, kept in (([2, 2, 2], 3, 6), ([4, 4], 1, 4), ([2, 1, 9], 2, 3), ([5], 1, 5), ([], 0, 0)):
        path.unlink()
        log = SampleLog(path, "key")
        log.append(rows)
        assert log.rewind(batches) == whole
        assert read_samples(path) == rows[:kept]


@pytest.mark.promise3
def test_a_log_of_another_key_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "eval" / "log.jsonl"
    SampleLog(path, "one").append([answer("a#0", 1.0)])
    assert SampleLog(path, "one").rewind([1]) == 1
    assert SampleLog(path, "two").rewind([1]) == 0
    assert path.read_bytes() == b""
    SampleLog(path, "two").append([answer("a#0", 1.0)])
    (path.parent / ".log.jsonl.key").unlink()  # a log of which nobody knows what was asked
    assert SampleLog(path, "two").rewind([1]) == 0


@pytest.mark.promise3
def test_a_kill_between_log_and_key_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    SampleLog(path, "one").append([answer("a#0", 1.0)])
    real = Path.replace

    def replace_once(self: Path, target: Path) -> Path:
        if target.name.endswith(".key"):
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_once)
        with pytest.raises(KeyboardInterrupt):
            SampleLog(path, "two")
    for key in ("two", "one"):
        assert SampleLog(path, key).rewind([1]) == 0


@pytest.mark.promise10
def test_a_full_disk_leaves_a_log_that_can_be_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    log = SampleLog(path, "key")
    log.append([answer("a#0", 1.0)])

    def full(_: int) -> None:
        os.truncate(path, path.stat().st_size - 40)  # the disk took a part of it only
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError) as caught:
            log.append([answer("a#1", 1.0)])
    assert str(caught.value).startswith(f"{path}: cannot write: No space left on device\n  do this: free some space")
    assert SampleLog(path, "key").rewind([1, 1]) == 1
    assert read_samples(path) == [answer("a#0", 1.0)]


class TestReading:
    @pytest.mark.promise10
    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            read_samples(tmp_path / "log.jsonl")
        assert str(caught.value) == (
            f"{tmp_path}/log.jsonl: cannot read the evaluation log: No such file or directory\n"
            "  do this: name a log of `shinan run` or `shinan eval`; if it is damaged, delete it and run again"
        )

    @pytest.mark.promise10
    def test_a_file_that_is_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "log.jsonl"
        path.write_bytes(b"\xff\xfe{}\n")
        with pytest.raises(DataError, match=r"log\.jsonl: cannot read the evaluation log: 'utf-8' codec can't decode"):
            read_samples(path)

    @pytest.mark.promise10
    @pytest.mark.parametrize("line", ["{", "[]", "3", '"a"', "", '{"row": "a"}', '{"targets": [], "more": 1}'])
    def test_a_line_that_is_no_sample_is_named(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "log.jsonl"
        SampleLog(path, "key").append([answer("a#0", 1.0)])
        path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
        with pytest.raises(DataError, match=r"log\.jsonl:2: not a sample of an evaluation: .*\n  do this: name a log"):
            read_samples(path)

    def test_targets_are_a_tuple_again_and_samples_equal(self, tmp_path: Path) -> None:
        made = replace(answer("a#0", {"exact": None, "rouge_l": 0.25}), targets=("4",))
        SampleLog(tmp_path / "log.jsonl", "key").append([made])
        [found] = read_samples(tmp_path / "log.jsonl")
        assert (found.targets, found.scores) == (("4",), {"exact": None, "rouge_l": 0.25})


def test_half_a_character_in_a_reply_can_be_kept(tmp_path: Path) -> None:
    odd = answer("a#0", 1.0, reply="half \ud83d of \\ud83d an emoji")
    log = SampleLog(tmp_path / "log.jsonl", "key")
    log.append([odd])
    assert read_samples(tmp_path / "log.jsonl") == [odd]

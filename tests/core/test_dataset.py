"""Artefacts on disk: nothing is lost on the way, and nothing half-written is ever taken for whole."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shinan.core import columns, dataset
from shinan.core.columns import KEPT_SCHEMA
from shinan.core.dataset import (
    MANIFEST,
    Manifest,
    describe_files,
    is_whole,
    iter_rows,
    new_folder,
    read_dropped,
    read_manifest,
    read_rows,
    write_atomic,
    write_manifest,
    write_rows,
    write_stream,
)
from shinan.core.errors import DataError, RunError
from shinan.core.example import Example, Provenance, assistant, user
from shinan.core.verdict import Tally, Verdict
from tests.core.test_example import examples

SPACE = "free some space (`shinan clean` shows what can go)"
KINDS_OF_KILL = [KeyboardInterrupt, SystemExit, ValueError, GeneratorExit]
PAIR = Example((user("2 + 2?"), assistant("4")), provenance=Provenance("sums.jsonl", 7))


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class TestRows:
    @pytest.mark.promise1
    @given(kept=st.lists(examples, max_size=3), lost=st.lists(examples, max_size=3), words=st.text(max_size=5))
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_through_the_file_and_back(
        self, tmp_path: Path, kept: list[Example], lost: list[Example], words: str
    ) -> None:
        dropped = [(row, Verdict.drop(f"reason_{i % 2}", words, words)) for i, row in enumerate(lost)]
        tally = write_rows(tmp_path, kept, dropped)
        assert read_rows(tmp_path) == kept
        assert read_dropped(tmp_path) == dropped
        assert (tally.kept, tally.dropped.total(), tally.seen) == (len(kept), len(lost), len(kept) + len(lost))

    @pytest.mark.promise1
    def test_a_stream_is_told_apart_in_groups(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dataset, "_GROUP", 3)
        rows = [PAIR.at("a", i) for i in range(10)]
        verdict = Verdict.drop("no_template", "why", "integrate")
        tally = write_stream(tmp_path, ((row, verdict) if row.provenance.row % 5 == 0 else row for row in rows))
        assert (tally.seen, tally.kept, dict(tally.dropped)) == (10, 8, {"no_template": 2})
        assert read_rows(tmp_path) == [row for row in rows if row.provenance.row % 5]
        assert read_dropped(tmp_path) == [(rows[0], verdict), (rows[5], verdict)]
        assert pq.ParquetFile(tmp_path / "data.parquet").num_row_groups == 3

    @given(st.lists(examples, max_size=4))
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_columns_hold_what_a_table_of_dicts_holds(self, tmp_path: Path, rows: list[Example]) -> None:
        """pyarrow's own way from dicts to a table, as the first version went, is the reference in both directions."""
        dicts = [row.to_dict() for row in rows]
        for row in dicts:
            row["tags"], row["scores"] = sorted(row["tags"].items()), sorted(row["scores"].items())
        table = pa.Table.from_pylist(dicts, schema=KEPT_SCHEMA)
        write_rows(tmp_path, rows)
        with pq.ParquetFile(tmp_path / "data.parquet") as file:
            assert file.read().equals(table)
        pq.write_table(table, tmp_path / "data.parquet", compression="zstd")
        assert read_rows(tmp_path) == rows

    def test_rows_are_read_group_by_group(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dataset, "_GROUP", 3)
        rows = [PAIR.at("a", i) for i in range(10)]
        write_rows(tmp_path, rows)
        read: list[int] = []
        real = columns.from_batch

        def from_batch(batch: pa.RecordBatch) -> Iterator[Example]:
            read.append(batch.num_rows)
            return real(batch)

        monkeypatch.setattr(dataset, "from_batch", from_batch)
        stream = iter_rows(tmp_path)
        assert [next(stream), next(stream)] == rows[:2]
        assert read == [3]
        assert list(stream) == rows[2:]
        assert read == [3, 3, 3, 1]

    @pytest.mark.parametrize("size", [1, 3, 100])
    def test_how_a_file_is_cut_does_not_matter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        rows = [
            replace(PAIR.at("a", i), targets=("x",) * (i % 3), tags={"n": str(i)} if i % 2 else {}) for i in range(9)
        ]
        write_rows(tmp_path, rows)
        monkeypatch.setattr(dataset, "_GROUP", size)
        assert read_rows(tmp_path) == rows

    @pytest.mark.promise10
    @pytest.mark.parametrize(
        ("column", "hole", "sentence"),
        [
            ("task", None, "row 1 has no task"),
            ("messages", [{"role": "user", "train": None, "parts": [{"kind": "text", "text": None}]}], "a text is"),
            ("tags", [("a", None)], "cannot read it: a text is missing"),
            ("provenance", {"source": "a", "row": None, "licence": "", "maker": "", "parents": []}, "a number is"),
        ],
    )
    def test_a_hole_in_a_table_is_an_error(self, tmp_path: Path, column: str, hole: object, sentence: str) -> None:
        write_rows(tmp_path, [PAIR, PAIR])
        with pq.ParquetFile(tmp_path / "data.parquet") as file:
            table = file.read()
        values = [table[column][0].as_py(), hole]
        at = table.schema.names.index(column)
        holed = table.set_column(at, table.schema.field(column), pa.array(values, table.schema.field(column).type))
        pq.write_table(holed, tmp_path / "data.parquet")
        with pytest.raises(DataError, match=sentence):
            read_rows(tmp_path)

    @pytest.mark.promise1
    def test_the_tally_counts_reasons(self, tmp_path: Path) -> None:
        rows = [PAIR.at("a", i) for i in range(6)]
        verdicts = [Verdict.drop("too_long"), Verdict.drop("empty"), Verdict.drop("too_long", "9 words", "length")]
        tally = write_rows(tmp_path, rows[:3], list(zip(rows[3:], verdicts, strict=True)))
        assert tally.to_dict() == {"seen": 6, "kept": 3, "dropped": {"too_long": 2, "empty": 1}}
        assert [(row.row, verdict) for row, verdict in read_dropped(tmp_path)] == [
            (f"a#{i + 3}", verdict) for i, verdict in enumerate(verdicts)
        ]

    def test_the_columns_are_what_other_tools_read(self, tmp_path: Path) -> None:
        write_rows(tmp_path, [replace(PAIR, tags={"b": "1", "a": "2"})])
        [row] = pq.read_table(tmp_path / "data.parquet").to_pylist()
        assert row["messages"][0] == {"role": "user", "train": None, "parts": [{"kind": "text", "text": "2 + 2?"}]}
        assert (row["id"], row["tags"], row["thumb"]) == (PAIR.id, [("a", "2"), ("b", "1")], None)
        assert row["provenance"]["row"] == 7

    def test_a_folder_named_like_a_partition_is_only_a_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "task=sums"
        folder.mkdir()
        write_rows(folder, [replace(PAIR, task="other")])
        assert read_rows(folder)[0].task == "other"

    @pytest.mark.promise10
    def test_half_a_surrogate_pair_is_told_with_its_row(self, tmp_path: Path) -> None:
        bad = Example((user("x \ud800"),), provenance=Provenance("b.jsonl", 4))
        with pytest.raises(DataError) as caught:
            write_rows(tmp_path, [PAIR, bad])
        assert str(caught.value) == (
            "b.jsonl#4: text that is not valid Unicode (a lone surrogate, '\\ud800')\n  do this: repair or drop the row"
        )
        with pytest.raises(DataError, match=r"b\.jsonl#4: "):
            write_rows(tmp_path, [PAIR], [(PAIR, Verdict.drop("a")), (bad, Verdict.drop("b"))])

    @pytest.mark.promise10
    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
    def test_a_cut_file_is_an_error(self, tmp_path: Path, share: float) -> None:
        write_rows(tmp_path, [PAIR] * 20)
        path = tmp_path / "data.parquet"
        os.truncate(path, int(path.stat().st_size * share))
        with pytest.raises(DataError) as caught:
            read_rows(tmp_path)
        assert re.fullmatch(
            rf"{re.escape(str(path))}: cannot read it: .*\n  do this: delete the stage's folder and run again",
            str(caught.value),
        )

    @pytest.mark.promise10
    def test_a_flipped_byte_is_an_error_or_changes_nothing(self, tmp_path: Path) -> None:
        rows = [PAIR.at("a", i) for i in range(3)]
        write_rows(tmp_path, rows)
        path = tmp_path / "data.parquet"
        whole = path.read_bytes()
        errors = 0
        for at in range(0, len(whole), len(whole) // 60):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            try:
                found = read_rows(tmp_path)
            except DataError:
                errors += 1
            else:
                assert len(found) == 3
        assert errors > 20

    @pytest.mark.promise10
    @pytest.mark.parametrize("read", [read_rows, read_dropped])
    def test_a_missing_file_is_an_error(self, tmp_path: Path, read: Callable[[Path], object]) -> None:
        with pytest.raises(DataError, match=r"\.parquet: cannot read it: .*No such file"):
            read(tmp_path)

    @pytest.mark.promise10
    def test_a_table_of_someone_else_is_an_error(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"id": ["1"], "messages": [None], "text": ["a"]}), tmp_path / "data.parquet")
        with pytest.raises(DataError, match="no rows of shinan: it lacks the columns task, rejected, targets, choices"):
            read_rows(tmp_path)

    @pytest.mark.promise10
    def test_a_row_changed_by_hand_is_an_error(self, tmp_path: Path) -> None:
        write_rows(tmp_path, [PAIR])
        table = pq.read_table(tmp_path / "data.parquet")
        changed = table.set_column(table.schema.names.index("id"), "id", pa.array(["b2:0"]))
        pq.write_table(changed, tmp_path / "data.parquet")
        with pytest.raises(DataError, match=r"sums\.jsonl#7: the stored id is not the hash of the row's content"):
            read_rows(tmp_path)


@pytest.mark.promise10
class TestWriteAtomic:
    def test_folders_are_made_and_text_is_utf_8(self, tmp_path: Path) -> None:
        write_atomic(tmp_path / "a" / "b" / "c.txt", "指南\n")
        assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "指南\n".encode()
        write_atomic(tmp_path / "a" / "b" / "c.txt", b"\x00\xff")
        assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"\x00\xff"
        assert files_under(tmp_path) == ["a", "a/b", "a/b/c.txt"]

    @pytest.mark.parametrize("kind", [*KINDS_OF_KILL, OSError])
    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_failure_leaves_the_old_file_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException], step: str
    ) -> None:
        path = tmp_path / "a.txt"
        path.write_text("old", "utf-8")
        target: Any = os if step == "fsync" else Path

        def fail(*_: object) -> None:
            raise kind(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(target, step, fail)
            with pytest.raises(RunError if kind is OSError else kind):
                write_atomic(path, "new")
        assert path.read_text("utf-8") == "old"
        assert files_under(tmp_path) == ["a.txt"]

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RunError) as caught:
            write_atomic(tmp_path / "file" / "a.txt", "x")
        assert str(caught.value) == (
            f"{tmp_path}/file/a.txt: cannot write: File exists\n  do this: choose a folder you may write to"
        )
        (tmp_path / "folder").mkdir()
        with pytest.raises(RunError, match="folder: cannot write: Is a directory"):
            write_atomic(tmp_path / "folder", "x")
        assert files_under(tmp_path) == ["file", "folder"]


@pytest.mark.promise10
class TestNewFolder:
    def test_it_appears_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "runs" / "a"
        with new_folder(path) as beside:
            (beside / "x").write_text("1", "utf-8")
            assert not path.exists()
        assert files_under(tmp_path) == ["runs", "runs/a", "runs/a/x"]

    def test_an_older_one_is_replaced_as_a_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        for name in ("old", "new"):
            with new_folder(path) as beside:
                (beside / name).touch()
                assert (path / "old").exists() == (name == "new")
        assert files_under(tmp_path) == ["a", "a/new"]

    @pytest.mark.parametrize("kind", KINDS_OF_KILL)
    @pytest.mark.parametrize("before", [False, True])
    def test_a_failure_leaves_what_was_there(self, tmp_path: Path, kind: type[BaseException], before: bool) -> None:
        path = tmp_path / "a"
        if before:
            path.mkdir()
            (path / "old").touch()

        def fail() -> None:
            with new_folder(path) as beside:
                (beside / "x").touch()
                raise kind

        with pytest.raises(kind):
            fail()
        assert files_under(tmp_path) == (["a", "a/old"] if before else [])

    @pytest.mark.promise3
    def test_what_a_killed_run_left_beside_is_no_part_of_the_next(self, tmp_path: Path) -> None:
        (tmp_path / ".a.tmp").mkdir()
        (tmp_path / ".a.tmp" / "half").touch()
        with new_folder(tmp_path / "a") as beside:
            (beside / "x").touch()
        assert files_under(tmp_path) == ["a", "a/x"]

    @pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
    @pytest.mark.parametrize("renames", [0, 1])
    def test_a_failure_while_replacing_puts_the_old_one_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException], renames: int
    ) -> None:
        path = tmp_path / "a"
        path.mkdir()
        (path / "old").touch()
        real, done = Path.rename, []

        def rename(self: Path, target: Path) -> Path:
            done.append(target)
            if len(done) == renames + 1:
                raise kind(errno.EACCES, "Permission denied")
            return real(self, target)

        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(RunError if kind is OSError else kind), new_folder(path) as beside:
            (beside / "new").touch()
        assert files_under(tmp_path) == ["a", "a/old"]

    @pytest.mark.promise3
    def test_a_kill_while_replacing_is_mended_by_the_next(self, tmp_path: Path) -> None:
        """The state between the two renames, as SIGKILL leaves it: the old folder is moved away, the new one beside."""
        for name in (".a.old", ".a.tmp"):
            (tmp_path / name).mkdir()
            (tmp_path / name / name[3:]).touch()
        with suppress(ValueError), new_folder(tmp_path / "a"):
            assert files_under(tmp_path / "a") == ["old"]
            raise ValueError
        assert files_under(tmp_path) == ["a", "a/old"]

    def test_a_file_in_the_way_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine", "utf-8")
        with pytest.raises(RunError, match="file: cannot write: Not a directory"), new_folder(tmp_path / "file"):
            pass
        with pytest.raises(RunError, match="a: cannot write: Not a directory"), new_folder(tmp_path / "file" / "a"):
            pytest.fail("the work must not begin")
        assert (tmp_path / "file").read_text("utf-8") == "mine"
        assert files_under(tmp_path) == ["file"]

    def test_an_error_of_the_work_itself_stays_what_it_is(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="absent"), new_folder(tmp_path / "a"):
            (tmp_path / "absent").read_text("utf-8")
        with pytest.raises(ConnectionResetError), new_folder(tmp_path / "a"):
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        with pytest.raises(RunError, match="a: cannot write: No such file"), new_folder(tmp_path / "a") as beside:
            (beside / "b" / "c").write_text("", "utf-8")
        assert files_under(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if not mount or os.geteuid() or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 32 KiB: what every user can have instead of a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def _noise(n: int) -> Example:
    return Example((user(os.urandom(n).hex()),))


@pytest.mark.promise10
class TestFullDisk:
    def test_a_file(self, small_disk: Path) -> None:
        path = small_disk / "a.txt"
        write_atomic(path, "old")
        with pytest.raises(RunError) as caught:
            write_atomic(path, b"x" * 100_000)
        assert str(caught.value) == f"{path}: cannot write: No space left on device\n  do this: {SPACE}"
        assert path.read_text("utf-8") == "old"
        assert files_under(small_disk) == ["a.txt"]

    def test_a_dataset(self, small_disk: Path) -> None:
        path = small_disk / "stage"
        with new_folder(path) as beside:
            write_rows(beside, [PAIR])
        with pytest.raises(RunError) as caught, new_folder(path) as beside:
            write_rows(beside, [_noise(100_000)])
        assert str(caught.value) == f"{path}: cannot write: No space left on device\n  do this: {SPACE}"
        assert read_rows(path) == [PAIR]
        assert files_under(small_disk) == ["stage", "stage/data.parquet", "stage/dropped.parquet"]

    def test_a_file_that_may_not_grow(self, tmp_path: Path, small_files: None) -> None:
        with pytest.raises(RunError, match=r"a\.txt: cannot write: File too large"):
            write_atomic(tmp_path / "a.txt", b"x" * 100_000)
        with pytest.raises(RunError, match="stage: cannot write: File too large"), new_folder(tmp_path / "stage") as at:
            write_rows(at, [_noise(100_000)])
        assert files_under(tmp_path) == []

    def test_a_disk_that_is_read_only(self, small_disk: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(RunError, match=r"a\.txt: cannot write: Read-only file system\n  do this: choose a folder"):
            write_atomic(small_disk / "a.txt", "x")
        with pytest.raises(RunError, match="stage: cannot write: Read-only"), new_folder(small_disk / "stage"):
            pytest.fail("the work must not begin")


class TestManifest:
    MADE = Manifest("curate", "curate", "b2:1", ("b2:0",), {"kind": "curate"}, {"seen": 1}, {"loss": 2.5}, seconds=1.5)

    def test_through_the_file_and_back(self, tmp_path: Path) -> None:
        write_manifest(tmp_path, self.MADE)
        found = read_manifest(tmp_path)
        assert found is not None
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.created)
        assert replace(found, created="") == self.MADE

    @pytest.mark.parametrize(
        "text", [None, "", "{", "[]", "null", '"a"', "{}", '{"stage": "a"}', '{"parents": [], "more": 1}', "\xff"]
    )
    def test_what_is_no_manifest_is_none(self, tmp_path: Path, text: str | None) -> None:
        if text is not None:
            (tmp_path / MANIFEST).write_text(text, "latin-1")
        assert read_manifest(tmp_path) is None

    @pytest.mark.promise10
    def test_a_cut_manifest_is_none_at_every_length(self, tmp_path: Path) -> None:
        write_manifest(tmp_path, self.MADE)
        whole = (tmp_path / MANIFEST).read_bytes()
        for size in range(len(whole) - 2):
            (tmp_path / MANIFEST).write_bytes(whole[:size])
            assert read_manifest(tmp_path) is None

    def test_files_are_described_and_looked_for(self, tmp_path: Path) -> None:
        folder = tmp_path / "stage"
        folder.mkdir()
        (folder / "a").write_bytes(b"abc")
        (tmp_path / "b").write_bytes(b"")
        files = describe_files(folder, ["a", "../b"])
        # sha256 of "abc" is the first example of FIPS 180-2, appendix B
        assert files == {
            "../b": {"bytes": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
            "a": {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        }
        manifest = replace(self.MADE, files=files)
        assert is_whole(folder, manifest)
        (folder / "a").write_bytes(b"ab")
        assert not is_whole(folder, manifest)
        (folder / "a").unlink()
        assert not is_whole(folder, manifest)
        assert is_whole(folder, self.MADE)


def test_the_manifest_is_the_last_file_of_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any write: a folder at its final place always has a manifest whose files are all there."""
    real = dataset.write_atomic
    for kill in ("rows", "manifest", "rename", "never"):
        folder = tmp_path / kill

        def write(path: Path, content: bytes | str, kill: str = kill) -> None:
            if kill == "manifest":
                raise KeyboardInterrupt
            real(path, content)

        def rename(self: Path, target: Path, kill: str = kill) -> Path:
            if kill == "rename":
                raise KeyboardInterrupt
            os.rename(self, target)
            return Path(target)

        def stage(folder: Path = folder, kill: str = kill) -> None:
            with new_folder(folder) as beside:
                tally: Tally = write_rows(beside, [PAIR])
                if kill == "rows":
                    raise KeyboardInterrupt
                files = describe_files(beside, ["data.parquet", "dropped.parquet"])
                write_manifest(beside, Manifest("a", "a", "k", tally=tally.to_dict(), files=files))

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(dataset, "write_atomic", write)
            patch.setattr(Path, "rename", rename)
            stage()
        manifest = read_manifest(folder)
        assert (manifest is not None) == folder.exists() == (kill == "never")
        assert manifest is None or (is_whole(folder, manifest) and json.loads(json.dumps(manifest.tally))["kept"] == 1)

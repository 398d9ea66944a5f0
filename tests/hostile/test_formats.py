"""Files of rows from strangers: each is read, or refused with a sentence; nothing else happens and nothing is left."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shinan import formats
from shinan.build.files import file
from shinan.core.dataset import new_folder, read_rows, write_rows
from shinan.core.errors import DataError, RunError, ShinanError
from shinan.core.example import Example, assistant, user
from shinan.core.registry import bind
from shinan.formats import rows as rows_module
from tests.hostile.corpus import Bad, data_files

SEED = 20
CORPUS = list(data_files(SEED))
LONGEST = 20_000  # characters of an error, up to 20 rows of it


def put(folder: Path, bad: Bad) -> Path:
    path = folder / bad.name
    path.write_bytes(bad.content)
    return path


def outcome(path: Path, room: Path) -> str:
    """`imported` or `refused`; asserts that what is written into the empty folder `room` is whole, then removes it."""
    out = room / "rows"
    try:
        with new_folder(out) as beside:
            examples = file(0, path=str(path))
            write_rows(beside, examples)
    except ShinanError as error:
        told(error, path.name)
        assert not list(room.iterdir()), f"{path.name}: something was left behind"
        return "refused"
    assert read_rows(out) == examples, path.name
    rmtree(out)
    return "imported"


def told(error: ShinanError, name: str) -> None:
    """What, where and do this, in a text that any terminal can show."""
    assert error.what, name
    assert name in error.where, error
    assert error.fix, error
    text = str(error)
    assert len(text) < LONGEST, f"{name}: {len(text)} characters of error"
    text.encode("utf-8")


@pytest.mark.promise10
def test_the_corpus_is_large_and_always_the_same() -> None:
    assert len(CORPUS) > 500
    assert len({bad.name for bad in CORPUS}) == len(CORPUS)
    assert CORPUS[::7] == list(data_files(SEED))[::7]
    assert list(data_files(SEED + 1)) != CORPUS


@pytest.mark.promise10
def test_every_bad_file_is_imported_whole_or_refused_with_a_sentence(tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    outcomes = {bad.name: outcome(put(tmp_path / "in", bad), tmp_path / "out") for bad in CORPUS}
    counts = {kind: list(outcomes.values()).count(kind) for kind in ("imported", "refused")}
    assert counts["refused"] > 500, counts
    assert counts["imported"] > 50, counts  # some damage leaves a good file


@pytest.mark.promise10
@given(st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz"]), st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, ending: str, content: bytes) -> None:
    folder, room = tmp_path_factory.mktemp("any"), tmp_path_factory.mktemp("out")
    assert outcome(put(folder, Bad(f"a{ending}", content)), room) in ("imported", "refused")


# ---- what is no file ----


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of things that are named like files of rows."""
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "ping.json").symlink_to("pong.json")
    (tmp_path / "pong.json").symlink_to("ping.json")
    (tmp_path / "dangling.csv").symlink_to("nowhere.csv")
    (tmp_path / "under.jsonl").write_text("{}")
    return tmp_path


@pytest.mark.promise10
@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("folder.jsonl", "this is a folder, not a file", "name one file"),
        ("loop.jsonl", "no such file", "under.jsonl"),
        ("ping.json", "no such file", "under.jsonl"),
        ("dangling.csv", "no such file", "under.jsonl"),
        ("under.jsonl/a.jsonl", "no such file", "there is no folder "),
        ("a" * 300 + ".jsonl", "cannot read it: ", "name a file that you may read"),
        ("a\0b.jsonl", "no such file", "under.jsonl"),
    ],
)
def test_what_is_no_file_is_refused(odd: Path, name: str, what: str, fix: str) -> None:
    with pytest.raises(DataError) as caught:
        formats.read(odd / name)
    assert caught.value.what.startswith(what)
    assert fix in caught.value.fix
    assert name not in caught.value.fix
    # a plan asks for the content of the file before anyone reads it
    assert bind("build", "file", {"path": str(odd / name)}).identity()["content"] == ""


_AS_NOBODY = """
import os, sys
from shinan.build.files import _content, file
from shinan.core.errors import DataError
if os.geteuid() == 0:
    os.seteuid(65534)
assert _content({"path": sys.argv[1]}) == ""
try:
    file(0, path=sys.argv[1])
except DataError as error:
    print(error)
"""


@pytest.mark.promise10
def test_a_file_that_may_not_be_read() -> None:
    with TemporaryDirectory() as name:
        path = put(Path(name), Bad("secret.jsonl", b'{"prompt": "a", "completion": "b"}\n'))
        path.chmod(0)
        path.parent.chmod(0o755)
        command = [sys.executable, "-c", _AS_NOBODY, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"{path}: cannot read it: [Errno 13] Permission denied"), done.stderr
    assert done.stdout.endswith("do this: name a file that you may read\n")


# ---- size ----


@pytest.mark.promise10
def test_what_is_too_large_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_LONGEST_LINE", 3 << 20)
    monkeypatch.setattr(rows_module, "_LARGEST_WHOLE", 3 << 20)
    bomb = gzip.compress(b'{"prompt": "' + b" " * (4 << 20))
    assert len(bomb) < 10_000
    sentences = {
        "a.jsonl.gz": ":1: a line of more than 3 MB\n  do this: write one row a line",
        "a.csv.gz": ":1: a line of more than 3 MB\n  do this: write one row a line",
        "a.json.gz": ":1: more than 3 MB, and this kind of file is read whole\n  do this: write one row a line",
        "a.parquet.gz": ":1: more than 3 MB, and this kind of file is read whole\n  do this: unpack the .gz file",
    }
    for name, sentence in sentences.items():
        path = put(tmp_path, Bad(name, bomb))
        with pytest.raises(DataError) as caught:
            formats.read(path, "completion")
        assert str(caught.value).startswith(f"{path}{sentence}")


@pytest.mark.slow
@pytest.mark.promise10
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".jsonl.gz"])
def test_a_line_of_100_megabytes(tmp_path: Path, ending: str) -> None:
    text = b"a" * 100_000_000
    if ending == ".csv":
        content = b"prompt,completion\nx," + text + b"\n"
    else:
        row = b'{"prompt": "x", "completion": "' + text + b'"}'
        content = b"[" + row + b"]" if ending == ".json" else row
    path = put(tmp_path, Bad(f"a{ending}", gzip.compress(content, 1) if ending.endswith("gz") else content))
    (tmp_path / "out").mkdir()
    assert outcome(path, tmp_path / "out") == ("refused" if ending == ".csv" else "imported")


@pytest.mark.promise10
@pytest.mark.parametrize(
    "content",
    [
        '{"messages": [{"role": "' + "ab" * 4_000_000 + '", "content": "a"}]}',
        '{"conversations": [{"from": "' + "ab" * 4_000_000 + '"}]}',
        '{"messages": [{"role": "user", "content": [{"type": "' + "x" * 8_000_000 + '"}]}]}',
        '{"messages": [{"role": "assistant", "content": "a", "weight": [' + "1, " * 1_000_000 + "1]}]}",
        "{" + ", ".join(f'"{n}": 1' for n in [*range(200_000), 199_999]) + "}",
    ],
    ids=["role", "from", "type", "weight", "keys"],
)
def test_what_is_long_is_told_in_few_words_and_soon(tmp_path: Path, content: str) -> None:
    start = time.process_time()
    with pytest.raises(DataError) as caught:
        formats.read(put(tmp_path, Bad("a.jsonl", content.encode())))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert time.process_time() - start < 2.5


# ---- writing ----

_GOOD = Example((user("a"), assistant("b")))


@pytest.mark.promise10
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("text", ["\ud800", "a\0b", ""], ids=["surrogate", "nul", "none"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, ending: str, text: str) -> None:
    path = tmp_path / f"a{ending}"
    formats.write([_GOOD], path, "completion")
    old = path.read_bytes()
    with pytest.raises(DataError):
        formats.write([_GOOD, Example((user("a"), assistant(text)))] if text else [], path, "completion")
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.promise10
@pytest.mark.parametrize("name", ["folder.jsonl", "loop/a.jsonl", "under.jsonl/a.jsonl", "a" * 300 + ".jsonl"])
def test_a_place_that_cannot_be_written_gets_a_sentence(odd: Path, name: str) -> None:
    (odd / "loop").symlink_to("loop")
    before = sorted(os.listdir(odd))
    with pytest.raises(RunError, match="cannot write: "):
        formats.write([_GOOD], odd / name, "completion")
    assert sorted(os.listdir(odd)) == before

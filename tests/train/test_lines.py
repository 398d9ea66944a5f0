"""Files of one JSON line a step: a line ends where the file says, and half a line is never kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from shinan.train import lines

ODD = "one\u2028two\u2029three\x85four\x0bfive\x1csix\r\nseven"


@pytest.mark.promise3
def test_what_a_reply_holds_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    written = [{"step": step, "reply": ODD} for step in (1, 2, 3)]
    for line in written:
        lines.append(path, line)
    assert lines.read(path) == written
    with path.open("ab") as stream:
        stream.write('{"step": 2, "reply": "あ'.encode()[:-1])
    lines.rewind(path, 2)
    assert lines.read(path) == written[:2]
    lines.rewind(path, 0)
    assert path.read_bytes() == b""
    assert lines.read(path) == []

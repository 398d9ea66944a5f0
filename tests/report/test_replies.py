"""Sample replies of a run on its page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shinan.core.errors import DataError
from shinan.report.collect import collect
from shinan.report.html import render


def _with(run: Path, copy: Path, *lines: object) -> Path:
    shutil.copytree(run, copy)
    (copy / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return copy


def test_replies_are_shown_in_order_and_stay_text(run: Path, tmp_path: Path) -> None:
    said = {"row": "toy#1", "prompt": "Name a river.", "target": "Nile"}
    lines = [said | {"step": 0, "reply": "<script>x</script>"}, said | {"step": 7, "reply": "The Danube"}]
    page = render(collect(_with(run, tmp_path / "run", *lines)))
    assert "Replies while tuning went on: toy#1" in page
    assert page.count("Name a river.") == 1
    assert "<script>" not in page
    assert page.index("&lt;script&gt;x") < page.index("The Danube")
    assert "Replies while tuning" not in render(collect(run))


def test_a_damaged_file_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"samples\.jsonl: not a sample reply"):
        collect(_with(run, tmp_path / "run", {"step": 1}))

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Shinan


def test_the_report_of_a_run_is_written_again(mine: Path, shinan: Shinan) -> None:
    page, summary = (mine / "runs/mini" / name for name in ("report.html", "summary.json"))
    done = shinan("report", "runs/mini")
    assert done.code == 0
    assert done.out.endswith(f"report: {page.relative_to(mine)}\n")
    assert "ROUGE-L" in done.out
    assert page.read_text("utf-8").startswith("<!")
    assert json.loads(summary.read_text("utf-8"))["recipe"] == "mini"
    first = page.read_bytes()
    page.unlink()
    assert shinan("report", "runs/mini").code == 0
    assert page.read_bytes() == first


def test_a_folder_that_is_no_run_is_explained(place: Path, shinan: Shinan) -> None:
    done = shinan("report", ".")
    assert done.code == 1
    assert "this is no run folder" in done.err
    assert list(place.iterdir()) == []

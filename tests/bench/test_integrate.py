"""The benchmark of PromptSource's templates: what is applied, and that both of our sides do all of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench import integrate
from bench.p3_rows import rendered


@pytest.fixture
def p3() -> Path:
    """The folder of promptsource's templates and of what they once wrote, or a skip."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SHINAN_TEST_DATA", beside)) / "p3"
    if not folder.is_dir():
        pytest.skip("no data folder: set SHINAN_TEST_DATA")
    return folder


def test_both_sides_of_ours_apply_the_same(p3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = [old for old in rendered(p3) if old.dataset in ("glue/mrpc", "squad_v2", "trec", "paws/labeled_final")][::10]
    monkeypatch.setattr(integrate, "rendered", lambda folder: iter(some))
    cases = list(integrate.cases(p3, repeat=2))
    named = {(case["templates"], name) for case in cases for name in case["names"]}
    assert {Path(path).parts[-3] for path, _ in named} == {"glue", "paws"}  # a row of TREC has no label
    assert len({name for path, name in named if "mrpc" in path}) == 7
    work = tmp_path / "work.json"
    work.write_text(json.dumps(cases), "utf-8")
    count = sum(len(case["rows"]) * len(case["names"]) for case in cases)
    applied, built = integrate.apply(work), integrate.component(work)
    assert applied["rows"] == built["rows"] == count > 2 * 24 * 6
    assert built["dropped"] > 0  # templates that turn the task round want a certain label
    for result in (applied, built):
        assert all(result[metric] > 0 for metric in integrate.METRICS)

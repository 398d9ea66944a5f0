"""A finished run, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from shinan.report.collect import Report, collect
from tests.report.fake_run import make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder; not to be changed."""
    return make_run(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="session")
def report(run: Path) -> Report:
    """The Report of that folder."""
    return collect(run)
